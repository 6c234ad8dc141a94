"""A long clip shared by actors on a real local Ray: whoever is killed, and in whatever order, the rows are the same."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sam3ray.config import JobConfig
from sam3ray.job.driver import run_job
from sam3ray.store import RunStore, read_status, verify_run
from tests.e2e.clips import write_clips
from tests.e2e.faults import Fault, FaultyModel
from tests.e2e.nodes import command, family
from tests.e2e.runs import annotate_alone, assert_same_annotations, config_for, start_driver

pytestmark = pytest.mark.usefixtures("local_ray")
LONG, SHORT = 90, 12
WINDOWS = {"mode": "parallel", "frames": 20, "overlap": 4}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip of five windows among three that are worked on whole."""
    return write_clips(tmp_path_factory.mktemp("clips"), 4, frames=[LONG, SHORT, SHORT, SHORT])


@pytest.fixture(scope="module")
def whole(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by one worker, every clip in one piece."""
    output = tmp_path_factory.mktemp("whole") / "run"
    annotate_alone(config_for(manifest, output, windows={"mode": "off"}))
    return output


def config(manifest: Path, output: Path, **sections: Any) -> JobConfig:
    return config_for(manifest, output, **{"windows": WINDOWS, **sections})


def windows_of(output: Path) -> list[dict[str, Any]]:
    facts = json.loads(pq.read_metadata(output / "annotations/clip-000.parquet").metadata[b"sam3ray.clip"])
    return facts["windows"]


class KillsActors(threading.Thread):
    """Kills whatever actor it finds first, each time another window is done."""

    def __init__(self, folder: Path, kills: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.kills = folder, kills
        self.over = threading.Event()

    def run(self) -> None:
        seen = 0
        while self.kills and not self.over.wait(0.02):
            done = len(list(self.folder.glob("w*.json"))) if self.folder.exists() else 0
            if done > seen:
                seen = done
                self.kills -= self._kill_one()

    @staticmethod
    def _kill_one() -> int:
        for pid in family(os.getpid()):
            if b"ClipActor" in command(pid):
                os.kill(pid, signal.SIGKILL)
                return 1
        return 0


@pytest.fixture
def killer(tmp_path: Path) -> Iterator[KillsActors]:
    thread = KillsActors(tmp_path / "run/windows/clip-000", kills=2)
    thread.start()
    yield thread
    thread.over.set()


def test_workers_that_are_killed_leave_no_trace_in_the_rows(
    manifest: Path, whole: Path, tmp_path: Path, killer: KillsActors
) -> None:
    output = tmp_path / "run"
    faults = {0: Fault("kill", at=50, times=1)}  # in the middle of one window; each is charged alone
    model = FaultyModel(str(tmp_path), faults, frame_s=0.02)
    summary = run_job(config(manifest, output, retry={"crashes": 3}), make_segmenter=model)
    assert (summary.done, summary.exit_code, dict(summary.failed)) == (4, 0, {})
    assert_same_annotations(output, whole)
    assert verify_run(str(output)) == []
    assert not (output / "windows").exists()
    assert [each["name"] for each in windows_of(output)] == [f"w{index}" for index in range(5)]
    records = RunStore(str(output)).failures()
    assert {each.clip_id for each in records} >= {"clip-000"}
    assert {each.window for each in records if each.clip_id == "clip-000"} & {f"w{index}" for index in range(5)}
    assert not any(each.final for each in records)
    rows = pq.read_table(output / "clips.parquet").to_pylist()
    assert [(row["status"], row["frames"]) for row in rows] == [("done", LONG), *[("done", SHORT)] * 3]


def test_a_window_that_always_fails_fails_its_clip_and_retry_goes_on_from_the_others(
    manifest: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    bad = FaultyModel(  # of the last window alone
        str(tmp_path), {0: Fault("raise", at=88)}
    )
    summary = run_job(config(manifest, output), make_segmenter=bad)
    assert (summary.done, dict(summary.failed), summary.exit_code) == (3, {"internal": 1}, 1)
    (record,) = [each for each in RunStore(str(output)).failures() if each.final]
    assert (record.clip_id, record.window) == ("clip-000", "w4")
    assert read_status(str(output)).windows == 1
    kept = {each.name: each.stat().st_mtime_ns for each in (output / "windows/clip-000").glob("w*.json")}
    assert kept
    assert RunStore(str(output)).clear_failures() == 1
    summary = run_job(config(manifest, output), make_segmenter=FaultyModel(str(tmp_path), {}))
    assert (summary.done, summary.skipped, summary.exit_code) == (1, 3, 0)
    assert_same_annotations(output, whole)


def test_a_driver_that_is_killed_loses_no_finished_window(manifest: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    job = config(manifest, output)
    driver = start_driver(job, tmp_path, frame_s=0.05)
    folder = output / "windows/clip-000"
    end = time.monotonic() + 600
    while not (folder.exists() and len(list(folder.glob("w*.json"))) >= 2):
        assert driver.poll() is None, (tmp_path / "driver.log").read_text()[-2000:]
        assert time.monotonic() < end, "no window was ever done"
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = {each.name: each.read_bytes() for each in folder.glob("w*.json")}
    summary = run_job(job, make_segmenter=FaultyModel(str(tmp_path), {}))
    assert summary.exit_code == 0
    assert_same_annotations(output, whole)
    assert verify_run(str(output)) == []
    made = {each["sha256"] for each in windows_of(output)}
    assert {json.loads(data)["rows"] for data in before.values()} <= made
