"""One long clip by one actor and by two: how much sooner it is done when it is cut into parallel windows.

python -m benchmarks.parallel_windows                     # 3,000 small frames in windows of 600, embedded checkpoint
python -m benchmarks.parallel_windows --model waits       # a model that only waits: what the job itself costs
python -m benchmarks.parallel_windows --json out.json     # also as JSON

Each actor has one torch thread. Times run from the first frame to the clip's commit: links and merge are included, and
so is whatever the second actor still needs to load its model. Both runs follow each other on one machine; only their
ratio says anything, and only on a machine with two free cores.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sam3ray.config import JobConfig
from sam3ray.job.driver import run_job
from sam3ray.store import verify_run
from tests.e2e.test_model import moving_discs
from tests.job.fakes import DrawnSegmenter
from tests.video.media import write_video

WAIT_S = 0.02


class Waits(DrawnSegmenter):
    frame_s = WAIT_S


class Clock:
    """From the first frame that anybody has annotated to the end of the job."""

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
        raise SystemExit(f"the run is not what it should be: {summary.message or problems}")
    return clock.seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=3_000)
    parser.add_argument("--window", type=int, default=600)
    parser.add_argument("--model", choices=("embedded", "waits"), default="embedded")
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
        seconds = {actors: timed(folder, manifest, actors, arguments) for actors in (1, 2)}
    ratio = seconds[2] / seconds[1]
    print(f"{arguments.frames} frames, windows of {arguments.window}, {arguments.model}: ", end="")
    print(f"{seconds[1]:.1f} s by one actor, {seconds[2]:.1f} s by two: {ratio:.2f} (aim: at most 0.60)")
    if arguments.json:
        arguments.json.write_text(json.dumps({**vars(arguments), "json": None, "seconds": seconds, "ratio": ratio}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
