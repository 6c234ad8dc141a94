"""One long clip whose worker is killed at random moments, each time followed by another that goes on.

    python -m tests.e2e.clip_kills [--frames 1000] [--kills 20] [--seconds 0.5] [--seed 0]

Real are the embedded model, the video, the windows and the processes, which die by SIGKILL. The rows must be those of a
worker that nobody disturbed. What the kills cost is printed: frames that were worked on again, against windows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import pyarrow.parquet as pq
import torch

from sam3ray.config import JobConfig
from sam3ray.job.clip_progress import ClipProgress
from sam3ray.job.worker import ClipWorker
from sam3ray.manifest import read_manifest
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import read_file_metadata
from sam3ray.video import ClipFrames
from tests.e2e.test_model import moving_discs
from tests.video.media import write_video

FORK = multiprocessing.get_context("fork")  # torch is imported once, not once a worker


@dataclass(frozen=True)
class Story:
    """What became of the clip.

    Attributes:
        killed_at: frames worked on when a worker was killed, counted from the clip's first.
        again: of each kill, the frames that the next worker worked on again.
        windows: frames of each window that the clip is made of.
        same: whether its rows are those of an undisturbed clip.
        frame_s: what a frame takes.
    """

    killed_at: list[int]
    again: list[int]
    windows: list[int]
    same: bool
    frame_s: float


def killed_again_and_again(folder: Path, frames: int, kills: int, seconds: float, seed: int = 0) -> Story:
    images = [*moving_discs(20), *moving_discs(20)[::-1]] * (frames // 40 + 1)
    path = write_video(folder / "long.mp4", frames, size=(128, 96), images=images)
    row = {"clip_id": "long", "uri": str(path), "prompts": ["red circle", "blue circle"]}
    (folder / "clips.jsonl").write_text(json.dumps(row) + "\n")
    alone = _config(folder, "alone", {"mode": "off"})
    began = time.monotonic()
    _Life(alone, 1).process.join()
    frame_s = (time.monotonic() - began) / frames
    chance, killed_at, starts = random.Random(seed), [], []
    config = _config(folder, "killed", {"seconds": seconds})
    for attempt, at in enumerate(sorted(chance.sample(range(1, frames - frames // 40), kills)), 1):
        life = _Life(config, attempt)
        while life.reached < at and life.process.is_alive():
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 2 * frame_s))
        if life.process.is_alive():
            os.kill(life.process.pid or 0, signal.SIGKILL)
        life.process.join()
        killed_at.append(life.reached)
        starts.append(life.began.value)
    life = _Life(config, kills + 1)
    life.process.join()
    starts.append(life.began.value)
    again = [at - start for at, start in zip(killed_at, starts[1:], strict=True)]
    rows = [pq.read_table(Path(each.output) / "annotations" / "long.parquet") for each in (alone, config)]
    about = read_file_metadata(pq.read_metadata(Path(config.output) / "annotations" / "long.parquet"))
    windows = [window["frames"] for window in about["clip"].get("windows", ())]
    return Story(killed_at, again, windows, rows[0].equals(rows[1]), frame_s)


def _config(folder: Path, name: str, windows: dict[str, object]) -> JobConfig:
    return JobConfig(
        manifest=str(folder / "clips.jsonl"),
        output=str(folder / name),
        model={"checkpoint": "embedded", "device": "cpu"},
        cluster={"gpus_per_actor": 0},
        windows=windows,
    )


class _Life:
    """A worker in a process of its own, at the clip."""

    def __init__(self, config: JobConfig, attempt: int) -> None:
        self.began: Synchronized[int] = FORK.Value("q", 0)
        self._worked: Synchronized[int] = FORK.Value("q", 0)
        self.process = FORK.Process(target=_work, args=(config, attempt, self.began, self._worked))
        self.process.start()

    @property
    def reached(self) -> int:
        """Frames of the clip that have been worked on, those before it took over included."""
        return self.began.value + self._worked.value


def _work(config: JobConfig, attempt: int, began: Synchronized[int], worked: Synchronized[int]) -> None:
    torch.set_num_threads(1)
    tick, read = ClipProgress.tick, ClipFrames.read

    def ticked(progress: ClipProgress) -> None:
        worked.value += 1
        tick(progress)

    def reads(frames: ClipFrames, start: int = 0, stop: int | None = None) -> object:
        began.value = start
        return read(frames, start, stop)

    ClipProgress.tick = ticked  # type: ignore[method-assign]
    ClipFrames.read = reads  # type: ignore[method-assign, assignment]
    store = RunStore(config.output)
    (clip,) = clips = read_manifest(config.manifest, config)
    store.create_or_open({}, {}, clips)
    worker = ClipWorker(config, store, {})
    worker.process(clip, attempt=attempt)
    worker.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a window")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clip-kills-") as name:
        story = killed_again_and_again(Path(name), arguments.frames, arguments.kills, arguments.seconds, arguments.seed)
    if arguments.json:
        print(json.dumps(asdict(story)))
        return 0 if story.same else 1
    most = max(story.again, default=0)
    print(f"{arguments.frames} frames, killed {len(story.killed_at)} times, after frames {story.killed_at}")
    print(
        f"windows of {arguments.seconds:g} s: {len(story.windows)}, of at most {max(story.windows, default=0)} frames"
    )
    print(
        f"worked on again after a kill: at most {most} frames ({most * story.frame_s:.2f} s of an undisturbed clip), "
        f"in all {sum(story.again)}"
    )
    print("rows: identical" if story.same else "rows: DIFFERENT")
    return 0 if story.same else 1


if __name__ == "__main__":
    sys.exit(main())
