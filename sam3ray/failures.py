"""Failures as data: the closed set of reasons, and the errors that carry them.

* `ClipError` - one clip cannot be labelled; the job continues. Becomes a `Failure` record on the store.
* `UserError` - configuration, manifest or arguments are wrong; nothing was started (exit code 2).
* `WorkerUnfit` - a worker has started on a node that lacks what the run needs; no clip has been tried.
* `JobStopped` - the job cannot continue, and no clip is to blame (exit code 3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from sam3ray.guard.printable import printable, printable_lines


class Reason(StrEnum):
    """Why an attempt at a clip failed. The values are the ones written to storage."""

    NOT_FOUND = "not_found"
    PERMISSION_DENIED = "permission_denied"
    UNREADABLE_VIDEO = "unreadable_video"
    NO_VIDEO_STREAM = "no_video_stream"
    EMPTY_RANGE = "empty_range"
    OVER_LIMITS = "over_limits"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    STORAGE = "storage"
    PREEMPTED = "preempted"
    DEVICE = "device"
    LOCAL_DISK = "local_disk"
    INTERNAL = "internal"

    @property
    def is_charged(self) -> bool:
        """Whether the attempt counts towards the clip's limit of tries. Faults of storage and nodes do not."""
        return self not in _UNCHARGED

    @property
    def is_node_fault(self) -> bool:
        """Whether the attempt's node is to blame."""
        return self in (Reason.DEVICE, Reason.LOCAL_DISK)

    @property
    def is_of_content(self) -> bool:
        """Whether it follows from the clip's content or address, in whatever process."""
        return self in _FINAL and self is not Reason.INTERNAL

    @property
    def is_final(self) -> bool:
        """Whether one such failure settles the clip for this run, because a retry cannot help."""
        return self in _FINAL


_UNCHARGED = frozenset({Reason.STORAGE, Reason.PREEMPTED, Reason.DEVICE, Reason.LOCAL_DISK})
_FINAL = frozenset(
    {
        Reason.NOT_FOUND,
        Reason.PERMISSION_DENIED,
        Reason.UNREADABLE_VIDEO,
        Reason.NO_VIDEO_STREAM,
        Reason.EMPTY_RANGE,
        Reason.OVER_LIMITS,
        Reason.INTERNAL,
    }
)


class ClipError(Exception):
    """A clip cannot be labelled. `where` names the place: a uri, a frame, a stage."""

    def __init__(self, reason: Reason, message: str, where: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = _sentence(message)
        self.where = where

    def __reduce__(self) -> tuple[type[ClipError], tuple[Reason, str, str]]:
        # Exceptions cross process borders by pickling their args; ours has three.
        return (ClipError, (self.reason, self.message, self.where))

    def __str__(self) -> str:
        place = f" ({printable(self.where)})" if self.where else ""
        return f"{self.reason.value}: {self.message}{place}"


_LONGEST = 2_000


def _sentence(text: str) -> str:
    """Makes untrusted text (names, keys, messages of libraries) printable, and limits its length."""
    shown = printable(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 500]} ... {text[-400:]}")
    return shown if len(shown) <= 2 * _LONGEST else f"{shown[: 2 * _LONGEST]}..."


class UserError(Exception):
    """The configuration, manifest or arguments are wrong. Contains every problem found, one sentence each."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = tuple(map(_sentence, (problems,) if isinstance(problems, str) else problems))
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[UserError], tuple[tuple[str, ...]]]:
        return (UserError, (self.problems,))


class WorkerUnfit(Exception):
    """A worker cannot do what the run needs, though one on another node may. Its start has failed."""


class JobStopped(Exception):
    """The job cannot continue: nothing could be loaded, storage is unreachable, too many errors."""


class NotNow(JobStopped):
    """It may work later: a node is short of a resource, or a hub is busy. An actor that raises it is restarted."""


@dataclass(frozen=True)
class Failure:
    """One failed attempt at a clip, as recorded under `failures/<clip_id>/<n>.json`.

    `final` says that the attempt settled the clip: a later run does not try it until its records are cleared, unless
    the reason is not charged to clips. `attempt` counts from 1. `window` names the last window of the clip saved
    before; empty if there is none.
    """

    clip_id: str
    reason: Reason
    message: str
    where: str = ""
    traceback: str = ""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    attempt: int = 0
    final: bool = False
    window: str = ""

    def __post_init__(self) -> None:
        # Any program may show a record, so untrusted text is made printable before it is stored.
        object.__setattr__(self, "message", _sentence(" ".join(self.message.split())))
        object.__setattr__(self, "where", printable(self.where))
        object.__setattr__(self, "traceback", printable_lines(self.traceback))
