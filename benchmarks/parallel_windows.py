"""Measures how much sooner two actors finish one long clip than one actor, when it is cut into parallel windows.

python -m benchmarks.parallel_windows                     # 3,600 small frames in windows of 600, embedded checkpoint
python -m benchmarks.parallel_windows --model waits       # a model that only waits, to see the cost of the job itself
python -m benchmarks.parallel_windows --parts             # processor time of each part, for a busy machine
python -m benchmarks.parallel_windows --json out.json     # also as JSON

Each actor has one torch thread. Times run from the first frame to the clip's commit. They include linking and merging,
and the rest of the time that the second actor needs to load its model. The two runs follow each other on one machine.
Only their ratio matters, and only on a machine with two free cores.

Use an even number of windows. With 5 windows one actor gets 3: of 3,000 frames in windows of 600 it would have 62% of
the clip, however fast linking is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sam3ray.config import JobConfig
from sam3ray.failures import Failure
from sam3ray.job.driver import run_job
from sam3ray.job.graph import Stage, Work
from sam3ray.job.merging import MergeOrder, merge_one
from sam3ray.job.result import PartsLost
from sam3ray.job.worker import ClipWorker
from sam3ray.store import RunStore, verify_run
from sam3ray.store.cut_clip import CutClip
from sam3ray.values.clip import Clip
from tests.e2e.clips import moving_discs
from tests.job.fakes import DrawnSegmenter
from tests.video.media import write_video

WAIT_S = 0.02


class Waits(DrawnSegmenter):
    frame_s = WAIT_S


class Clock:
    """Measures from the first annotated frame of any actor to the end of the job."""

    def __init__(self) -> None:
        self.first = self.last = 0.0

    def update(self, snapshot: Any) -> None:
        if snapshot.frames and not self.first:
            self.first = time.perf_counter()

    def clip_done(self, _: Any) -> None:
        self.last = time.perf_counter()

    def clip_failed(self, failure: Any) -> None:
        print(f"an attempt failed: {failure.message}", file=sys.stderr)

    def close(self) -> None:
        pass

    @property
    def seconds(self) -> float:
        return self.last - self.first


def timed(folder: Path, manifest: Path, actors: int, arguments: argparse.Namespace) -> float:
    windows = {"mode": "parallel" if actors > 1 else "checkpoint", "frames": arguments.window, "overlap": 16}
    config = JobConfig(
        manifest=str(manifest),
        output=str(folder / f"run-{actors}"),
        model={"checkpoint": "embedded", "device": "cpu"},
        cluster={"gpus_per_actor": 0, "cpus_per_actor": 1, "actors": {"min": actors, "max": actors}},
        windows=windows,
    )
    clock = Clock()
    summary = run_job(config, progress=clock, make_segmenter=Waits if arguments.model == "waits" else None)
    if summary.exit_code or (problems := verify_run(config.output)):
        raise SystemExit(f"the run is wrong: {summary.message or problems}")
    return clock.seconds


def parts(folder: Path, manifest: Path, arguments: argparse.Namespace) -> dict[int, float]:
    """Processor seconds by one actor and by two, measured in parts that this process runs one after another."""
    clip = Clip("long", str(folder / "long.mp4"), ("red circle", "blue circle"))

    def worker(mode: str) -> ClipWorker:
        config = JobConfig(
            manifest=str(manifest),
            output=str(folder / mode),
            model={"checkpoint": "embedded", "device": "cpu"},
            cluster={"gpus_per_actor": 0},
            windows={"mode": mode, "frames": arguments.window, "overlap": 16},
        )
        store = RunStore(config.output)
        store.create_or_open({}, {}, [clip])
        return ClipWorker(config, store, {})

    def took(what: str, work: Callable[[], Any]) -> float:
        began = time.process_time()
        found = work()
        if isinstance(found, Failure | PartsLost):
            raise SystemExit(f"{what} failed: {found}")
        print(f"  {what}: {time.process_time() - began:.1f} s", flush=True)
        return time.process_time() - began

    cut = worker("parallel")
    opened = took("open", lambda: cut.process(clip))
    count = len(CutClip(cut.store.storage, clip.clip_id).read_cuts()[0].cuts)
    pieces = [
        took(f"window {index}", lambda: cut.attempt(clip, 0, 1, Work(0, Stage.WINDOW, index)))  # noqa: B023
        for index in range(count)
    ]
    link = took("link", lambda: cut.attempt(clip, 0, 1, Work(0, Stage.LINK)))
    merge = took("merge", lambda: merge_one(MergeOrder(cut.store, {}), clip))
    whole = took("in one piece", lambda: worker("checkpoint").process(clip))
    busy = [0.0, 0.0]
    for piece in sorted(pieces, reverse=True):
        busy = sorted((busy[0] + piece, busy[1]))
    return {1: whole, 2: opened + max(busy) + link + merge}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=3_600)
    parser.add_argument("--window", type=int, default=600)
    parser.add_argument("--model", choices=("embedded", "waits"), default="embedded")
    parser.add_argument("--parts", action="store_true", help="processor time of each part, one after another")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        there = moving_discs(20)
        images = [*there, *there[::-1]] * -(-arguments.frames // 40)
        video = write_video(folder / "long.mp4", arguments.frames, size=(128, 96), images=images[: arguments.frames])
        manifest = folder / "clips.jsonl"
        row = {"clip_id": "long", "uri": str(video), "prompts": ["red circle", "blue circle"]}
        manifest.write_text(json.dumps(row) + "\n")
        if arguments.parts:
            torch.set_num_threads(1)
            seconds = parts(folder, manifest, arguments)
        else:
            seconds = {actors: timed(folder, manifest, actors, arguments) for actors in (1, 2)}
    ratio = seconds[2] / seconds[1]
    print(f"{arguments.frames} frames, windows of {arguments.window}, {arguments.model}: ", end="")
    print(f"{seconds[1]:.1f} s by one actor, {seconds[2]:.1f} s by two: {ratio:.2f} (aim: at most 0.60)")
    if arguments.json:
        arguments.json.write_text(json.dumps({**vars(arguments), "json": None, "seconds": seconds, "ratio": ratio}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
