"""Progress of an attempt at a clip, and the time of its stages."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sam3ray.video import Frame


@dataclass
class ClipProgress:
    """Any change of `value` is progress. Written by the working thread, read by others."""

    stage: str = "idle"
    done: int = 0  # frames annotated
    ticks: int = 0  # other progress: bytes fetched, frames read
    window: str = ""  # newest window on the store, as clip id/name

    @property
    def value(self) -> tuple[str, int, int, str]:
        return self.stage, self.done, self.ticks, self.window

    def keep(self, window: str) -> None:
        self.window = window

    def tick(self) -> None:
        self.ticks += 1


@dataclass(frozen=True)
class Attempt:
    """One attempt at a clip, or at a part of it.

    Attributes:
        rung: of the out-of-memory ladder.
        attempt: number of the attempt, from 1, across all workers.
        began: start, by `time.perf_counter`.
    """

    rung: int
    attempt: int
    began: float

    @property
    def seconds(self) -> float:
        return round(time.perf_counter() - self.began, 4)


@dataclass
class StageClock:
    """Measures the seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def time(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def timed(self, stage: str, items: Iterable[Frame]) -> Iterator[Frame]:
        iterator = iter(items)
        while True:
            with self.time(stage):
                item = next(iterator, None)
            if item is None:
                return
            yield item
