"""Two nodes, one of which goes away in the middle; and a job submitted to a cluster."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sam3ray.failures import Reason
from sam3ray.store import RunStore, verify_run
from tests.e2e.clips import write_clips
from tests.e2e.runs import PROMPTS, assert_same_annotations, config_for, start_driver
from tests.e2e.test_kills import finished, wait_until

REPOSITORY = Path(__file__).parents[2]


class Nodes:
    """A cluster of `ray start` processes on this machine, each node with its own raylet."""

    def __init__(self, folder: Path) -> None:
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token", "HOME": str(folder)}
        self.environment |= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "PYTHONPATH": str(REPOSITORY)}
        self.environment.pop("RAY_ADDRESS", None)
        self.ray = str(Path(sys.executable).parent / "ray")
        self.port, self.dashboard = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.log = (folder / "ray.log").open("ab")
        subprocess.run([self.ray, "get-auth-token", "--generate"], env=self.environment, check=True, stdout=self.log)

    def start_head(self, cpus: int, dashboard: bool = False) -> None:
        self._start(
            "--head", f"--port={self.port}", f"--num-cpus={cpus}", "--node-ip-address=127.0.0.1",
            f"--include-dashboard={'true' if dashboard else 'false'}", f"--dashboard-port={self.dashboard}",
            "--object-store-memory=100000000", "--disable-usage-stats",
        )  # fmt: skip

    def start_node(self, cpus: int) -> subprocess.Popen[bytes]:
        return self._start(
            f"--address={self.address}", f"--num-cpus={cpus}", "--object-store-memory=100000000",
            "--node-ip-address=127.0.0.1", "--disable-usage-stats",
        )  # fmt: skip

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        # In a session of its own, so that a whole node can be killed by its process group.
        process = subprocess.Popen(
            [self.ray, "start", "--block", *arguments],
            env=self.environment,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self.nodes.append(process)
        return process

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """As if the machine lost power: its processes all at once."""
        for pid in descendants(node.pid):
            with_suppress(pid)
        node.wait()

    def stop(self) -> None:
        for node in reversed(self.nodes):
            if node.poll() is None:
                self.kill(node)
        self.log.close()


def descendants(root: int) -> list[int]:
    """The process and all below it, parents first, as /proc shows them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def with_suppress(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    cluster = Nodes(tmp_path)
    yield cluster
    cluster.stop()


def wait_for_nodes(cluster: Nodes, count: int, timeout_s: float = 90.0) -> None:
    code = (
        "import ray, sys, logging; ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False);"
        "sys.exit(sum(n['Alive'] for n in ray.nodes()) < int(sys.argv[2]))"
    )
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        done = subprocess.run(
            [sys.executable, "-c", code, cluster.address, str(count)], env=cluster.environment, capture_output=True
        )
        if done.returncode == 0:
            return
        time.sleep(1.0)
    raise AssertionError(f"no cluster of {count} nodes: {done.stderr[-2000:]!r}")


def test_a_lost_node_loses_nothing_and_charges_nobody(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_clips(tmp_path / "clips", 10, frames=20)
    nodes.start_head(cpus=1)
    wait_for_nodes(nodes, 1)
    doomed = nodes.start_node(cpus=1)
    wait_for_nodes(nodes, 2)
    for name in ("HOME", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, nodes.environment[name])
    output = tmp_path / "run"
    # One actor per node; with one try per crash, a charge for the lost node would fail its clip.
    config = config_for(manifest, output, cpus=1, cluster={"address": nodes.address}, retry={"crashes": 1})
    driver = start_driver(config, tmp_path, frame_s=0.1)
    wait_until(lambda: finished(output) >= 3, driver)
    nodes.kill(doomed)
    assert driver.wait(timeout=240) == 0
    assert finished(output) == 10
    assert verify_run(str(output)) == []
    reasons = {failure.reason for failure in RunStore(str(output)).failures()}
    assert reasons <= {Reason.PREEMPTED}
    undisturbed = tmp_path / "whole"
    again = start_driver(config_for(manifest, undisturbed), tmp_path)
    assert again.wait(timeout=120) == 0
    assert_same_annotations(output, undisturbed)


def test_submitted_job(nodes: Nodes, tmp_path: Path) -> None:
    """`ray job submit -- python jobs/prelabel.py CONFIG`, as in configs/deploy."""
    manifest = write_clips(tmp_path / "clips", 2, frames=6)
    config: dict[str, Any] = config_for(manifest, tmp_path / "run").model_dump(mode="json")
    config = {key: config[key] for key in ("manifest", "output", "cluster")} | {"prompts": list(PROMPTS)}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    nodes.start_head(cpus=2, dashboard=True)
    wait_for_nodes(nodes, 1)
    command = [
        nodes.ray, "job", "submit", "--address", f"http://127.0.0.1:{nodes.dashboard}", "--",
        sys.executable, str(REPOSITORY / "tests/e2e/submitted.py"), str(path),
    ]  # fmt: skip
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(command, env=nodes.environment, capture_output=True, text=True, timeout=200)
        if done.returncode == 0 or "Failed to connect" not in done.stdout + done.stderr or time.monotonic() > deadline:
            break
        time.sleep(2.0)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "2/2 clips" in done.stdout + done.stderr
    assert verify_run(str(tmp_path / "run")) == []
