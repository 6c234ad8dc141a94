"""The scheduler's limits and the actions it asks for: values only.

A clip here is an item of work: a whole clip or a part of one (`job.graph`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sam3ray.failures import Reason

LAST_RUNG = 5  # of the out-of-memory ladder: see job.worker
FRESH_RUNG = 5  # the rung that needs an actor which has run nothing before
TRIES_TIMED_OUT = 2
PATIENT_LOSSES = 3  # lost nodes after which a clip waits until all others have had their turn
BACKOFF_CAP_S = 60.0
PENDING_ACTORS = 64  # actors waiting for room at a time: enough to make an autoscaler add nodes


@dataclass(frozen=True)
class Limits:
    """What the scheduler needs from the configuration."""

    actors_min: int = 1
    actors_max: int = 8
    crashes: int = 3  # attempts at a clip on which workers crash
    no_progress_s: float = 600.0
    start_timeout_s: float = 900.0  # from an actor's placement to its model being loaded
    place_timeout_s: float | None = None  # without any actor placed before the job stops; None waits for ever
    storage_errors: int = 8
    actor_starts: int = 3  # failed starts in a row, none alive, that stop the job
    node_losses: int = 10
    backoff_s: float = 1.0  # first back-off; doubles up to BACKOFF_CAP_S


@dataclass(frozen=True, slots=True)
class StartActor:
    """On any node but those of `avoid`."""

    actor: int
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """Have the actor, which has been placed, load its model. Ends in `actor_ready` or `actor_start_failed`."""

    actor: int


@dataclass(frozen=True, slots=True)
class Assign:
    """Run the clip on the actor, whose answer is `clip_done` or `clip_failed`."""

    actor: int
    clip: int
    attempt: int
    rung: int


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Fetch the clip ahead; with `first_frames`, open it and decode some. Ends in `prefetched`."""

    actor: int
    clip: int
    first_frames: bool


@dataclass(frozen=True, slots=True)
class Merge:
    """Merge a clip's windows on a CPU, beside the actors. Ends in `task_done` or `task_failed`."""

    clip: int
    attempt: int


@dataclass(frozen=True, slots=True)
class DropPrefetch:
    actor: int
    clip: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End the actor's process; no more events are expected from it. `idle`: it is healthy and has nothing to do."""

    actor: int
    why: str
    idle: bool = False


@dataclass(frozen=True, slots=True)
class RecordFailure:
    """Write down a failed attempt at a clip or a part of it. `final`: the whole clip is settled for this run."""

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
    """A node or a GPU, `name` for people, gets no more clips for `seconds`."""

    name: str
    why: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Reinstate:
    """It is tried again, or has proved healthy."""

    name: str


@dataclass(frozen=True, slots=True)
class Stop:
    """The job cannot continue: exit code 3. Nothing is running."""

    message: str


Action = (
    StartActor | Load | Assign | Prefetch | Merge | DropPrefetch | Kill | RecordFailure | SetAside | Reinstate | Stop
)


@dataclass(frozen=True)
class Counts:
    """Of clips, whole ones.

    Attributes:
        running: at work on some part of them; `waiting`: those that no actor works on.
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
        """Neither done nor given up."""
        return self.running + self.waiting
