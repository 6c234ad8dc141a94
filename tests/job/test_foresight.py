"""What the headers of videos say of windows to come."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from sam3ray.config import JobConfig
from sam3ray.job.foresight import foresee, windows_expected
from sam3ray.store import RunStore
from sam3ray.values.clip import Clip
from sam3ray.values.prompts import PointPrompt
from tests.e2e.clips import write_clip

WINDOWS = {"mode": "parallel", "frames": 20, "overlap": 4}


def test_only_clips_that_will_be_cut_and_what_is_left_of_them(tmp_path: Path) -> None:
    path, short, broken = tmp_path / "long.mp4", tmp_path / "short.mp4", tmp_path / "broken.mp4"
    write_clip(path, 3, frames=70)
    write_clip(short, 3, frames=12)
    broken.write_bytes(b"no video")
    long = Clip("long", str(path), ("red",))
    clips = [
        Clip("short", str(short), ("red",)),
        long,
        Clip("broken", str(broken), ("red",)),
        replace(long, clip_id="pointed", visual_prompts=(PointPrompt(((5.0, 5.0),), (True,), 0, 1),)),
        replace(long, clip_id="range", end_s=0.4),
    ]
    tracking = {"hotstart_delay": 3, "recondition_every_nth_frame": 2}
    config = JobConfig(
        manifest="m.csv", output=str(tmp_path / "run"), prompts=("red",), windows=WINDOWS, tracking=tracking
    )
    store = RunStore(config.output)
    assert windows_expected(clips, config, store) == {1: 4}

    store.storage.create_bytes(b"{}", "windows/long/w1.json")
    told, there = [], threading.Event()
    foresee(clips[:2], config, store, lambda windows: (told.append(windows), there.set()))
    assert there.wait(60)
    assert told == [{1: 3}], "a window that is kept is not made again"
