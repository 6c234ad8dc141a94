"""The whole job with a real model: the embedded checkpoint, actors that are killed, and the same annotations."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sam3ray.config import JobConfig
from sam3ray.failures import Failure
from sam3ray.job.driver import run_job
from sam3ray.job.observe import Snapshot
from sam3ray.job.result import ClipResult
from sam3ray.job.worker import ClipWorker
from sam3ray.manifest import read_manifest
from sam3ray.store import RunStore, verify_run
from tests.e2e.nodes import command, family
from tests.e2e.runs import assert_same_annotations
from tests.video.media import write_video

pytestmark = pytest.mark.usefixtures("local_ray")
FRAMES = 10


def moving_discs(count: int) -> list[np.ndarray]:
    y, x = np.mgrid[:96, :128]
    images = []
    for index in range(count):
        image = np.full((96, 128, 3), 90, np.uint8)
        for colour, cx, cy in (((220, 30, 30), 30 + 4 * index, 40), ((30, 60, 220), 90 - 3 * index, 62)):
            image[(x - cx) ** 2 + (y - cy) ** 2 < 260] = colour
        images.append(image)
    return images


class KillsOnce:
    """An observer that kills the first actor while a clip is under way, or as the first one ends."""

    def __init__(self) -> None:
        self.killed: list[int] = []

    def update(self, snapshot: Snapshot) -> None:
        if snapshot.frames >= 1:
            self._kill()

    def clip_done(self, result: ClipResult) -> None:
        self._kill()

    def _kill(self) -> None:
        if self.killed:
            return
        for pid in family(os.getpid()):
            if b"ClipActor" in command(pid):
                self.killed.append(pid)
                os.kill(pid, signal.SIGKILL)
                return

    def clip_failed(self, failure: Failure) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.usefixtures("one_thread")
def test_embedded_checkpoint_through_the_job_survives_a_kill(tmp_path: Path) -> None:
    rows = []
    for number in range(2):
        path = write_video(tmp_path / f"{number}.mp4", FRAMES, size=(128, 96), images=moving_discs(FRAMES))
        rows.append({"clip_id": f"clip-{number}", "uri": str(path), "prompts": ["red circle", "blue circle"]})
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def config(name: str) -> JobConfig:
        return JobConfig(
            manifest=str(manifest),
            output=str(tmp_path / name),
            model={"checkpoint": "embedded", "device": "cpu"},
            cluster={"gpus_per_actor": 0, "cpus_per_actor": 1, "actors": {"min": 1, "max": 1}},
        )

    alone = RunStore(config("alone").output)
    clips = read_manifest(str(manifest), config("alone"))
    alone.create_or_open({"a": 1}, {}, clips)
    worker = ClipWorker(config("alone"), alone, {})
    assert [worker.process(clip).frames for clip in clips] == [FRAMES, FRAMES]
    worker.close()

    killer = KillsOnce()
    summary = run_job(config("job"), progress=killer)
    assert (summary.done, summary.exit_code, dict(summary.failed)) == (2, 0, {})
    assert killer.killed
    assert_same_annotations(tmp_path / "job", tmp_path / "alone")
    assert verify_run(str(tmp_path / "job")) == []
    model = json.loads(pq.read_metadata(tmp_path / "job/annotations/clip-0.parquet").metadata[b"sam3ray.model"])
    assert model["checkpoint"] == "embedded"
