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

from sam3ray.job.driver import run_job
from sam3ray.store import read_status, verify_run
from tests.e2e.clips import write_clips
from tests.e2e.faults import FaultyModel
from tests.e2e.nodes import command, family
from tests.e2e.runs import annotate_alone, assert_same_annotations, config_for

pytestmark = pytest.mark.usefixtures("local_ray")
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
    """`test_clip_kills.py` does it with a real model, whose state goes on."""
    manifest = write_clips(tmp_path / "clips", 1, frames=[FRAMES])
    annotate_alone(config_for(manifest, tmp_path / "alone", windows={"mode": "off"}))

    # Two crashes would settle it, if the windows between them did not count.
    config = config_for(manifest, tmp_path / "job", actors=1, windows={"seconds": 0.5}, retry={"crashes": 2})
    killer = KillsBetweenWindows(tmp_path / "job" / "windows" / "clip-000")
    killer.start()
    summary = run_job(config, make_segmenter=FaultyModel(str(tmp_path), {}, frame_s=0.05, resumes=True))
    killer.over.set()
    assert (summary.done, summary.exit_code, dict(summary.failed)) == (1, 0, {})
    assert len(killer.killed) == KILLS
    assert_same_annotations(tmp_path / "job", tmp_path / "alone")
    assert verify_run(str(tmp_path / "job")) == []
    metadata = pq.read_metadata(tmp_path / "job/annotations/clip-000.parquet").metadata
    about = json.loads(metadata[b"sam3ray.clip"])
    assert about["frames"] == FRAMES
    assert len({window["attempt"] for window in about["windows"]}) > 1, "several attempts' work is in it"
    records = [json.loads(each.read_text()) for each in sorted((tmp_path / "job/failures/clip-000").glob("*.json"))]
    # The last kill may come when the clip is done already.
    assert len(records) >= KILLS - 1
    assert {record["reason"] for record in records} == {"crashed"}
    assert len({record["window"] for record in records}) == len(records)
    assert not (tmp_path / "job" / "windows").exists()
    assert read_status(str(tmp_path / "job")).windows == 0
