"""Fake models that misbehave on chosen clips, so that real workers die, hang and run out of memory."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.failures import JobStopped
from sam3ray.job import intake
from sam3ray.video import Frame, VideoReader
from tests.e2e.clips import number_of, width_of
from tests.e2e.gate import Gate
from tests.job.fakes import DrawnSegmenter

SICK_NODE = "SAM3RAY_TEST_SICK_NODE"  # in the environment of a node's processes
LONG_AT, LONG_S = 48, 0.02  # a long clip takes so long for each frame
GATED_FRAMES = 12  # a clip that is gated has as many or more


@dataclass(frozen=True)
class Fault:
    """What happens on a clip's frame number `at`, `times` times in all, over all processes and runs."""

    kind: str  # abort, kill, hang, oom, raise
    at: int = 3
    times: int = 1_000_000
    below_rung: int = 99  # oom only


@dataclass(frozen=True)
class FaultyModel:
    """A `make_segmenter` for `run_job`. `folder` is where it counts what it did."""

    folder: str
    faults: dict[int, Fault]  # clip number -> fault
    hostile: tuple[int, ...] = ()  # clip numbers whose decoder aborts the process
    hostile_times: int = 1_000_000  # each of them
    frame_s: float = 0.0
    gated: bool = False  # every clip stands before the gate in `folder` on one of its frames
    long: tuple[int, ...] = ()  # clip numbers that stand before it on frame LONG_AT
    resumes: bool = False  # clips are kept in windows
    sick_actors: tuple[int, ...] = ()  # by order of first frames, once no clip is held: whatever they run fails

    def __call__(self, model: ModelConfig, tracking: TrackingConfig) -> FaultySegmenter:
        class HostileReader(VideoReader):
            def __init__(self, path: Any, **kwargs: Any) -> None:
                name = Path(path).name
                number = next((n for n in self.plan.hostile if name.endswith(f"clip-{n:03d}.mp4")), None)
                if number is not None and count(self.plan.folder, f"hostile-{number}") <= self.plan.hostile_times:
                    os.abort()
                super().__init__(path, **kwargs)

        HostileReader.plan = self
        if self.hostile:
            intake.VideoReader = HostileReader
        return FaultySegmenter(self, model, tracking)


class FaultySegmenter(DrawnSegmenter):
    def __init__(self, plan: FaultyModel, model: ModelConfig, tracking: TrackingConfig) -> None:
        super().__init__(model, tracking)
        self.sick = ""
        self.is_counted = not plan.sick_actors
        if os.environ.get(SICK_NODE):
            self.sick = "a defect of this node's libraries"
        self.plan = plan
        self.can_resume = plan.resumes
        self.frame_s = plan.frame_s
        self.by_width = {width_of(number): (number, fault) for number, fault in plan.faults.items()}
        self.gate = Gate(plan.folder) if plan.gated else None

    def on_frame(self, position: int, frame: Frame) -> None:
        # Not when it loads: it may be killed before it is given a clip. Nor where the clip could be one that is held:
        # it would be tried again when others have had their turn, behind a gate that waits for it.
        if not self.is_counted and not (self.gate is not None and self.gate.holds):
            self.is_counted = True
            if count(self.plan.folder, "actor") in self.plan.sick_actors:
                self.sick = "CUDA error: an illegal memory access was encountered"
        if self.sick:
            count(self.plan.folder, "sick-" + ("node" if os.environ.get(SICK_NODE) else "actor"))
            raise RuntimeError(self.sick)
        if self.gate is not None:
            if number_of(frame.image.shape[1]) in self.plan.long:
                time.sleep(LONG_S)
            clip = number_of(frame.image.shape[1])
            if position == (LONG_AT if clip in self.plan.long else 7 * clip % GATED_FRAMES):
                self.gate.enter(clip)
        number, fault = self.by_width.get(frame.image.shape[1], (-1, None))
        if fault is None or position != fault.at:
            return
        if fault.kind == "oom" and self.rung >= fault.below_rung:
            return
        if count(self.plan.folder, f"{fault.kind}-{number}") > fault.times:
            return
        match fault.kind:
            case "abort":
                os.abort()
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(1e6)
            case "oom":
                raise MemoryError("a test")
            case "raise":
                raise RuntimeError("a defect, for a test")


class NoModel(DrawnSegmenter):
    def __init__(self, *_: object) -> None:
        raise JobStopped("there is no checkpoint at /nowhere")


class BrokenModel(DrawnSegmenter):
    def __init__(self, *_: object) -> None:
        raise OSError("disk on fire")


def count(folder: str, name: str) -> int:
    """How often this was called with this name, this call included, over all processes."""
    number = 0
    while True:
        number += 1
        try:
            os.close(os.open(Path(folder) / f"{name}.{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        return number


def counted(folder: Path, name: str) -> int:
    return len(list(Path(folder).glob(f"{name}.*")))
