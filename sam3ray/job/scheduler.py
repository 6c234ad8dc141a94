"""Which work goes to which actor, and what a failure means: a pure state machine.

Nothing here knows Ray, storage or the time. The driver tells what happened (one method per event,
each with `now` in seconds of any monotonic clock) and carries out the actions that come back.

What is called a clip here is an item of work: a clip as a whole, or a part of a long one (`job.graph`). The first
items are the clips of the driver's list. An actor is a number, never used twice, so news of an actor that was given up
is recognised and ignored. Invariants, checked in the tests by simulation:

* every clip is settled exactly once (done, or failed with a final record), or still open when the
  job is stopped;
* a clip runs on at most one actor at a time;
* nothing a clip did not do is charged to it.

Rules
-----
Order: longest first. A clip that has to be tried again keeps its place, unless it failed in an earlier run or its
storage failed: then it goes to the end. Each actor runs one clip and may hold one more, whose download and first
frames are prefetched; an idle actor takes such a clip over when nothing else is left.

Places (`job.health`): a clip is tried again on another node if there is one, else on another GPU or in another
process (`job.placement`). A failure that the process may have caused counts against a clip only once two places agree
(`job.appeals`). An actor whose clips fail one after another is replaced; a GPU or node whose clips fail while others
succeed elsewhere is set aside. Faults of a node (`device`, `local_disk`) charge no clip.

A lost node charges no clip. But a clip may be what takes nodes down, for example by exhausting their memory. So a clip
that was running on `node_losses` lost or sick nodes is recorded with that reason, and the next run tries it again. From
the third lost node on, it waits until all other clips have had their turn.

A clip that is kept in windows (`job.windows`) is charged per window: each one that is kept clears what befell it
before. So is a clip that is cut into parallel windows, each of which is an item of its own: when one is given up, so is
the clip, and no other part of it is begun. Where failures show how a place or the storage does, the windows of a clip
count as one clip.

Storage errors charge no clip: the clip waits (exponential back-off with jitter), at the end of the line. A single
clip whose storage fails `storage_errors` times while others succeed is recorded as `storage` and left to the next
run. A node that the storage or the hub refuses gets no clips for a while; if that happens to several nodes, or to the
only one, the job stops (`job.starts`).

Whatever stops the job (`job.breaker`), no clip is charged: running clips may finish, and the others stay open.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from sam3ray.failures import Failure, Reason
from sam3ray.job.actions import (
    BACKOFF_CAP_S,
    FRESH_RUNG,
    LAST_RUNG,
    PATIENT_LOSSES,
    PENDING_ACTORS,
    Action,
    Assign,
    Counts,
    DropPrefetch,
    Kill,
    Limits,
    Load,
    Merge,
    Prefetch,
    RecordFailure,
    Reinstate,
    SetAside,
    StartActor,
    Stop,
)
from sam3ray.job.appeals import Appeals, Step
from sam3ray.job.blame import Blame
from sam3ray.job.breaker import FailureBreaker, StorageBreaker
from sam3ray.job.crew import Crew
from sam3ray.job.graph import Cutting, Stage, Work
from sam3ray.job.health import ACTOR_STRIKES, OF_PROCESS, Health, Place, State
from sam3ray.job.placement import UNSEEN_S, Placement
from sam3ray.job.starts import Starts
from sam3ray.job.verdicts import Verdict, Verdicts
from sam3ray.job.worklist import Worklist


class Scheduler:
    """The state machine. Call `start` once, then one method per event; carry out what they return."""

    def __init__(
        self,
        lengths: Sequence[float],
        limits: Limits,
        *,
        prior: Mapping[int, Iterable[Reason]] | None = None,
        prior_parts: Mapping[Work, Iterable[Reason]] | None = None,
        seed: int = 0,
    ) -> None:
        """`lengths`: one number per clip, in any one unit; 0 where unknown. `prior`: reasons of the
        failed attempts that earlier runs recorded, so that caps hold across runs; `prior_parts`: the same of parts."""
        self.limits = limits
        self._blame = Blame(limits, prior or {})
        self._work = Worklist(lengths, self._blame, prior or {}, prior_parts or {})
        self._line = self._work.line
        self._crew = Crew()
        self._health = Health()
        self._placement = Placement(self._crew, self._health, self._blame)
        self._verdicts = Verdicts()
        self._appeals = Appeals(self._crew, self._health, self._placement, self._blame)
        self._breaker = FailureBreaker(self._blame.known)
        self._storage = StorageBreaker(limits, self._blame.known)
        self._starts = Starts(limits, self._crew, self._health, self._placement, self._backoff)
        self._paused_until = float("-inf")
        self._draining = False
        self._stopping: str | None = None  # why, while what runs may end
        self._stopped: str | None = None
        self._random = random.Random(seed)
        self._out: list[Action] = []

    # What the driver wants to know

    @property
    def finished(self) -> bool:
        """Nothing is left to do or to wait for."""
        if self._stopped is not None:
            return True
        if self._stopping is not None:
            return False
        if self._draining:
            return self._at_rest
        return self._line.open == 0

    @property
    def stopped(self) -> str | None:
        return self._stopped

    @property
    def stopping(self) -> str | None:
        """Why the job is going to stop once what runs has ended."""
        return self._stopping

    @property
    def counts(self) -> Counts:
        crew, work = self._crew, self._work
        running = work.clips_of(member.clip for member in crew.members() if member.clip >= 0)
        return Counts(
            clips=work.graph.clips,
            done=work.done,
            failed=dict(work.failed),
            running=running,
            waiting=work.graph.open - running,
            actors_ready=crew.ready,
            actors_starting=len(crew) - crew.ready - crew.parked - len(crew.unplaced),
            actors_unplaced=len(crew.unplaced),
            aside=self._health.aside,
        )

    @property
    def for_actors(self) -> int:
        """Open items that want an actor, those that run included."""
        return self._work.for_actors

    @property
    def expected(self) -> int:
        """Open items that want an actor, if clips are cut as expected."""
        return self._work.expected

    @property
    def merging(self) -> int:
        """Merges under way."""
        return self._work.merges.running

    def work(self, clip: int) -> Work:
        """What an item is."""
        return self._work.graph.work(clip)

    @property
    def parked(self) -> int:
        """Actors that hold GPUs which are set aside, so that no other actor gets them."""
        return self._crew.parked

    def running_on(self, actor: int) -> int | None:
        """The clip that the actor runs."""
        member = self._crew.get(actor)
        return None if member is None or member.clip < 0 else member.clip

    # Events

    def start(self, now: float) -> list[Action]:
        self._starts.none_ready(now)
        return self._settle(now)

    def adopt(self, place: Place, now: float, clip: int = -1, rung: int = 0) -> int:
        """Before `start`: an actor of an earlier driver, with its model. It works on `clip`, or on none. Its number."""
        actor = self._crew.add(now, ())
        self._crew.place(actor, now)
        self._health.actor_placed(actor, place)
        self._crew.make_ready(actor)
        if clip >= 0:
            self._line.hand_out(clip)
            history = self._blame.of(clip)
            history.attempts += 1
            self._crew.assign(actor, clip, history.attempts, rung, now)
            self._health.attempt_began(place)
        return actor

    def expect(self, windows: Mapping[int, int], now: float) -> list[Action]:
        """Clips that will likely be cut, into so many windows: actors for these load while the first one is opened."""
        self._work.expect(windows)
        return self._settle(now)

    def stays_whole(self, actor: int, clip: int, now: float) -> list[Action]:
        """The actor works on frames of the clip, which is therefore not going to be cut."""
        if self.running_on(actor) == clip and self._work.stays_whole(clip):
            return self._settle(now)
        return []

    def nodes_seen(self, nodes: Iterable[str]) -> None:
        """The nodes of the cluster that are alive and large enough for an actor: before `start`, and now and then."""
        self._health.set_nodes(nodes)

    def actor_placed(self, actor: int, now: float, place: Place | None = None) -> list[Action]:
        """Its process runs, at that place."""
        member = self._crew.get(actor)
        if member is not None and member.placed_at is None:
            self._crew.place(actor, now)
            self._health.actor_placed(actor, place or Place())
            if not self._health.is_aside(actor):
                self._out.append(Load(actor))
            elif self._health.is_node_aside(actor):
                self._replace(actor, now, "its node is set aside")
            else:
                self._crew.park(actor)  # so that no other actor gets that GPU
        return self._settle(now)

    def actor_ready(self, actor: int, now: float) -> list[Action]:
        member = self._crew.get(actor)
        if member is not None and not member.ready:
            self._crew.make_ready(actor)
            self._starts.succeeded()
        return self._settle(now)

    def actor_start_failed(
        self, actor: int, message: str, now: float, *, hopeless: bool = False, passing: bool = False
    ) -> list[Action]:
        """It could not load its model.

        Args:
            hopeless: nor could any other on that node (no such checkpoint, say).
            passing: it may well load it later: the node is short of something, or the hub is.
        """
        if actor in self._crew and not self._crew[actor].ready:
            place = self._health.place_of(actor)
            self._out.append(Kill(actor, message))
            self._forget(actor, now)
            if passing and (self._starts.none_ready_s(now) or 0.0) < self.limits.start_timeout_s:
                self._starts.wait_for_others(now)
            else:
                if hopeless:
                    self._starts.refused(place, message, now)
                self._begin_stop(self._starts.failed(message, now, actor, place, hopeless=hopeless))
        return self._settle(now)

    def actor_lost(self, actor: int, reason: Reason, message: str, now: float) -> list[Action]:
        """Its process is gone. `reason`: crashed, out_of_memory (killed for it) or preempted."""
        member = self._crew.get(actor)
        if member is None:
            return self._settle(now)
        place = self._health.place_of(actor)
        self._forget(actor, now)
        if not member.ready:
            if reason is Reason.PREEMPTED:
                self._starts.wait(self.limits.backoff_s, now)
            elif not member.parked:
                self._begin_stop(self._starts.failed(message, now, actor, place))
            return self._settle(now)
        ahead = member.decoding if reason is Reason.CRASHED else -1
        if ahead >= 0 and not self._line.is_settled(ahead):
            self._blame.of(ahead).suspect = True
        if member.clip >= 0:
            seconds = now - member.assigned_at
            record = RecordFailure(member.clip, member.attempt, reason, message, False, "worker", "", seconds)
            self._failed_attempt(record, actor, place, now, ambiguous=ahead >= 0)
        return self._settle(now)

    def actor_unreachable(self, actor: int, now: float) -> list[Action]:
        """It does not answer and is not known to be dead: no hang detection until that is known."""
        member = self._crew.get(actor)
        if member is not None:
            member.unreachable = True
        return self._settle(now)

    def actor_leaving(self, actor: int, why: str, now: float) -> list[Action]:
        """Its node is about to go: it may finish its clip and gets no other."""
        member = self._crew.get(actor)
        if member is not None and not member.leaving:
            if member.clip < 0:
                self._replace(actor, now, why, idle=member.ready)
            else:
                if member.next >= 0:
                    self._line.put_back(self._unhold(actor, drop=True))
                self._crew.leave(actor)
        return self._settle(now)

    def prefetched(self, actor: int, clip: int, now: float) -> list[Action]:
        """The prefetch ended, well or not: if not, running the clip will tell."""
        member = self._crew.get(actor)
        if member is not None and member.decoding == clip:
            member.decoding = -1
        return self._settle(now)

    def progress(self, actor: int, clip: int, value: object, now: float) -> list[Action]:
        """Any change of `value` (frames done, bytes fetched, the stage) is progress."""
        member = self._crew.get(actor)
        if member is not None and member.clip == clip and value != member.progress:
            member.progress = value
            member.progress_at = now
        return []

    def window_kept(self, actor: int, clip: int) -> None:
        """A part of the clip that the actor runs is on the store: failures are counted anew from there."""
        if self.running_on(actor) == clip:
            self._blame.renew(clip)

    def clip_done(self, actor: int, clip: int, now: float) -> list[Action]:
        """Committed, by this attempt or by another one before it."""
        if self._release(actor, clip):
            self._paused_until = float("-inf")
            self._storage.succeeded()
            self._breaker.succeeded()
            place = self._health.place_of(actor)
            self._starts.accepted(place)
            self._health.succeeded(place)
            self._crew[actor].strikes = 0
            self._crew[actor].failed = False
            self._crew[actor].done += 1
            self._finish(clip, now)
            for verdict in self._verdicts.proven_by(actor, place, self._crew.__contains__):
                self._give_up(verdict.record)
        return self._settle(now)

    def clip_cut(self, actor: int, clip: int, cutting: Cutting, now: float) -> list[Action]:
        """Whoever opened the clip found that it is made of windows."""
        if self._release(actor, clip):
            self._work.cut(clip, cutting, now)
        return self._settle(now)

    def parts_lost(self, actor: int, clip: int, windows: Collection[int], now: float) -> list[Action]:
        """Windows, or none but the links, are missing or damaged on the store. Seen by an actor, or by a merge (-1)."""
        if self._release(actor, clip) or self._work.merges.ended(clip):
            self._make_again(clip, windows, now)
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
        member = self._crew.get(actor)
        attempt, began = (member.attempt, member.assigned_at) if member else (0, now)
        if self._release(actor, clip):
            record = RecordFailure(clip, attempt, reason, message, False, where, traceback, seconds)
            self._failed_attempt(record, actor, self._health.place_of(actor), now, began=began)
        return self._settle(now)

    def turned_away(self, actor: int, clip: int, message: str, now: float) -> list[Action]:
        """The storage refused the worker whatever the clip: a token that has expired, a folder that is gone."""
        if self.running_on(actor) == clip:
            place = self._health.place_of(actor)
            if self._starts.refused(place, message, now):
                self._begin_stop(message)
        return self.clip_failed(actor, clip, Reason.STORAGE, message, now)

    def give_merges(self, slots: int, now: float) -> list[Action]:
        """Begins merges, so that no more than `slots` are under way."""
        if self.merging == self._work.merges.open:
            return []
        if not self._ending and now >= self._paused_until:
            for clip in self._work.merges.take(slots, now):
                history = self._blame.of(clip)
                history.attempts += 1
                self._work.merges.began(clip, history.attempts, now)
                self._out.append(Merge(clip, history.attempts))
        return self._settle(now)

    def merge_ended(self, clip: int, now: float, failure: Failure | None = None) -> list[Action]:
        """Well, or in an error."""
        ended = self._work.merges.ended(clip)
        if ended and failure is None:
            self._finish(clip, now)
        elif ended and failure:
            attempt, began = ended
            record = RecordFailure(clip, attempt, failure.reason, failure.message, False, failure.where)
            record = replace(record, traceback=failure.traceback, seconds=now - began)
            settles = self._blame.charge(clip, failure.reason)
            if settles and not (self._ending and not failure.reason.is_of_content):
                self._give_up(record)
            else:
                self._out.append(record)
                self._work.merges.add(clip, now + self._backoff(attempt))
        return self._settle(now)

    def tick(self, now: float) -> list[Action]:
        """Time passed. Call about once a second."""
        self._health.tick(now)
        for actor, member in self._crew.items():
            if member.unreachable or actor not in self._crew:
                continue
            if member.clip >= 0 and now - member.progress_at >= self.limits.no_progress_s:
                clip, attempt, began, progress = member.clip, member.attempt, member.assigned_at, member.progress
                message = f"no progress for {now - member.progress_at:.0f} s (last: {progress or 'nothing yet'})"
                place = self._health.place_of(actor)
                self._out.append(Kill(actor, message))
                self._forget(actor, now)
                record = RecordFailure(clip, attempt, Reason.TIMED_OUT, message, False, "worker", "", now - began)
                self._failed_attempt(record, actor, place, now)
            elif member.ready or member.parked:
                continue
            elif member.placed_at is not None and now - member.placed_at >= self.limits.start_timeout_s:
                message = f"an actor did not load its model within {self.limits.start_timeout_s:.0f} s"
                place = self._health.place_of(actor)
                self._out.append(Kill(actor, message))
                self._forget(actor, now)
                self._begin_stop(self._starts.failed(message, now, actor, place))
            elif member.placed_at is None and not set(member.avoid).issubset(self._placement.to_avoid(now)):
                self._replace(actor, now, "a node that it was kept from is back")
        lonely_s = self._starts.none_ready_s(now)
        if lonely_s is not None and not self._draining and self.for_actors:
            if lonely_s >= UNSEEN_S and not self._placement.undecided(now):
                self._health.lift()  # better there than nowhere
            limit = self.limits.place_timeout_s
            none_placed = len(self._crew.unplaced) + self._crew.parked == len(self._crew)
            if limit is not None and lonely_s >= limit and none_placed:
                self._begin_stop(
                    f"no actor could be placed within {limit:.0f} s: the cluster has no free resources for one"
                )
        self._look_at_breaker(now)
        return self._settle(now)

    def drain(self, now: float) -> list[Action]:
        """Give out no more clips; what runs may end. `finished` says when it has."""
        self._draining = True
        return self._settle(now)

    def stop(self, message: str, now: float) -> list[Action]:
        """The job cannot continue. Running clips may finish first."""
        self._begin_stop(message)
        return self._settle(now)

    # Clips

    @property
    def _ending(self) -> bool:
        return self._draining or self._stopping is not None

    @property
    def _at_rest(self) -> bool:
        return self._crew.running == 0 and self._work.merges.running == 0

    def _finish(self, clip: int, now: float) -> None:
        if self._work.finish(clip, now):
            self._health.forget_clip(self._clip_of(clip))

    def _make_again(self, clip: int, windows: Collection[int], now: float) -> None:
        if not self._work.make_again(clip, windows, now):
            message = "windows of the clip were found damaged again and again; check the storage"
            self._give_up(RecordFailure(clip, self._blame.of(clip).attempts, Reason.STORAGE, message, False, "worker"))

    def _give_up(self, record: RecordFailure) -> None:
        rest = None
        if not self._line.is_settled(record.clip):  # as it is where another part has been given up just now
            rest = self._work.give_up(record.clip, record.reason, [member.clip for member in self._crew.members()])
        self._out.append(replace(record, final=rest is not None))
        if rest is None:
            return
        self._out += [verdict.record for verdict in self._verdicts.of_clips(rest)]
        for actor in [actor for actor in self._crew.holders if self._crew[actor].next in rest]:
            self._unhold(actor, drop=True)
        self._line.withdraw(rest)
        self._health.forget_clip(self._clip_of(record.clip))

    def _clip_of(self, clip: int) -> int:
        """The whole clip that an item is, or is a part of."""
        return self._work.graph.clip(clip)

    def _backoff(self, errors: int) -> float:
        return min(BACKOFF_CAP_S, self.limits.backoff_s * 2.0 ** min(errors - 1, 30)) * self._random.uniform(0.5, 1.0)

    def _failed_attempt(
        self,
        record: RecordFailure,
        actor: int,
        place: Place,
        now: float,
        *,
        began: float = 0.0,
        ambiguous: bool = False,
    ) -> None:
        """Charges what is to be charged, and puts the clip back, settles it, or holds the verdict."""
        clip, reason = record.clip, record.reason
        settles = self._blame.charge(clip, reason, ambiguous=ambiguous)
        # On the way down the ladder, running out of memory says nothing of the place.
        if reason is not Reason.PREEMPTED and (settles or reason is not Reason.OUT_OF_MEMORY):
            self._strike(record, actor, place, began, now)
        if self._work.graph.is_over(clip):
            self._give_up(record)
            return
        if settles and not self._ending and reason in OF_PROCESS and reason.is_charged:
            settles = self._blame.nodes_that_say(clip, reason) > 1 or not self._placement.has_other_node(place.node)
        if not settles or (self._ending and not reason.is_of_content):
            self._out.append(record)
            self._put_back(clip, reason, actor, now)
        elif reason.is_charged and (reason in OF_PROCESS or len(self._health.nodes) > 1):
            self._verdicts.hold(record, actor, place)
            if actor not in self._crew and reason is Reason.INTERNAL:
                self._reopen(self._verdicts.of_actor(actor), now, process=True)
        else:
            self._give_up(record)

    def _put_back(self, clip: int, reason: Reason, actor: int, now: float) -> None:
        history = self._blame.of(clip)
        if reason is Reason.STORAGE:
            self._line.put_last(clip, now + self._backoff(history.storage))
        elif reason.is_node_fault and (history.losses > 1 or not self._placement.has_other_place(clip)):
            self._line.put_last(clip, now + self._backoff(history.losses))
        elif reason is Reason.OUT_OF_MEMORY and history.rung >= FRESH_RUNG:
            self._line.put_back_fresh(clip)
            self._replace(actor, now, f"out of memory on clip {clip}: retrying in a fresh process", idle=True)
        elif reason is Reason.PREEMPTED and history.losses >= PATIENT_LOSSES:
            self._line.put_back_patient(clip)
        else:
            self._line.put_back(clip)

    def _strike(self, record: RecordFailure, actor: int, place: Place, began: float, now: float) -> None:
        """What the failure says of the actor, its place, and the job."""
        reason, clip = record.reason, self._clip_of(record.clip)
        again = self._blame.failed_at(record.clip, actor, place, reason)
        own = again and not any(map(self._health.is_suspect, place.spots))
        if own:
            self._health.own_fault(clip)
        elif clip not in self._blame.known:
            self._health.failed(actor, place, clip, reason, record.message, now)
        if reason is Reason.STORAGE:
            if self._storage.failed(clip, place.node, began, now):
                self._paused_until = now + self._backoff(self._storage.rounds - 1)
            if self._storage.is_open(self._placement.nodes_of_actors(), self._work.graph.open):
                self._begin_stop(
                    f"storage failed {self._storage.rounds} times in a row; the last error: {record.message}"
                )
        elif reason in OF_PROCESS or reason.is_node_fault:
            self._breaker.failed(clip, place.spots[0], reason, record.message)
            self._look_at_breaker(now)
        member = self._crew.get(actor)
        if member is not None:
            member.failed = True
        if member is not None and reason in OF_PROCESS:
            member.strikes += not own
            if reason in (Reason.CRASHED, Reason.DEVICE):
                # A process whose GPU context is lost is of no use any more.
                self._replace(actor, now, record.message)
            elif member.strikes >= ACTOR_STRIKES:
                self._replace(actor, now, f"{member.strikes} clips in a row failed in it; the last: {record.message}")

    # Verdicts

    def _reopen(self, verdicts: Iterable[Verdict], now: float, *, process: bool = False) -> None:
        """Has the clips tried elsewhere, since the place that failed them is not trusted any more.

        `process`: it is the process that is not trusted, so that for a defect another one will do.
        """
        for verdict in verdicts:
            clip = verdict.record.clip
            if self._ending or self._appeals.may_be_heard(verdict, process=process):
                self._out.append(verdict.record)
                if self._placement.has_other_place(clip):
                    self._line.put_back(clip)
                else:
                    self._line.put_last(clip, now)
            else:
                self._verdicts.hold(verdict.record, -1, verdict.place)

    def _close_verdicts(self, now: float) -> None:
        """Once nothing else is left, verdicts stand, unless a place that has shown to be well has not been asked."""
        if self._ending:
            self._reopen(self._verdicts.all(), now)
        if not len(self._verdicts) or self.for_actors > len(self._verdicts):
            return
        if any(place is None or not self._health.was_seen(place) for place in self._placement.coming(now)):
            return  # who is about to come up may be asked
        for verdict in self._verdicts.all():
            step = self._appeals.next_step(verdict)
            if step is Step.STANDS:
                self._give_up(verdict.record)
                continue
            clip = verdict.record.clip
            self._out.append(verdict.record)
            self._line.put_back(clip)
            if step is Step.OTHER_ACTOR:
                self._placement.keep_from(self._blame.of(clip).nodes, now + UNSEEN_S)
                why = f"another actor retries what failed: {verdict.record.message}"
                self._replace(verdict.actor, now, why, idle=True)

    # Places

    def _look_at_places(self, now: float) -> None:
        """Carries out what has been decided about nodes and GPUs."""
        for change in self._health.take_changes():
            here = [actor for actor in self._crew if change.spot in self._health.place_of(actor).spots]
            if change.state in (State.RESTING, State.ASIDE):
                for actor in here:
                    if self._crew[actor].next >= 0:
                        self._line.put_back(self._unhold(actor, drop=True))
                self._reopen(self._verdicts.of_spot(change.spot), now)
                self._starts.after = now if self._health.to_avoid else self._starts.after
            if change.state is State.ASIDE:
                self._out.append(SetAside(change.name, change.why, change.until - now))
                for actor in here:
                    if self._crew[actor].clip < 0:
                        self._replace(actor, now, f"{change.name} is set aside", idle=self._crew[actor].ready)
            elif change.state is not State.RESTING:
                self._out.append(Reinstate(change.name))
                for actor in here:
                    if self._crew[actor].parked and not self._health.is_aside(actor):
                        self._crew.park(actor, False)
                        self._crew[actor].placed_at = now
                        self._out.append(Load(actor))

    # Stops

    def _look_at_breaker(self, now: float) -> None:
        if self._storage.rounds:
            return  # nothing can succeed while storage is away, which is counted apart
        places = {
            self._health.place_of(a).spots[0]
            for a, m in self._crew.items()
            if m.placed_at is not None and not m.parked and not self._health.is_aside(a)
        }
        why = self._breaker.verdict(places, self._work.graph.open)
        if why and not (self._health.unseen_nodes and self._placement.undecided(now)):
            self._begin_stop(why)

    def _begin_stop(self, message: str) -> None:
        """No more clips are given out; what runs may end, and then the job stops. An empty message says nothing."""
        if message and self._stopping is None and self._stopped is None:
            self._stopping = message

    # Actors

    def _forget(self, actor: int, now: float) -> None:
        """Strikes the actor off; a clip held for it goes back, uncharged."""
        member = self._crew.remove(actor)
        if member.clip >= 0:
            self._health.attempt_ended(self._health.place_of(actor))
        if member.next >= 0:
            self._line.put_back(member.next)
        self._health.actor_gone(actor)
        if member.ready and self._crew.ready == 0:
            self._starts.none_ready(now)

    def _replace(self, actor: int, now: float, why: str, *, idle: bool = False) -> None:
        if actor in self._crew:
            self._out.append(Kill(actor, why, idle))
            self._forget(actor, now)
            self._reopen(self._verdicts.of_actor(actor), now, process=True)

    def _release(self, actor: int, clip: int) -> bool:
        """The actor is done with the clip; False if that is no news (any more)."""
        member = self._crew.get(actor)
        if member is None or member.clip != clip:
            return False
        self._crew.release(actor)
        self._health.attempt_ended(self._health.place_of(actor))
        return True

    def _let_go(self, now: float) -> None:
        """Ends actors that have run their last clip on a node that is about to go."""
        for actor in [actor for actor in self._crew.leaving if self._crew[actor].clip < 0]:
            self._replace(actor, now, "its node is leaving", idle=True)

    # Decisions

    def _settle(self, now: float) -> list[Action]:
        """Whatever follows from the state: starts, assignments, prefetches, stops of idle actors."""
        self._look_at_places(now)
        self._close_verdicts(now)
        self._let_go(now)
        if self._stopping is not None and self._stopped is None and self._at_rest:
            self._stopped = self._stopping
            self._out.append(Stop(self._stopped))
        if not self._ending:
            self._start_actors(now)
            if now >= self._paused_until:
                self._give_all(now)
                if (
                    self._crew.running == 0
                    and self._crew.idle
                    and not self._placement.undecided(now)
                    and self._health.lift()
                ):
                    self._give_all(now)
                self._hold_ahead(now)
            self._retire(now)
        out, self._out = self._out, []
        return out

    def _start_actors(self, now: float) -> None:
        if now < self._starts.after:
            return
        crew, wanted = self._crew, self._actors_wanted()
        if self._line.wants_fresh and not any(m.fresh and m.placed_at is not None for m in crew.members()):
            # A clip waits for a process that has run nothing before: an idle actor makes room.
            idle = next(iter(crew.idle), None)
            if idle is not None and (crew.unplaced or crew.staying >= wanted):
                self._replace(idle, now, "a fresh process is needed", idle=True)
        most = max(PENDING_ACTORS, self.limits.actors_min)
        if crew.staying < wanted and len(crew.unplaced) < most:
            avoid = self._placement.to_avoid(now)
            while crew.staying < wanted and len(crew.unplaced) < most:
                self._out.append(StartActor(crew.add(now, avoid), avoid))

    def _actors_wanted(self) -> int:
        # No more than the open clips, and what they will be cut into: more would only wait.
        return min(self.limits.actors_max, self.expected - len(self._crew.leaving))

    def _give_all(self, now: float) -> None:
        for actor in list(self._crew.idle):
            if self._health.may_run(actor):
                if not self._give(actor, now):
                    break
            elif self._crew[actor].next >= 0:
                self._line.put_back(self._unhold(actor, drop=True))
            if self._health.is_aside(actor) and actor in self._crew.idle:
                self._replace(actor, now, "its place is set aside", idle=True)

    def _give(self, actor: int, now: float) -> bool:
        """Gives an idle actor its next clip; False where no actor could be given one now."""
        member = self._crew[actor]
        clip = -1

        may = functools.partial(self._placement.may_run, actor=actor)
        if member.fresh and self._line.wants_fresh:
            clip = self._line.take(now, fresh=True, may=may)
            if clip >= 0 and member.next >= 0:
                self._line.put_back(self._unhold(actor, drop=True))
        elif member.next >= 0:
            clip = self._unhold(actor)
        if clip < 0:
            clip = self._line.take(now, may=may)
        if clip < 0:
            holder = next((h for h in self._crew.holders if may(self._crew[h].next)), -1)
            if holder >= 0:
                clip = self._unhold(holder, drop=True)
        if clip < 0:
            # Another idle actor may be fresh, or stand where a clip has not failed.
            line = self._line
            return line.wants_fresh or line.has_next or line.has_late(now) or bool(self._crew.holders)
        history = self._blame.of(clip)
        history.attempts += 1
        rung = min(history.rung, LAST_RUNG)
        self._crew.assign(actor, clip, history.attempts, rung, now)
        self._health.attempt_began(self._health.place_of(actor))
        self._out.append(Assign(actor, clip, history.attempts, rung))
        return True

    def _hold_ahead(self, now: float) -> None:
        """Reserves a next clip for running actors, unless an idle one could run it at once."""
        crew = self._crew
        if any(map(self._health.may_run, crew.idle)):
            return
        while crew.bare and self._line.has_next:
            actor = next(iter(crew.bare))
            member = crew[actor]
            if any(map(self._health.is_suspect, self._health.place_of(actor).spots)):
                del crew.bare[actor]  # until it is given its next clip
                continue
            held = self._line.take_next(functools.partial(self._placement.may_run, actor=actor))
            if held < 0:
                return
            crew.hold(actor, held)
            decode = (
                self.limits.crashes > 1
                and member.decoding < 0
                and self.work(held).stage is Stage.CLIP
                and not self._blame.suspects(held)
                and not self._blame.suspects(member.clip)
            )
            if decode:
                member.decoding = held
            self._out.append(Prefetch(actor, held, decode))

    def _unhold(self, actor: int, *, drop: bool = False) -> int:
        if drop:
            self._out.append(DropPrefetch(actor, self._crew[actor].next))
        return self._crew.unhold(actor)

    def _retire(self, now: float) -> None:
        """Ends actors that no open clip can need: those that wait for room, then those that load, then idle ones."""
        crew = self._crew
        spare = crew.staying - self._actors_wanted()
        if spare > 0:
            loading = [actor for actor, member in crew.items() if not member.ready and actor not in crew.unplaced]
            # Those whose last clip failed go first: the others may have to try it.
            idle = sorted((a for a in crew.idle if crew[a].next < 0), key=lambda a: not crew[a].failed)
            for actor in [*reversed(crew.unplaced), *reversed(loading), *idle][:spare]:
                self._replace(actor, now, "no clips left for it", idle=crew[actor].ready)
        if self.for_actors == 0:
            for actor in [actor for actor, member in crew.items() if member.parked]:
                self._replace(actor, now, "no clips are left")
