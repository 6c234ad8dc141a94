"""A long clip whose worker is killed again and again: it goes on from its last window and has the same rows."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sam3ray.config import JobConfig
from sam3ray.job.driver import run_job
from sam3ray.job.worker import ClipWorker
from sam3ray.manifest import read_manifest
from sam3ray.store import RunStore, read_status, verify_run
from tests.e2e.clips import moving_discs
from tests.e2e.nodes import command, family
from tests.e2e.runs import assert_same_annotations
from tests.video.media import write_video

pytestmark = pytest.mark.usefixtures("local_ray", "one_thread")
FRAMES = 80
KILLS = 2


class KillsBetweenWindows(threading.Thread):
    """Kills the actor a random while after each of the first windows has appeared on the store."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.killed: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        chance = random.Random(7)
        while len(self.killed) < KILLS and not self.over.is_set():
            states = sorted(each.name for each in self.folder.glob("*.safetensors")) if self.folder.exists() else []
            if not states or states[-1] in self.killed:
                time.sleep(0.02)
                continue
            time.sleep(0.4 * chance.random())  # also before the driver, who asks about once a second, knows of it
            for pid in family(os.getpid()):
                if b"ClipActor" in command(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        self.killed.append(states[-1])
                    break


def test_a_clip_whose_worker_is_killed_again_and_again_has_the_same_rows(tmp_path: Path) -> None:
    images = [*moving_discs(20), *moving_discs(20)[::-1]] * (FRAMES // 40)
    path = write_video(tmp_path / "long.mp4", FRAMES, size=(128, 96), images=images)
    manifest = tmp_path / "clips.jsonl"
    row = {"clip_id": "long", "uri": str(path), "prompts": ["red circle", "blue circle"]}
    manifest.write_text(json.dumps(row) + "\n")

    def config(name: str, **sections: object) -> JobConfig:
        return JobConfig(
            manifest=str(manifest),
            output=str(tmp_path / name),
            model={"checkpoint": "embedded", "device": "cpu", "image_size": 64},
            cluster={"gpus_per_actor": 0, "cpus_per_actor": 1, "actors": {"min": 1, "max": 1}},
            **sections,
        )

    alone = config("alone", windows={"mode": "off"})
    store = RunStore(alone.output)
    clips = read_manifest(str(manifest), alone)
    store.create_or_open({"a": 1}, {}, clips)
    worker = ClipWorker(alone, store, {})
    worker.process(clips[0])
    worker.close()

    # Two crashes would settle it, if the windows between them did not count.
    killer = KillsBetweenWindows(tmp_path / "job" / "windows" / "long")
    killer.start()
    summary = run_job(config("job", windows={"seconds": 0.5}, retry={"crashes": 2}))
    killer.over.set()
    assert (summary.done, summary.exit_code, dict(summary.failed)) == (1, 0, {})
    assert len(killer.killed) == KILLS
    assert_same_annotations(tmp_path / "job", tmp_path / "alone")
    assert verify_run(str(tmp_path / "job")) == []
    metadata = pq.read_metadata(tmp_path / "job/annotations/long.parquet").metadata
    assert json.loads(metadata[b"sam3ray.model"])["checkpoint"] == "embedded"
    about = json.loads(metadata[b"sam3ray.clip"])
    assert about["frames"] == FRAMES
    assert len({window["attempt"] for window in about["windows"]}) > 1, "several attempts' work is in it"
    records = [json.loads(each.read_text()) for each in sorted((tmp_path / "job/failures/long").glob("*.json"))]
    # The last kill may come when the clip is done already.
    assert len(records) >= KILLS - 1
    assert {record["reason"] for record in records} == {"crashed"}
    assert len({record["window"] for record in records}) == len(records)
    assert not (tmp_path / "job" / "windows").exists()
    assert read_status(str(tmp_path / "job")).windows == 0
