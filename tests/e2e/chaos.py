"""Chaos: a job on an object store whose every part is killed at random moments, against an undisturbed run.

    python -m tests.e2e.chaos [--clips 66] [--kills 24] [--seed 0] [--whole] [--folder DIR]

Killed with SIGKILL are actors, drivers (each followed by a new `run`) and a node; some clips' decoder aborts its
worker. Some actors lose their GPU's context, on one node every clip fails, the disk of another is full, and a driver
is stopped for a while, during which a second one is refused. In between the S3 server throttles, breaks, resets
connections, takes half a body, loses its answers and goes away for seconds. Then the annotations must equal the
undisturbed run's row for row: none lost, none twice (the bucket keeps versions: each file has exactly one), nothing
left behind in temporary folders or as unfinished uploads.

Two clips are long. One is cut: several actors work on its windows, which are linked and merged, and it must equal the
clip that was annotated in one piece. The other is kept in windows, from which later attempts go on. With `--whole`
both are. The first to be killed is an actor that works on one of them, when a window of it is on the store.

Every clip stands still on one of its frames until it is let on. So each kill finds work under way and work left, and
as many are made as were asked for, on however quick or slow a machine.

The model is a fake whose boxes depend on the pixels; Ray, processes, videos, storage and their deaths are real.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.fs
import pyarrow.parquet as pq

from sam3ray.config import JobConfig
from sam3ray.store import RunStore, verify_run
from tests import servers
from tests.e2e.clips import write_clips
from tests.e2e.faults import SICK_NODE
from tests.e2e.gate import Gate
from tests.e2e.nodes import Nodes, command, family, wait_for_nodes
from tests.e2e.runs import annotate_alone, annotations_of, config_for, start_driver
from tests.store.proxy import Fault, FaultyProxy, Request, faulty_proxy

BUCKET = "chaos"
FRAMES = 16
LONG, LONG_FRAMES = (0, 1), (120, 54)  # clips with windows: the first is cut, the second is too short for that
WINDOW_S = 0.2
END_S = 60  # beyond the end
PARALLEL = {"mode": "parallel", "frames": 56, "overlap": 4, "seconds": WINDOW_S}
ROUNDS = 40
PATIENCE_S = 600.0


@dataclass(frozen=True)
class Settings:
    clips: int = 66
    kills: int = (
        26  # of actors, drivers and the node, those of decoders, the one of a long clip and the stalls included
    )
    drivers: int = 4  # of the kills
    decoders: int = 3  # of the kills
    node: bool = True  # one of the kills is that of a node
    sick_actors: tuple[int, ...] = (2, 5)  # by the order of their first frames: their GPU's context is lost
    sick_nodes: bool = True  # beside the node that is killed, one where every clip fails, and one whose disk is full
    stalls: int = 2  # of the kills: a driver that is stopped for a while; a second one is refused meanwhile
    actors: int = 3
    seed: int = 0
    frame_s: float = 0.04
    fault_rate: float = 0.06  # of requests to the store
    parallel: bool = True  # clips that are long enough are cut into windows that actors share
    whole_by_driver: bool = True  # the undisturbed run; else one worker in this process does it, which is quicker


@dataclass
class Report:
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    sick: Counter[str] = field(default_factory=Counter)  # clips that failed of what is sick
    requests: int = 0
    rounds: int = 0
    exit_codes: list[int] = field(default_factory=list)
    clips: int = 0
    rows: int = 0
    resumed: int = 0  # long clips that were made of windows which were there when the first actor was killed
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def run_chaos(settings: Settings, folder: Path) -> Report:
    """The whole story; `Report.problems` is empty if all went well."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(servers.s3(folder))
        stack.enter_context(_environment(folder))
        proxy = stack.enter_context(faulty_proxy(server))
        chaos = Chaos(settings, folder, server, proxy)
        if settings.node and settings.sick_nodes:
            stack.enter_context(full_disk(chaos.full_disk))
        chaos.prepare()
        stack.callback(chaos.stop)
        chaos.disturb()
        chaos.report.kills["decoder"] = len(counted_aborts(folder))
        chaos.report.sick = Counter(path.name.rpartition(".")[0] for path in folder.glob("sick-*") if not path.is_dir())
        chaos.report.requests = len(proxy.log)
        chaos.report.faults = Counter(fault.value for _, fault in proxy.log if fault is not Fault.NONE)
        chaos.compare()
        chaos.report.seconds = time.monotonic() - began
        return chaos.report


