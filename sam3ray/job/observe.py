"""How a job stands, as a value, and who may be told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sam3ray.failures import Failure, Reason
from sam3ray.job.result import ClipResult


@dataclass(frozen=True)
class Snapshot:
    """How the job stands.

    Attributes:
        done, failed: clips of this run and of earlier ones.
        frames, objects: of this run; frames include those of clips that are running.
        eta_s: from the rate of clips so far, None before the first one.
        notice: one sentence that the user should see, or nothing.
    """

    clips: int
    done: int = 0
    failed: Mapping[Reason, int] = field(default_factory=dict)
    running: int = 0
    waiting: int = 0
    actors: int = 0
    starting: int = 0
    frames: int = 0
    objects: int = 0
    seconds: float = 0.0
    eta_s: float | None = None
    rendered: int = 0
    rendering: int = 0  # waiting for it, or at it
    notice: str = ""

    @property
    def frames_per_s(self) -> float:
        return self.frames / self.seconds if self.seconds > 0 else 0.0


class Observer(Protocol):
    """Called from the driver's loop: must be quick, must not raise."""

    def update(self, snapshot: Snapshot) -> None: ...

    def clip_done(self, result: ClipResult) -> None: ...

    def clip_failed(self, failure: Failure) -> None: ...

    def close(self) -> None: ...


class Observers:
    """Several as one."""

    def __init__(self, members: Sequence[Observer]) -> None:
        self._members = tuple(members)

    def update(self, snapshot: Snapshot) -> None:
        for member in self._members:
            member.update(snapshot)

    def clip_done(self, result: ClipResult) -> None:
        for member in self._members:
            member.clip_done(result)

    def clip_failed(self, failure: Failure) -> None:
        for member in self._members:
            member.clip_failed(failure)

    def close(self) -> None:
        for member in self._members:
            member.close()
