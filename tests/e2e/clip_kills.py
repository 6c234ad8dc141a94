"""One long clip whose worker is killed at random moments, each time followed by another that goes on.

    python -m tests.e2e.clip_kills [--frames 1000] [--kills 20] [--seconds 0.5] [--seed 0]

Real are the embedded model, the video, the windows and the processes, which a signal ends at once, wherever they are.
The rows must be those of a worker that nobody disturbed. What the kills cost is printed: frames that were worked on
again, against windows.

No kill misses its worker, however slow or quick the machine: a worker that has reached its frame arms the kernel's
timer, and stands still two frames later. The last one waits for a window to be on the store before that.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import signal
import sys
import tempfile
import threading
import time
from ctypes import c_double, c_longlong
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import pyarrow.parquet as pq
import torch

import sam3ray.engine.engine  # noqa: F401 - and transformers with it: they are imported once, not once a worker
from sam3ray.config import JobConfig
from sam3ray.job.clip_progress import ClipProgress
from sam3ray.job.worker import ClipWorker
from sam3ray.manifest import read_manifest
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import read_file_metadata
from sam3ray.video import ClipFrames
from tests.e2e.clips import moving_discs
from tests.video.media import write_video

FORK = multiprocessing.get_context("fork")  # of a process that has imported torch, but not used it
STEPS = 2  # frames that a worker goes on after its last, until its timer ends it


@dataclass(frozen=True)
class Doom:
    """When a worker is killed.

    Attributes:
        at: frame of the clip, counted from 1, after which its timer runs.
        delay_s: what the timer is set to.
        keeps: only once a window of the clip is on the store.
    """

    at: int
    delay_s: float
    keeps: bool


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
    life = _Life(alone, 1)
    life.join()
    frame_s = life.seconds / frames
    chance, lives = random.Random(seed), []
    config = _config(folder, "killed", {"seconds": seconds})
    for attempt, at in enumerate(sorted(chance.sample(range(1, frames - STEPS), kills)), 1):
        doom = Doom(at, chance.uniform(0.001, 2 * frame_s), keeps=attempt == kills)
        lives.append(_Life(config, attempt, doom))
        lives[-1].join()
    lives.append(_Life(config, kills + 1))
    lives[-1].join()
    again = [life.reached - later.began.value for life, later in pairwise(lives)]
    rows = [pq.read_table(Path(each.output) / "annotations" / "long.parquet") for each in (alone, config)]
    about = read_file_metadata(pq.read_metadata(Path(config.output) / "annotations" / "long.parquet"))
    windows = [window["frames"] for window in about["clip"].get("windows", ())]
    return Story([life.reached for life in lives[:-1]], again, windows, rows[0].equals(rows[1]), frame_s)


def _config(folder: Path, name: str, windows: dict[str, object]) -> JobConfig:
    return JobConfig(
        manifest=str(folder / "clips.jsonl"),
        output=str(folder / name),
        model={"checkpoint": "embedded", "device": "cpu", "image_size": 64},
        cluster={"gpus_per_actor": 0},
        windows=windows,
    )


class _Life:
    """A worker in a process of its own, at the clip."""

    def __init__(self, config: JobConfig, attempt: int, doom: Doom | None = None) -> None:
        self._doom = doom
        # Without locks: who is killed may hold one.
        self.began = FORK.RawValue(c_longlong, 0)
        self._worked = FORK.RawValue(c_longlong, 0)
        self._seconds = FORK.RawValue(c_double, 0.0)
        self._process = FORK.Process(target=self._work, args=(config, attempt))
        self._process.start()

    @property
    def reached(self) -> int:
        """Frames of the clip that have been worked on, those before it took over included."""
        return int(self.began.value + self._worked.value)

    @property
    def seconds(self) -> float:
        """At the clip, without loading the model."""
        return float(self._seconds.value)

    def join(self) -> None:
        """Raises RuntimeError if it did not end as it should: killed if it is doomed, with the clip done if not."""
        self._process.join()
        wanted = 0 if self._doom is None else -signal.SIGALRM
        if self._process.exitcode != wanted:
            raise RuntimeError(f"a worker ended with {self._process.exitcode}, not with {wanted}")

    def _work(self, config: JobConfig, attempt: int) -> None:
        torch.set_num_threads(1)
        tick, read, keep = ClipProgress.tick, ClipFrames.read, ClipProgress.keep
        kept = threading.Event()

        def ticked(progress: ClipProgress) -> None:
            self._worked.value += 1
            tick(progress)
            self._meet(kept)

        def reads(frames: ClipFrames, start: int = 0, stop: int | None = None) -> object:
            self.began.value = start
            return read(frames, start, stop)

        def keeps(progress: ClipProgress, window: str) -> None:
            keep(progress, window)
            kept.set()

        ClipProgress.tick = ticked  # type: ignore[method-assign]
        ClipProgress.keep = keeps  # type: ignore[method-assign]
        ClipFrames.read = reads  # type: ignore[method-assign, assignment]
        store = RunStore(config.output)
        (clip,) = clips = read_manifest(config.manifest, config)
        store.create_or_open({}, {}, clips)
        worker = ClipWorker(config, store, {})
        began = time.monotonic()
        worker.process(clip, attempt=attempt)
        self._seconds.value = time.monotonic() - began
        worker.close()

    def _meet(self, kept: threading.Event) -> None:
        doom = self._doom
        if doom is None or self.reached < doom.at:
            return
        is_last = self.reached >= doom.at + STEPS
        if doom.keeps and is_last:
            kept.wait()
        if kept.is_set() or not doom.keeps:
            _arm(doom.delay_s)
        if is_last:
            _stand_still()


def _arm(delay_s: float) -> None:
    """The signal that comes then ends the process as SIGKILL does: nobody handles it."""
    if signal.getitimer(signal.ITIMER_REAL)[0] == 0.0:
        signal.setitimer(signal.ITIMER_REAL, delay_s)


def _stand_still() -> NoReturn:
    while True:
        signal.pause()


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
