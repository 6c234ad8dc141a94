"""The state that the scheduler and its parts share: items, actors, places, and actions to carry out.

The scheduler receives events, `job.judge` interprets failures, `job.assignment` assigns clips. They meet only here.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from sam3ray.failures import Reason
from sam3ray.job.actions import BACKOFF_CAP_S, Action, DropPrefetch, Limits
from sam3ray.job.blame import Blame
from sam3ray.job.crew import Crew
from sam3ray.job.graph import Work
from sam3ray.job.health import Health
from sam3ray.job.placement import Placement
from sam3ray.job.starts import Starts
from sam3ray.job.worklist import Worklist


class Board:
    """The shared state, with the updates that keep its parts consistent. Decides nothing.

    Attributes:
        out: actions that the driver has yet to receive.
        paused_until: no clip is assigned before then.
        draining: no more clips are assigned.
        stopping: why the job will stop when running work has ended.
        stopped: why it has stopped.
    """

    def __init__(
        self,
        lengths: Sequence[float],
        limits: Limits,
        prior: Mapping[int, Iterable[Reason]],
        prior_parts: Mapping[Work, Iterable[Reason]],
        seed: int,
    ) -> None:
        self.limits = limits
        self.blame = Blame(limits, prior)
        self.work = Worklist(lengths, self.blame, prior, prior_parts)
        self.line = self.work.line
        self.crew = Crew()
        self.health = Health()
        self.placement = Placement(self.crew, self.health, self.blame)
        self.starts = Starts(limits, self.crew, self.health, self.placement, self.backoff)
        self.out: list[Action] = []
        self.paused_until = float("-inf")
        self.draining = False
        self.stopping: str | None = None
        self.stopped: str | None = None
        self._random = random.Random(seed)

    @property
    def ending(self) -> bool:
        """No more clips are assigned."""
        return self.draining or self.stopping is not None

    @property
    def at_rest(self) -> bool:
        """Whether nothing is running."""
        return self.crew.running == 0 and self.work.merges.running == 0

    def clip_of(self, clip: int) -> int:
        """The whole clip to which an item belongs."""
        return self.work.graph.clip(clip)

    def backoff(self, errors: int) -> float:
        """Seconds to wait after this many consecutive errors: exponential, with jitter."""
        return min(BACKOFF_CAP_S, self.limits.backoff_s * 2.0 ** min(errors - 1, 30)) * self._random.uniform(0.5, 1.0)

    def begin_stop(self, message: str) -> None:
        """Assigns no more clips; the job stops when the running clips have ended. An empty message is not shown."""
        if message and self.stopping is None and self.stopped is None:
            self.stopping = message

    def unhold(self, actor: int, *, drop: bool = False) -> int:
        """Takes back the clip that the actor holds. `drop`: its prefetched data is no longer needed."""
        if drop:
            self.out.append(DropPrefetch(actor, self.crew[actor].next))
        return self.crew.unhold(actor)

    def forget(self, actor: int, now: float) -> None:
        """Removes the actor; a clip held for it returns to the queue, uncharged."""
        member = self.crew.remove(actor)
        if member.clip >= 0:
            self.health.attempt_ended(self.health.place_of(actor))
        if member.next >= 0:
            self.line.put_back(member.next)
        self.health.actor_gone(actor)
        if member.ready and self.crew.ready == 0:
            self.starts.none_ready(now)

    def release(self, actor: int, clip: int) -> bool:
        """The actor has finished the clip; False if that is already known."""
        member = self.crew.get(actor)
        if member is None or member.clip != clip:
            return False
        self.crew.release(actor)
        self.health.attempt_ended(self.health.place_of(actor))
        return True