def counted_aborts(folder: Path) -> list[Path]:
    return [p for p in folder.glob("hostile-*.1") if p.exists()]


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """A disk with no room for a clip. Where none can be mounted, a folder that cannot be written."""
    folder.mkdir()
    mounted = not subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]).returncode
    if not mounted:
        folder.chmod(0o500)
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        else:
            folder.chmod(0o700)


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """Credentials, and a temporary folder of our own that must be empty in the end."""
    temporary = folder / "tmp"
    temporary.mkdir()
    changes = {
        **servers.S3_CREDENTIALS,
        "TMPDIR": str(temporary),
        "RAY_AUTH_MODE": "token",
        "HOME": str(folder),
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Chaos:
    def __init__(self, settings: Settings, folder: Path, server: str, proxy: FaultyProxy) -> None:
        self.settings = settings
        self.folder = folder
        self.server = server
        self.proxy = proxy
        self.random = random.Random(settings.seed)
        self.report = Report(clips=settings.clips)
        self.output = f"s3://{BUCKET}/labels/run"
        self.outage_until = 0.0
        self.kept: dict[int, set[str]] = {}  # long clip -> SHA-256 of its windows when the first actor was killed
        self.nodes: Nodes | None = None
        self.doomed = -1
        self.gate = Gate(folder)
        self.driver: subprocess.Popen[bytes] | None = None
        self.full_disk = folder / "full"

    # Before

    def prepare(self) -> None:
        import boto3

        self.s3 = boto3.client("s3", endpoint_url=self.server)
        self.s3.create_bucket(Bucket=BUCKET)
        self.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        frames = [*LONG_FRAMES, *[FRAMES] * (self.settings.clips - len(LONG))]
        manifest = write_clips(self.folder / "clips", self.settings.clips, frames=frames)
        rows = manifest.read_text().replace(str(self.folder / "clips"), f"s3://{BUCKET}/clips")
        if self.settings.parallel:  # the range says that they are long, so that their windows go before other clips
            lines = [line + (f",{END_S}" if number - 1 in LONG else ",") for number, line in enumerate(rows.split())]
            rows = "\n".join([lines[0] + "end_s", *lines[1:]]) + "\n"
        self.s3.put_object(Bucket=BUCKET, Key="clips/manifest.csv", Body=rows.encode())
        for path in sorted((self.folder / "clips").glob("*.mp4")):
            self.s3.put_object(Bucket=BUCKET, Key=f"clips/{path.name}", Body=path.read_bytes())
        self.whole = self.folder / "whole"
        undisturbed = self._config(self.server, output=str(self.whole), windows={"seconds": WINDOW_S})
        if self.settings.whole_by_driver:
            if start_driver(undisturbed, self.folder).wait(timeout=600) != 0:
                raise RuntimeError(f"the undisturbed run failed: {self._log()}")
        else:
            annotate_alone(undisturbed)
        self.proxy.decide = self._fault

    def _config(
        self, endpoint: str, output: str | None = None, windows: dict[str, Any] | None = None, **cluster: Any
    ) -> JobConfig:
        return config_for(
            f"s3://{BUCKET}/clips/manifest.csv",
            output or self.output,
            actors=self.settings.actors,
            storage={"endpoint_url": endpoint},
            windows=windows or (PARALLEL if self.settings.parallel else {"seconds": WINDOW_S}),
            retry={"crashes": 1000, "node_losses": 1000, "actor_starts": 50, "storage": 12, "no_progress_s": 300.0},
            cluster=cluster,
        )

    def _fault(self, request: Request) -> Fault:
        if not self.report.kills["long"]:
            return Fault.NONE  # a clip whose storage fails goes to the end of the line, where no kill waits for it
        if time.monotonic() < self.outage_until:
            return Fault.BUSY
        if self.random.random() < self.settings.fault_rate:
            return self.random.choice(
                [Fault.BUSY, Fault.BROKEN, Fault.RESET, Fault.HALF, Fault.LOST, Fault.CUT, Fault.SLOW]
            )
        return Fault.NONE

    # The disturbances

    def schedule(self) -> list[list[str]]:
        """What is killed in each round. A round ends with its driver, the second one runs on two nodes."""
        settings = self.settings
        others = settings.drivers + settings.decoders + settings.node + settings.stalls + 1
        rounds: list[list[str]] = [[] for _ in range(settings.drivers + 1)]
        for i in range(settings.kills - others):
            rounds[i % len(rounds)].append("actor")
        if settings.node:
            rounds[1].insert(len(rounds[1]) // 2, "node")
        for i in range(settings.stalls):
            rounds[i % len(rounds)].append("stall")
        for kills in rounds[:-1]:
            kills.append("driver")
        rounds[0].insert(0, "long")
        return rounds

    def disturb(self) -> None:
        rounds = self.schedule()
        planned = sum(len(kills) for kills in rounds)
        self.gate.open_for(0)
        for clip in LONG:
            self.gate.hold(clip)
        for number in range(ROUNDS):
            kills = rounds[number] if number < len(rounds) else []
            self._start(two_nodes="node" in kills)
            code = self._kill_all(kills, planned)
            if code is None and not kills and number + 1 >= len(rounds):
                self.gate.open_for(self.settings.clips * 2)
                code = self._wait_for_the_end()
            self.report.rounds += 1
            if code is not None:
                self.report.exit_codes.append(code)
            self._end_round()
            if code == 0:
                break
            if kills:  # of a round that ended by itself
                rounds.insert(number + 1, kills)
        else:
            self.report.problems.append(f"not done after {ROUNDS} rounds")
        if self.report.kills.total() < planned:
            self.report.problems.append(f"{self.report.kills.total()} kills were made, {planned} were planned")

    def _kill_all(self, kills: list[str], planned: int) -> int | None:
        """Takes from `kills` what it has killed; the exit code of a driver that ended by itself before that.

        The driver is the last of a round's kills.
        """
        while kills:
            made = self.report.kills.total()
            self.gate.open_for((made + 1) * self.settings.clips // (planned + 2))
            code = self._wait_for_work(kills[0])
            if code is not None:
                return code
            time.sleep(self.random.uniform(0.0, 0.5))  # so that the other actors are anywhere
            kind = kills[0]
            if self._kill(kind):
                kills.pop(0)
                self.report.kills[kind] += 1
                if kind != "long" and self.random.random() < 0.3:
                    self.outage_until = time.monotonic() + self.random.uniform(0.5, 3.0)
        return None

    def _start(self, two_nodes: bool) -> None:
        hostile = self.random.sample(range(len(LONG), self.settings.clips), self.settings.decoders)
        if not hasattr(self, "hostile"):
            self.hostile = tuple(hostile)
        cluster: dict[str, Any] = {}
        if two_nodes:
            self.nodes = Nodes(self.folder)
            self.nodes.start_head(cpus=1)
            wait_for_nodes(self.nodes, 1)
            self.doomed = self.nodes.start_node(cpus=1)
            if self.settings.sick_nodes:
                self.nodes.start_node(cpus=1, **{SICK_NODE: "1"})
                self.nodes.start_node(cpus=1, TMPDIR=str(self.full_disk))
            wait_for_nodes(self.nodes, len(self.nodes.nodes))
            # Two on each node: else the one that is to be killed may have none.
            cluster = {"address": self.nodes.address, "actors": {"min": 1, "max": 2 * len(self.nodes.nodes)}}
        self.driver = start_driver(
            self._config(self.proxy.url, **cluster),
            self.folder,
            frame_s=self.settings.frame_s,
            hostile=self.hostile,
            hostile_times=1,
            gated=True,
            long=LONG,
            resumes=True,
            sick_actors=self.settings.sick_actors,
        )

    def _end_round(self) -> None:
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
        if self.driver is not None:
            self.driver.wait()
        if self.nodes is not None:
            self.nodes.stop()
            self.nodes = None

    stop = _end_round

    def _wait_for_work(self, kind: str) -> int | None:
        """Until a clip is half done where `kind` strikes; the exit code of a driver that has ended."""
        assert self.driver is not None
        end = time.monotonic() + PATIENCE_S
        while not self._at_work(kind):
            code = self.driver.poll()
            if code is not None:
                return code
            if time.monotonic() > end:
                raise RuntimeError(f"no actor works: {self._log()}")
            time.sleep(0.1)
        return self.driver.poll()

    def _at_work(self, kind: str) -> list[int]:
        """Actors before the gate; for `long`, those whose clip has been kept up to a window, too."""
        alive = self._actors(kind)
        if kind != "long":
            return sorted(self.gate.waiting().intersection(alive))
        return [pid for pid, clip in self.gate.held().items() if pid in alive and self._is_kept(clip)]

    def _is_kept(self, clip: int) -> bool:
        listed = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"labels/run/windows/clip-{clip:03d}/")
        return any(item["Key"].endswith(".safetensors") for item in listed.get("Contents", []))

    def _windows_of(self, clip: int) -> set[str]:
        """SHA-256 of the rows of its windows on the store."""
        listed = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"labels/run/windows/clip-{clip:03d}/")
        keys = [item["Key"] for item in listed.get("Contents", []) if item["Key"].endswith(".parquet")]
        rows = (self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys)
        return {hashlib.sha256(each).hexdigest() for each in rows}

    def _wait_for_the_end(self) -> int:
        assert self.driver is not None
        try:
            return self.driver.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"it does not end: {self._log()}") from None

    def _log(self) -> str:
        return (self.folder / "driver.log").read_text()[-3000:]

    def _kill(self, kind: str) -> bool:
        assert self.driver is not None
        if kind == "driver":
            self.driver.kill()
            return True
        if kind == "stall":
            return self._stall(self.driver)
        if kind == "node":
            assert self.nodes is not None
            self.nodes.kill(self.doomed)
            return True
        actors = self._at_work(kind) if kind == "long" else self._actors(kind)
        if not actors:
            return False
        doomed = self.random.choice(actors)
        with contextlib.suppress(ProcessLookupError):
            os.kill(doomed, signal.SIGKILL)
            if kind == "long":
                for clip in LONG:
                    self.kept[clip] = self._windows_of(clip)
                    self.gate.release(clip)
            return True
        return False

    def _stall(self, driver: subprocess.Popen[bytes]) -> bool:
        """The holder of the lease stands still, as on a laptop that sleeps; then it goes on."""
        driver.send_signal(signal.SIGSTOP)
        try:
            folder = self.folder / "second"
            folder.mkdir(exist_ok=True)
            code = start_driver(self._config(self.server), folder).wait(PATIENCE_S)
            if code != 3:
                self.report.problems.append(f"a second driver ended with {code} while the first stood still")
        finally:
            driver.send_signal(signal.SIGCONT)
        return True

    def _actors(self, kind: str) -> list[int]:
        """Processes of this round's actors that are alive; of the node to be killed alone, if that is the `kind`."""
        assert self.driver is not None
        roots = [self.driver.pid]
        if self.nodes is not None:
            roots = [node.pid for node in self.nodes.nodes]
            if kind == "node":
                roots = [roots[self.doomed]]
        return [pid for root in roots for pid in family(root) if b"ClipActor" in command(pid)]

    # After

    def compare(self) -> None:
        problems = self.report.problems
        self.proxy.decide = lambda _: Fault.NONE
        ours, whole = self._annotations(), annotations_of(self.whole)
        problems += [f"{clip} was lost" for clip in whole.keys() - ours.keys()]
        problems += [f"{clip} is nobody's" for clip in ours.keys() - whole.keys()]
        problems += [f"{clip} differs" for clip in ours.keys() & whole.keys() if not ours[clip].equals(whole[clip])]
        self.report.resumed = sum(bool(self.kept.get(clip, set()) & self._made_of(clip)) for clip in LONG)
        self.report.rows = sum(table.num_rows for table in ours.values())
        versions = Counter(
            version["Key"]
            for page in self.s3.get_paginator("list_object_versions").paginate(Bucket=BUCKET, Prefix="labels/run/")
            for version in page.get("Versions", [])
        )
        for key, count in versions.items():
            folder = key.removeprefix("labels/run/").split("/")[0]
            if folder == "annotations" and count != 1:
                problems.append(f"{key} was written {count} times")
        for item in self.s3.list_objects_v2(Bucket=BUCKET, Prefix="labels/run/")["Contents"]:
            name = item["Key"].removeprefix("labels/run/").split("/")[0]
            if name not in ("annotations", "failures", "run.json", "manifest.parquet", "clips.parquet", "report.html"):
                problems.append(f"{item['Key']} was left behind")
        uploads = self.s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        problems += [f"an unfinished upload of {upload['Key']} was left behind" for upload in uploads]
        problems += verify_run(self.output, {"endpoint_url": self.server})
        problems += [
            f"{path} was left behind" for path in (self.folder / "tmp").iterdir() if path.name.startswith("sam3ray")
        ]

    def _made_of(self, number: int) -> set[str]:
        """SHA-256 of the rows of the windows that a clip is made of."""
        store = RunStore(self.output, {"endpoint_url": self.server})
        about = store.read_clip_metadata(f"clip-{number:03d}")["clip"]
        return {window["sha256"] for window in about.get("windows", ())}

    def _annotations(self) -> dict[str, Any]:
        place = pyarrow.fs.S3FileSystem(
            endpoint_override=self.server.removeprefix("http://"), scheme="http", region="us-east-1"
        )
        found = {}
        listed = place.get_file_info(pyarrow.fs.FileSelector(f"{BUCKET}/labels/run/annotations"))
        for info in listed:
            found[Path(info.path).stem] = pq.read_table(place.open_input_file(info.path))
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=Settings.clips)
    parser.add_argument("--kills", type=int, default=Settings.kills)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--one-node", action="store_true", help="no cluster of two nodes, and none of them killed")
    parser.add_argument("--whole", action="store_true", help="no clip is cut into windows that actors share")
    parser.add_argument("--folder", type=Path, help="keep everything here; by default a temporary folder")
    arguments = parser.parse_args()
    settings = Settings(
        clips=arguments.clips,
        kills=arguments.kills,
        seed=arguments.seed,
        node=not arguments.one_node,
        parallel=not arguments.whole,
    )
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        report = run_chaos(settings, folder)
    kills = ", ".join(f"{count} {kind}" for kind, count in report.kills.items())
    faults = ", ".join(f"{count} {kind}" for kind, count in sorted(report.faults.items()))
    print(f"{report.clips} clips, {report.rows} rows; {report.rounds} rounds; {report.seconds:.0f} s")
    print(f"long clips that went on from windows which the first kill found: {report.resumed} of {len(LONG)}")
    print(f"killed: {sum(report.kills.values())} ({kills})")
    sick = ", ".join(f"{count} {kind}" for kind, count in sorted(report.sick.items()))
    print(f"clips that failed of what is sick: {sick or 'none'}")
    print(f"storage faults: {sum(report.faults.values())} of {report.requests} requests ({faults})")
    print(f"exit codes of drivers that were let end: {report.exit_codes}")
    for problem in report.problems:
        print("PROBLEM:", problem)
    print("the same, row for row: none lost, none twice, nothing left behind" if not report.problems else "FAILED")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
