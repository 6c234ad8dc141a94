"""The driver as a process of its own that is killed, interrupted, or started twice."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sam3ray.job.driver import run_job
from sam3ray.store import RunStore
from tests.e2e.clips import write_clips
from tests.e2e.runs import annotations_of, assert_same_annotations, config_for, start_driver
from tests.job.fakes import DrawnSegmenter

COUNT = 8


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], timeout_s: float = 120.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, "the driver ended too early"
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def finished(output: Path) -> int:
    return len(list((output / "annotations").glob("*.parquet")))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), COUNT, frames=20)


@pytest.fixture(scope="module")
def whole(manifest: Path, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    assert run_job(config_for(manifest, output), make_segmenter=DrawnSegmenter).exit_code == 0
    return output


def test_killed_driver_then_run_again(manifest: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    config = config_for(manifest, output)
    driver = start_driver(config, tmp_path, frame_s=0.05)
    wait_until(lambda: finished(output) >= 2, driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = finished(output)
    assert before < COUNT
    summary = run_job(config, make_segmenter=DrawnSegmenter)
    assert summary.exit_code == 0
    # An actor of the dead driver may have committed one more clip on its way out.
    assert COUNT - before - 2 <= summary.done <= COUNT - before
    assert_same_annotations(output, whole)
    assert [row["status"] for row in pq.read_table(output / "clips.parquet").to_pylist()] == ["done"] * COUNT


@pytest.mark.parametrize("how", ["terminate", "ctrl-c"])
def test_interrupted_driver_says_so_and_goes_on_later(how: str, manifest: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    config = config_for(manifest, output)
    driver = start_driver(config, tmp_path, frame_s=0.2)
    wait_until(lambda: finished(output) >= 1, driver)
    if how == "terminate":
        driver.send_signal(signal.SIGTERM)
    else:
        os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: to Ray's processes, too
    assert driver.wait(timeout=60) == 130
    done = finished(output)
    assert 1 <= done < COUNT
    status = {row["clip_id"]: row["status"] for row in pq.read_table(output / "clips.parquet").to_pylist()}
    assert {clip for clip, what in status.items() if what == "done"} == annotations_of(output).keys()
    assert "failed" not in status.values()
    assert RunStore(str(output)).failures() == []
    assert run_job(config, make_segmenter=DrawnSegmenter).done == COUNT - done
    assert_same_annotations(output, whole)


def test_a_second_driver_is_told_of_the_first(manifest: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    config = config_for(manifest, output)
    first = start_driver(config, tmp_path, frame_s=0.1)
    wait_until(lambda: finished(output) >= 1, first)
    second_folder = tmp_path / "second"
    second_folder.mkdir()
    second = start_driver(config, second_folder)
    assert second.wait(timeout=60) == 3
    assert "another driver is active" in (second_folder / "driver.log").read_text()
    assert first.wait(timeout=120) == 0
    assert_same_annotations(output, whole)
