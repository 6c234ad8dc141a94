"""Ray clusters of several nodes on this machine, as processes that can be killed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.lean_ray import LEAN
from tests.servers import free_port

REPOSITORY = Path(__file__).parents[2]


class Nodes:
    """A cluster of `ray start` processes on this machine, each node with its own raylet."""

    def __init__(self, folder: Path) -> None:
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token", "HOME": str(folder)}
        self.environment |= {
            "RAY_worker_niceness": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "PYTHONPATH": str(REPOSITORY),
            "RAY_TMPDIR": tempfile.mkdtemp(prefix="nodes-"),  # `auto` means this cluster here, and nowhere else
        }
        self.environment.pop("RAY_ADDRESS", None)
        self.ray = str(Path(sys.executable).parent / "ray")
        self.port, self.dashboard = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._more: list[Mapping[str, str]] = []  # of each node's environment
        self.log = (folder / "ray.log").open("ab")
        token = folder / ".ray" / "auth_token"  # as `ray get-auth-token --generate` writes it
        token.parent.mkdir(exist_ok=True)
        if not token.exists():
            token.write_text(secrets.token_hex(32))

    def start_head(self, cpus: int, dashboard: bool = False) -> None:
        self._start(
            "--head", f"--port={self.port}", f"--num-cpus={cpus}", "--node-ip-address=127.0.0.1",
            f"--include-dashboard={'true' if dashboard else 'false'}", f"--dashboard-port={self.dashboard}",
            "--object-store-memory=100000000", "--disable-usage-stats", f"--ray-client-server-port={free_port()}",
        )  # fmt: skip

    def start_node(self, cpus: int, label: str = "", **environment: str) -> int:
        """Its number. `label`: of the key `name`."""
        labels = (f"--labels=name={label}",) if label else ()
        return self._start(
            f"--address={self.address}", f"--num-cpus={cpus}", "--object-store-memory=100000000",
            "--node-ip-address=127.0.0.1", "--disable-usage-stats", *labels, environment=environment,
        )  # fmt: skip

    def give_notice(self, label: str) -> None:
        """As a cloud does before it takes a node back."""
        code = """if True:
            import logging, ray, sys, time
            from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION
            ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
            named = (n for n in ray.nodes() if n["Alive"] and n["Labels"].get("name") == sys.argv[2])
            # As `ray drain-node` does, which takes two seconds of processor time to start.
            deadline_ms = int(1000 * time.time()) + 3_600_000
            gcs = ray._raylet.GcsClient(address=sys.argv[1])
            told = gcs.drain_node(next(named)["NodeID"], DRAIN_NODE_REASON_PREEMPTION, "a test", deadline_ms)
            assert told[0], told[1]
        """
        command = [sys.executable, "-c", code, self.address, label]
        subprocess.run(command, env=self.environment, check=True, stdout=self.log, stderr=self.log)

    def restart_failed(self) -> None:
        """`ray start` gives up after 30 s on a busy machine."""
        for index, node in enumerate(self.nodes):
            if node.poll() not in (None, -signal.SIGKILL):
                self.kill(index)
                arguments = node.args[node.args.index("--block") + 1 :]
                self.nodes[index] = self._spawn(*arguments, environment=self._more[index])

    def _start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> int:
        self._more.append(environment or {})
        self.nodes.append(self._spawn(*arguments, environment=self._more[-1]))
        return len(self.nodes) - 1

    def _spawn(self, *arguments: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        # Another cluster on this machine has taken the default ports: its agent would be taken for this one's, and its
        # workers would bind the ports that this one gives its own.
        ports = [
            f"--{name}-port={free_port()}"
            for name in ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export")
        ]
        ports += ["--min-worker-port=0", "--max-worker-port=0"]  # any that is free
        whole = "--include-dashboard=true" in arguments
        ray = [self.ray] if whole else [sys.executable, "-m", "tests.lean_ray"]
        command = [*ray, "start", "--block", *arguments, *ports, *(LEAN if whole else ())]
        environment = self.environment | dict(environment)
        return subprocess.Popen(
            command, env=environment, cwd=REPOSITORY, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def kill(self, number: int) -> None:
        """As if the machine lost power: its processes all at once."""
        node = self.nodes[number]
        for pid in family(node.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def stop(self) -> None:
        for number in reversed(range(len(self.nodes))):
            self.kill(number)
        self.log.close()
        shutil.rmtree(self.environment["RAY_TMPDIR"], ignore_errors=True)


def family(root: int) -> list[int]:
    """The process, all below it, and all of its session (whose parents may be gone), as /proc shows them."""
    children: dict[int, list[int]] = {}
    session = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            if int(fields[3]) == root:
                session.append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return list(dict.fromkeys(found + session))


def command(pid: int) -> bytes:
    """Its command line; nothing where there is no such process (any more)."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def wait_for_nodes(cluster: Nodes, count: int, timeout_s: float = 240.0) -> None:
    """One process asks again and again: to start one takes longer than Ray does."""
    code = """if True:
        import logging, ray, sys, time
        while True:
            try:
                ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
                break
            except Exception as error:
                print(error, file=sys.stderr, flush=True)
                ray.shutdown()
                time.sleep(0.5)
        while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
            time.sleep(0.2)
    """
    command = [sys.executable, "-c", code, cluster.address, str(count)]
    end = time.monotonic() + timeout_s
    asking = subprocess.Popen(command, env=cluster.environment, stdout=cluster.log, stderr=cluster.log)
    try:
        while asking.poll() is None:
            if time.monotonic() > end:
                raise AssertionError(f"no cluster of {count} nodes: {Path(cluster.log.name).read_text()[-2000:]}")
            cluster.restart_failed()
            time.sleep(0.2)
    finally:
        asking.kill()
        asking.wait()
    assert asking.returncode == 0, Path(cluster.log.name).read_text()[-2000:]
