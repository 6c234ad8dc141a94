"""The scheduler's limits and the actions that it requests: plain values.

A clip here is an item of work: a whole clip or a part of one (`job.graph`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sam3ray.failures import Reason

LAST_RUNG = 5  # of the out-of-memory ladder: see job.worker
FRESH_RUNG = 5  # the rung that needs a fresh actor, which has run nothing yet
TRIES_TIMED_OUT = 2
PATIENT_LOSSES = 3  # after this many lost nodes, a clip waits until all others have run
BACKOFF_CAP_S = 60.0
PENDING_ACTORS = 64  # unplaced actors at a time: enough to make an autoscaler add nodes


@dataclass(frozen=True)
class Limits:
    """What the scheduler needs from the configuration."""

    actors_min: int = 1
    actors_max: int = 8
    crashes: int = 3  # attempts at a clip whose workers crash
    no_progress_s: float = 600.0
    start_timeout_s: float = 900.0  # from an actor's placement to its model being loaded
    place_timeout_s: float | None = None  # without a placed actor before the job stops; None: no limit
    storage_errors: int = 8
    actor_starts: int = 3  # consecutive failed starts, with no actor alive, that stop the job
    node_losses: int = 10
    backoff_s: float = 1.0  # first back-off; doubles up to BACKOFF_CAP_S


@dataclass(frozen=True, slots=True)
class StartActor:
    """Start an actor on any node except those in `avoid`."""

    actor: int
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """Let a placed actor load its model. The answer is `actor_ready` or `actor_start_failed`."""

    actor: int


@dataclass(frozen=True, slots=True)
class Assign:
    """Run the clip on the actor. The answer is `clip_done` or `clip_failed`."""

    actor: int
    clip: int
    attempt: int
    rung: int


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Fetch the clip in advance; with `first_frames`, also decode its first frames. The answer is `prefetched`."""

    actor: int
    clip: int
    first_frames: bool


@dataclass(frozen=True, slots=True)
class Merge:
    """Merge a clip's windows on a CPU, not on an actor. The answer is `task_done` or `task_failed`."""

    clip: int
    attempt: int


@dataclass(frozen=True, slots=True)
class DropPrefetch:
    actor: int
    clip: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End the actor's process; no more events come from it. `idle`: it is healthy and has no work."""

    actor: int
    why: str
    idle: bool = False


@dataclass(frozen=True, slots=True)
class RecordFailure:
    """Record a failed attempt at a clip or a part of it. `final`: the whole clip is settled for this run."""

    clip: int
    attempt: int
    reason: Reason
    message: str
    final: bool
    where: str = ""
    traceback: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SetAside:
    """The node or GPU gets no clips for `seconds`. `name` is its name in messages."""

    name: str
    why: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Reinstate:
    """The node or GPU may get clips again."""

    name: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The job cannot continue (exit code 3). Nothing is running."""

    message: str


Action = (
    StartActor | Load | Assign | Prefetch | Merge | DropPrefetch | Kill | RecordFailure | SetAside | Reinstate | Stop
)


@dataclass(frozen=True)
class Counts:
    """How many whole clips are in each state.

    Attributes:
        running: clips with at least one part on an actor; `waiting`: clips that no actor works on.
    """

    clips: int
    done: int
    failed: Mapping[Reason, int] = field(default_factory=dict)
    running: int = 0
    waiting: int = 0
    actors_ready: int = 0
    actors_starting: int = 0  # placed, loading the model
    actors_unplaced: int = 0  # waiting for the cluster to have room
    aside: Mapping[str, str] = field(default_factory=dict)  # nodes and GPUs set aside, and why

    @property
    def settled(self) -> int:
        return self.done + sum(self.failed.values())

    @property
    def open(self) -> int:
        """Clips that are neither done nor given up."""
        return self.running + self.waiting
