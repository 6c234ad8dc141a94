"""The state of a job as a value, and the observers that receive it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sam3ray.failures import Failure, Reason
from sam3ray.job.result import ClipResult

READING_EVERY_S = 5.0
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """The state of the job.

    Attributes:
        done, failed: clips, including those of earlier runs.
        frames, objects: of this run; frames include those of clips that are running.
        starting, unplaced: actors loading the model, and actors waiting for the cluster to place them.
        aside: nodes and GPUs that are set aside (`job.health`).
        eta_s: from the rate of clips so far; None before the first.
        rendered, rendering, render_failed: videos done, videos waiting or running, videos given up.
        to_render: clips that will be rendered once they are annotated.
        render_eta_s: from the rate of videos so far; None before the first.
        notice: one sentence for the user, or empty.
    """

    clips: int = 0
    done: int = 0
    failed: Mapping[Reason, int] = field(default_factory=dict)
    running: int = 0
    waiting: int = 0
    actors: int = 0
    starting: int = 0
    unplaced: int = 0
    aside: int = 0
    frames: int = 0
    objects: int = 0
    seconds: float = 0.0
    eta_s: float | None = None
    rendered: int = 0
    rendering: int = 0
    render_failed: int = 0
    to_render: int = 0
    render_eta_s: float | None = None
    notice: str = ""

    @property
    def frames_per_s(self) -> float:
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    @property
    def videos(self) -> int:
        """The total number of annotated videos that are wanted."""
        return self.rendered + self.rendering + self.render_failed + self.to_render


class Observer(Protocol):
    """Receives the job's events. Called in the driver's loop, so each method must return quickly."""

    def update(self, snapshot: Snapshot) -> None: ...

    def clip_done(self, result: ClipResult) -> None: ...

    def clip_failed(self, failure: Failure) -> None: ...

    def close(self) -> None: ...


def reading_told(observer: Observer, every_s: float = READING_EVERY_S) -> Callable[[int], None]:
    """Reports the progress of a long listing once it takes a while."""
    said_at = time.monotonic()

    def told(count: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= every_s:
            said_at = time.monotonic()
            observer.update(Snapshot(notice=f"reading the state of the run: {count:,} entries so far"))

    return told


class Observers:
    """Several observers as one. An observer's error is logged, once per kind, and affects nothing else."""

    def __init__(self, members: Sequence[Observer]) -> None:
        self._members = tuple(members)
        self._known: set[str] = set()

    def update(self, snapshot: Snapshot) -> None:
        self._tell(lambda member: member.update(snapshot))

    def clip_done(self, result: ClipResult) -> None:
        self._tell(lambda member: member.clip_done(result))

    def clip_failed(self, failure: Failure) -> None:
        self._tell(lambda member: member.clip_failed(failure))

    def close(self) -> None:
        self._tell(lambda member: member.close())

    def _tell(self, call: Callable[[Observer], None]) -> None:
        for member in self._members:
            try:
                call(member)
            except Exception as error:  # noqa: BLE001 - an observer's error must not end the job
                what = f"{type(member).__name__}: {type(error).__name__}"
                if what not in self._known:
                    self._known.add(what)
                    _LOG.warning("the job continues without the observer %s: %s", what, error)
