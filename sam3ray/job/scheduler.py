"""Which clip goes to which actor, and what a failure means: a pure state machine.

Nothing here knows Ray, storage or the time. The driver tells what happened (one method per event,
each with `now` in seconds of any monotonic clock) and carries out the actions that come back.

A clip is an index into the driver's list; an actor is a number, never used twice, so news of an
actor that was given up is recognised and ignored. Invariants, checked in the tests by simulation:

* every clip is settled exactly once (done, or failed with a final record), or still open when the
  job is stopped;
* a clip runs on at most one actor at a time;
* nothing a clip did not do is charged to it.

Rules
-----
Order: longest first; a clip that comes back keeps its place. Each actor runs one clip and may hold
one more, whose download and first frames are prefetched; an idle actor takes such a clip over when
nothing else is left.

Blame: when an actor dies, the clip it ran is charged. While the first frames of the *next* clip
were being decoded in the same process, the culprit is not known for certain: the running clip is
charged, unless that would settle it; both clips become suspects, and beside a suspect, or for one,
nothing is decoded ahead any more. So a clip pays at most once for what another did, and is never
given up for it (with `crashes` = 1 nothing is decoded ahead).

Actors: as many as there are open clips, up to `actors_max`. Those that the cluster has no room for yet wait to be
placed (at most `PENDING_ACTORS` at a time), which tells a cluster that can grow to do so. An actor goes as soon as
nothing is left for it, those that wait first: what it holds is wanted elsewhere. An actor whose node is about to
go (`actor_leaving`) finishes its clip and gets no other; one that takes its place is started at once.

A lost node charges nobody. So that a clip which takes nodes down (by exhausting their memory, say)
cannot do so for ever, a clip that was running on `node_losses` lost nodes is recorded as
`preempted`, which does not settle it for the next run; from the third loss on it waits until
all other clips have had their turn.

Storage errors charge nobody: the clip waits (exponential back-off with jitter). Errors are counted
by rounds: one of an attempt that began before the last counted error says nothing new, since
a thousand actors see one outage a thousand times. `storage_errors` rounds without a success between
them stop the job; from the second on, nobody is given a clip until the back-off is over. A single
clip whose storage errs that often while others succeed is recorded as `storage` and left to the
next run.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sam3ray.failures import Reason
from sam3ray.job.actions import (
    BACKOFF_CAP_S,
    FRESH_RUNG,
    PATIENT_LOSSES,
    PENDING_ACTORS,
    Action,
    Assign,
    Counts,
    DropPrefetch,
    Kill,
    Limits,
    Prefetch,
    RecordFailure,
    StartActor,
    Stop,
)
from sam3ray.job.blame import Blame
from sam3ray.job.line import Line


@dataclass(slots=True)
class _Actor:
    started_at: float
    placed_at: float | None = None
    ready: bool = False
    fresh: bool = True
    unreachable: bool = False
    leaving: bool = False
    clip: int = -1  # running
    assigned_at: float = 0.0
    attempt: int = 0
    rung: int = 0
    next: int = -1  # held for it
    decoding: int = -1  # whose first frames are being decoded ahead in the actor's process
    progress: object = None
    progress_at: float = 0.0


class Scheduler:
    """The state machine. Call `start` once, then one method per event; carry out what they return."""

    def __init__(
        self,
        lengths: Sequence[float],
        limits: Limits,
        *,
        prior: Mapping[int, Iterable[Reason]] | None = None,
        seed: int = 0,
    ) -> None:
        """`lengths`: one number per clip, in any one unit; 0 where unknown. `prior`: reasons of the
        failed attempts that earlier runs recorded, so that caps hold across runs."""
        self.limits = limits
        self._line = Line(lengths)
        self._done = 0
        self._failed: Counter[Reason] = Counter()
        self._blame = Blame(limits, prior or {})
        self._actors: dict[int, _Actor] = {}
        self._idle: dict[int, None] = {}  # ready, nothing to run; oldest first
        self._holders: dict[int, None] = {}  # holding a next clip
        self._bare: dict[int, None] = {}  # running a clip, holding no next one
        self._unplaced: dict[int, None] = {}  # the cluster has not made room for them yet
        self._leaving: dict[int, None] = {}  # running a last clip on nodes that are about to go
        self._ready = 0
        self._running = 0
        self._actor_ids = 0
        self._start_errors = 0  # in a row
        self._start_after = 0.0
        self._lonely_since: float | None = None  # since when no actor has been ready
        self._storage_errors = 0  # rounds in a row
        self._storage_error_at = float("-inf")
        self._paused_until = float("-inf")
        self._draining = False
        self._stopped: str | None = None
        self._random = random.Random(seed)
        self._out: list[Action] = []

    # What the driver wants to know

    @property
    def finished(self) -> bool:
        """Nothing is left to do or to wait for."""
        if self._stopped is not None:
            return True
        if self._draining:
            return self._running == 0
        return self._line.open == 0

    @property
    def stopped(self) -> str | None:
        return self._stopped

    @property
    def counts(self) -> Counts:
        return Counts(
            clips=len(self._line),
            done=self._done,
            failed=dict(self._failed),
            running=self._running,
            waiting=self._line.open - self._running,
            actors_ready=self._ready,
            actors_starting=len(self._actors) - self._ready - len(self._unplaced),
            actors_unplaced=len(self._unplaced),
        )

    def running_on(self, actor: int) -> int | None:
        """The clip that the actor runs."""
        state = self._actors.get(actor)
        return None if state is None or state.clip < 0 else state.clip

    def knows(self, actor: int) -> bool:
        return actor in self._actors

    def actors(self) -> list[int]:
        return list(self._actors)

    # Events

    def start(self, now: float) -> list[Action]:
        self._lonely_since = now
        return self._settle(now)

    def actor_placed(self, actor: int, now: float) -> list[Action]:
        """Its process runs; now it loads the model."""
        state = self._actors.get(actor)
        if state is not None and state.placed_at is None:
            state.placed_at = now
            self._unplaced.pop(actor, None)
        return self._settle(now)

    def actor_ready(self, actor: int, now: float) -> list[Action]:
        state = self._actors.get(actor)
        if state is not None and not state.ready:
            state.ready = True
            self._unplaced.pop(actor, None)
            self._ready += 1
            self._lonely_since = None
            self._start_errors = 0
            self._idle[actor] = None
        return self._settle(now)

    def actor_start_failed(self, actor: int, message: str, now: float, *, hopeless: bool = False) -> list[Action]:
        """It could not load its model. `hopeless`: nor could any other (no such checkpoint, say)."""
        if actor in self._actors and not self._actors[actor].ready:
            self._out.append(Kill(actor, message))
            self._forget(actor, now)
            if hopeless and self._ready == 0:
                self._stop(f"no actor can start: {message}")
            self._start_error(message, now)
        return self._settle(now)

    def actor_lost(self, actor: int, reason: Reason, message: str, now: float) -> list[Action]:
        """Its process is gone. `reason`: crashed, out_of_memory (killed for it) or preempted."""
        state = self._actors.get(actor)
        if state is None:
            return self._settle(now)
        if not state.ready:
            self._forget(actor, now)
            if reason is Reason.PREEMPTED:
                self._start_after = max(self._start_after, now + self.limits.backoff_s)
            else:
                self._start_error(message, now)
            return self._settle(now)
        self._forget(actor, now)
        ahead = state.decoding if reason is Reason.CRASHED else -1
        if ahead >= 0 and not self._line.is_settled(ahead):
            self._blame.of(ahead).suspect = True
        if state.clip >= 0:
            seconds = now - state.assigned_at
            record = RecordFailure(state.clip, state.attempt, reason, message, False, "worker", "", seconds)
            self._failed_attempt(record, now, ambiguous=ahead >= 0)
        return self._settle(now)

    def actor_unreachable(self, actor: int, now: float) -> list[Action]:
        """It does not answer and is not known to be dead: no hang detection until that is known."""
        state = self._actors.get(actor)
        if state is not None:
            state.unreachable = True
        return self._settle(now)

    def actor_leaving(self, actor: int, why: str, now: float) -> list[Action]:
        """Its node is about to go: it may finish its clip and gets no other."""
        state = self._actors.get(actor)
        if state is not None and not state.leaving:
            if state.clip < 0:
                self._replace(actor, now, why, idle=state.ready)
            else:
                state.leaving = True
                self._leaving[actor] = None
                if state.next >= 0:
                    self._line.put_back(state.next)
                    self._unhold(actor, drop=True)
                self._bare.pop(actor, None)
        return self._settle(now)

    def prefetched(self, actor: int, clip: int, now: float) -> list[Action]:
        """The prefetch ended, well or not: if not, running the clip will tell."""
        state = self._actors.get(actor)
        if state is not None and state.decoding == clip:
            state.decoding = -1
        return self._settle(now)

    def progress(self, actor: int, clip: int, value: object, now: float) -> list[Action]:
        """Any change of `value` (frames done, bytes fetched, the stage) is progress."""
        state = self._actors.get(actor)
        if state is not None and state.clip == clip and value != state.progress:
            state.progress = value
            state.progress_at = now
        return []

    def clip_done(self, actor: int, clip: int, now: float) -> list[Action]:
        """Committed, by this attempt or by another one before it."""
        if self._release(actor, clip, now):
            self._storage_errors = 0
            self._paused_until = float("-inf")
            self._settle_clip(clip)
            self._done += 1
        return self._settle(now)

    def clip_failed(
        self,
        actor: int,
        clip: int,
        reason: Reason,
        message: str,
        now: float,
        *,
        where: str = "",
        traceback: str = "",
        seconds: float = 0.0,
    ) -> list[Action]:
        """The attempt ended in an error that the worker survived."""
        state = self._actors.get(actor)
        attempt, began = (state.attempt, state.assigned_at) if state else (0, now)
        if self._release(actor, clip, now):
            record = RecordFailure(clip, attempt, reason, message, False, where, traceback, seconds)
            self._failed_attempt(record, now, actor=actor, began=began)
        return self._settle(now)

    def tick(self, now: float) -> list[Action]:
        """Time passed. Call about once a second."""
        for actor, state in list(self._actors.items()):
            if state.unreachable:
                continue
            if state.clip >= 0 and now - state.progress_at >= self.limits.no_progress_s:
                clip, attempt, began, progress = state.clip, state.attempt, state.assigned_at, state.progress
                message = f"no progress for {now - state.progress_at:.0f} s (last: {progress or 'nothing yet'})"
                self._out.append(Kill(actor, message))
                self._forget(actor, now)
                record = RecordFailure(clip, attempt, Reason.TIMED_OUT, message, False, "worker", "", now - began)
                self._failed_attempt(record, now)
            elif (
                not state.ready and state.placed_at is not None and now - state.placed_at >= self.limits.start_timeout_s
            ):
                message = f"an actor did not load its model within {self.limits.start_timeout_s:.0f} s"
                self._out.append(Kill(actor, message))
                self._forget(actor, now)
                self._start_error(message, now)
        limit = self.limits.place_timeout_s
        if (
            limit is not None
            and self._lonely_since is not None
            and not self._draining
            and self._line.open
            and now - self._lonely_since >= limit
            and len(self._unplaced) == len(self._actors)
        ):
            self._stop(f"no actor could be placed within {limit:.0f} s: the cluster has no free resources for one")
        return self._settle(now)

    def drain(self, now: float) -> list[Action]:
        """Give out no more clips; what runs may end. `finished` says when it has."""
        self._draining = True
        return self._settle(now)

    # Clips

    def _settle_clip(self, clip: int) -> None:
        self._line.settle(clip)
        self._blame.forget(clip)

    def _backoff(self, errors: int) -> float:
        return min(BACKOFF_CAP_S, self.limits.backoff_s * 2.0 ** min(errors - 1, 30)) * self._random.uniform(0.5, 1.0)

    def _failed_attempt(
        self, record: RecordFailure, now: float, *, actor: int = -1, began: float = 0.0, ambiguous: bool = False
    ) -> None:
        """Charges what is to be charged, and puts the clip back or settles it."""
        clip, reason = record.clip, record.reason
        final = self._blame.charge(clip, reason, ambiguous=ambiguous)
        history = self._blame.of(clip)
        if reason is Reason.CRASHED:
            # An actor that reports the crash itself (a lost GPU context) is of no use any more.
            self._replace(actor, now, record.message)
        elif reason is Reason.STORAGE:
            self._storage_error(record.message, began, now)
            # The breaker goes first: with nothing but errors the storage is at fault.
            final = final and self._stopped is None
        if final:
            self._settle_clip(clip)
            self._failed[reason] += 1
        elif reason is Reason.STORAGE:
            self._line.put_back_until(clip, now + self._backoff(history.storage))
        elif reason is Reason.OUT_OF_MEMORY and history.rung >= FRESH_RUNG:
            self._line.put_back_fresh(clip)
            self._replace(actor, now, f"out of memory on clip {clip}: a fresh process is tried", idle=True)
        elif reason is Reason.PREEMPTED and history.losses >= PATIENT_LOSSES:
            self._line.put_back_patient(clip)
        else:
            self._line.put_back(clip)
        self._out.append(
            RecordFailure(
                clip, record.attempt, reason, record.message, final, record.where, record.traceback, record.seconds
            )
        )

    def _storage_error(self, message: str, began: float, now: float) -> None:
        if began < self._storage_error_at:
            return
        self._storage_error_at = now
        self._storage_errors += 1
        if self._storage_errors >= self.limits.storage_errors:
            self._stop(f"storage failed {self._storage_errors} times in a row; the last error: {message}")
        elif self._storage_errors >= 2:
            self._paused_until = now + self._backoff(self._storage_errors - 1)

    # Actors

    def _start_error(self, message: str, now: float) -> None:
        self._start_errors += 1
        if self._ready == 0 and self._start_errors >= self.limits.actor_starts:
            tries = f"{self._start_errors} actors in a row" if self._start_errors > 1 else "an actor"
            self._stop(f"{tries} could not start; the last error: {message}")
        self._start_after = now + self._backoff(self._start_errors)

    def _stop(self, message: str) -> None:
        if self._stopped is None:
            self._stopped = message
            self._out.append(Stop(message))

    def _forget(self, actor: int, now: float) -> None:
        """Strikes the actor off; a clip held for it goes back, uncharged."""
        state = self._actors.pop(actor)
        self._idle.pop(actor, None)
        self._holders.pop(actor, None)
        self._bare.pop(actor, None)
        self._unplaced.pop(actor, None)
        self._leaving.pop(actor, None)
        if state.clip >= 0:
            self._running -= 1
        if state.next >= 0:
            self._line.put_back(state.next)
        if state.ready:
            self._ready -= 1
            if self._ready == 0:
                self._lonely_since = now

    def _replace(self, actor: int, now: float, why: str, *, idle: bool = False) -> None:
        if actor in self._actors:
            self._out.append(Kill(actor, why, idle))
            self._forget(actor, now)

    def _release(self, actor: int, clip: int, now: float) -> bool:
        """The actor is done with the clip; False if that is no news (any more)."""
        state = self._actors.get(actor)
        if state is None or state.clip != clip:
            return False
        state.clip = -1
        state.unreachable = False
        self._running -= 1
        self._bare.pop(actor, None)
        if state.leaving:
            self._replace(actor, now, "its node is about to go", idle=True)
        else:
            self._idle[actor] = None
        return True

    # Decisions

    def _settle(self, now: float) -> list[Action]:
        """Whatever follows from the state: starts, assignments, prefetches, stops of idle actors."""
        if self._stopped is None and not self._draining:
            self._start_actors(now)
            if now >= self._paused_until:
                for actor in list(self._idle):
                    if not self._give(actor, now):
                        break
                self._hold_ahead(now)
            self._retire(now)
        out, self._out = self._out, []
        return out

    def _start_actors(self, now: float) -> None:
        if now < self._start_after:
            return
        wanted = self._actors_wanted()
        if self._line.wants_fresh and not any(a.fresh and a.placed_at is not None for a in self._actors.values()):
            # A clip waits for a process that has run nothing before: an idle actor makes room.
            idle = next(iter(self._idle), None)
            if idle is not None and (self._unplaced or self._staying >= wanted):
                self._replace(idle, now, "a fresh process is wanted", idle=True)
        most = max(PENDING_ACTORS, self.limits.actors_min)
        while self._staying < wanted and len(self._unplaced) < most:
            actor = self._actor_ids
            self._actor_ids += 1
            self._actors[actor] = _Actor(started_at=now)
            self._unplaced[actor] = None
            self._out.append(StartActor(actor))

    def _actors_wanted(self) -> int:
        # No more than the open clips: more would only wait.
        return min(self.limits.actors_max, self._line.open - len(self._leaving))

    @property
    def _staying(self) -> int:
        return len(self._actors) - len(self._leaving)

    def _give(self, actor: int, now: float) -> bool:
        """Gives an idle actor its next clip; False where no actor could be given one now."""
        state = self._actors[actor]
        clip = -1
        if state.fresh and self._line.wants_fresh:
            clip = self._line.take(now, fresh=True)
            if clip >= 0 and state.next >= 0:
                self._line.put_back(state.next)
                self._unhold(actor, drop=True)
        elif state.next >= 0:
            clip = state.next
            self._unhold(actor)
        if clip < 0:
            clip = self._line.take(now)
        if clip < 0 and self._holders:
            holder = next(iter(self._holders))
            clip = self._actors[holder].next
            self._unhold(holder, drop=True)
        if clip < 0:
            return self._line.wants_fresh  # another idle actor may be fresh
        history = self._blame.of(clip)
        history.attempts += 1
        del self._idle[actor]
        self._running += 1
        state.clip, state.attempt, state.rung = clip, history.attempts, history.rung
        state.assigned_at = state.progress_at = now
        state.progress = None
        state.fresh = False
        if state.decoding == clip:
            state.decoding = -1  # from now on it is the running clip, and to blame
        self._bare[actor] = None
        self._out.append(Assign(actor, clip, history.attempts, history.rung))
        return True

    def _hold_ahead(self, now: float) -> None:
        """Reserves a next clip for running actors, unless an idle one could run it at once."""
        while self._bare and not self._idle:
            if not self._line.has_next:
                return
            actor = next(iter(self._bare))
            state = self._actors[actor]
            held = self._line.take(now)
            del self._bare[actor]
            state.next = held
            self._holders[actor] = None
            decode = (
                self.limits.crashes > 1
                and state.decoding < 0
                and not self._blame.suspects(held)
                and not self._blame.suspects(state.clip)
            )
            if decode:
                state.decoding = held
            self._out.append(Prefetch(actor, held, decode))

    def _unhold(self, actor: int, *, drop: bool = False) -> None:
        state = self._actors[actor]
        if drop:
            self._out.append(DropPrefetch(actor, state.next))
        state.next = -1
        self._holders.pop(actor, None)
        if state.clip >= 0 and not state.leaving:
            self._bare[actor] = None

    def _retire(self, now: float) -> None:
        """Ends actors that no open clip can need: those that wait for room, then those that load, then idle ones."""
        spare = self._staying - self._actors_wanted()
        if spare <= 0:
            return
        loading = [actor for actor, state in self._actors.items() if not state.ready and actor not in self._unplaced]
        idle = [actor for actor in self._idle if self._actors[actor].next < 0]
        for actor in [*reversed(self._unplaced), *reversed(loading), *idle][:spare]:
            self._replace(actor, now, "no clips left for it", idle=self._actors[actor].ready)
