"""The driver as a process of its own that is killed, interrupted, or started twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sam3ray.config import JobConfig
from sam3ray.failures import JobStopped
from sam3ray.job.driver import run_job
from sam3ray.store import RunStore
from tests.e2e.clips import write_clips
from tests.e2e.gate import Gate
from tests.e2e.nodes import command, family
from tests.e2e.runs import annotate_alone, annotations_of, assert_same_annotations, config_for, start_driver
from tests.job.fakes import DrawnSegmenter

COUNT = 8
PATIENCE_S = 600.0

pytestmark = pytest.mark.usefixtures("local_ray")


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], timeout_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, "the driver ended too early"
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.1)  # some conditions look at all processes of the machine


def finished(output: Path) -> int:
    return len(list((output / "annotations").glob("*.parquet")))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), COUNT, frames=20)


@pytest.fixture(scope="module")
def whole(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    annotate_alone(config_for(manifest, output))
    return output


def gated_driver(config: JobConfig, folder: Path, clips: int, before: int = 0) -> tuple[subprocess.Popen[bytes], Gate]:
    """A driver when so many clips are done, some of them before it; its actors stand in the middle of others."""
    gate = Gate(folder)
    gate.open_for(clips - before)
    driver = start_driver(config, folder, gated=True)
    wait_until(lambda: finished(Path(config.output)) == clips and bool(gate.waiting()), driver)
    return driver, gate


def test_killed_driver_then_run_again(manifest: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    config = config_for(manifest, output)
    driver, _ = gated_driver(config, tmp_path, clips=2)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    summary = run_job(config_for(manifest, output, actors=1), make_segmenter=DrawnSegmenter)
    assert (summary.exit_code, summary.done, summary.skipped) == (0, COUNT - 2, 2)
    assert_same_annotations(output, whole)
    assert [row["status"] for row in pq.read_table(output / "clips.parquet").to_pylist()] == ["done"] * COUNT


def test_interrupted_driver_says_so_and_goes_on_later(manifest: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    config = config_for(manifest, output)
    for clips, how in ((1, "terminate"), (2, "ctrl-c")):
        folder = tmp_path / how
        folder.mkdir()
        driver, _ = gated_driver(config, folder, clips, before=clips - 1)
        if how == "terminate":
            driver.send_signal(signal.SIGTERM)
        else:
            os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: to Ray's processes, too
        assert driver.wait(timeout=PATIENCE_S) == 130
        status = {row["clip_id"]: row["status"] for row in pq.read_table(output / "clips.parquet").to_pylist()}
        done = {clip for clip, what in status.items() if what == "done"}
        assert len(done) == clips
        assert done == annotations_of(output).keys()
        assert "failed" not in status.values()
        assert RunStore(str(output)).failures() == []
    assert run_job(config_for(manifest, output, actors=1), make_segmenter=DrawnSegmenter).done == COUNT - 2
    assert_same_annotations(output, whole)


def test_a_second_driver_is_told_of_the_first_which_goes_on_until_it_is_taken_over(
    manifest: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    config = config_for(manifest, output, actors=1)
    first, gate = gated_driver(config, tmp_path, clips=1)
    with pytest.raises(JobStopped, match="another driver is active"):
        run_job(config, make_segmenter=DrawnSegmenter)
    gate.open_for(2)
    wait_until(lambda: finished(output) == 2 and bool(gate.waiting()), first)

    other = {"driver_id": "other", "host": "far", "namespace": "far", "pid": 1, "heartbeat_at": time.time()}
    RunStore(str(output)).storage.replace_bytes(json.dumps(other).encode(), "active_driver.json")
    assert first.wait(timeout=PATIENCE_S) == 3
    assert "taken over this output" in (tmp_path / "driver.log").read_text()
    assert json.loads((output / "active_driver.json").read_text()) == other
    assert not (output / "clips.parquet").exists()
    (output / "active_driver.json").unlink()
    assert run_job(config, make_segmenter=DrawnSegmenter).done == COUNT - 2
    assert_same_annotations(output, whole)


def test_a_raylet_that_dies_is_named(manifest: Path, tmp_path: Path) -> None:
    driver, _ = gated_driver(config_for(manifest, tmp_path / "run", actors=1), tmp_path, clips=1)
    raylets = [pid for pid in family(driver.pid) if command(pid).split(b"\0")[0].endswith(b"raylet")]
    assert raylets
    for pid in raylets:
        os.kill(pid, signal.SIGKILL)
    assert driver.wait(timeout=PATIENCE_S) == 3
    assert "Ray has died on this machine (raylet)" in (tmp_path / "driver.log").read_text()
