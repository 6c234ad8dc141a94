"""A pure state machine that assigns work to actors and interprets failures.

It depends neither on Ray nor on storage or a clock. The driver reports events (one method per event, each with `now` in
seconds of any monotonic clock) and carries out the actions that are returned.

A clip here is an item of work: a whole clip, or a part of a long one (`job.graph`). The first items are the clips of
the driver's list. Actors are numbers that are never reused, so late reports of an actor that was given up are
recognised and ignored. Invariants, checked in the tests by simulation:

* every clip is settled exactly once (done, or failed with a final record), or still open when the
  job is stopped;
* a clip runs on at most one actor at a time;
* a clip is charged only for its own failures.

Rules
-----
Order: longest first. A clip that is retried keeps its place, unless it failed in an earlier run or its storage failed:
then it goes to the end. Each actor runs one clip and may hold one more, whose download and first
frames are prefetched; an idle actor takes over such a clip when nothing else is left.

Places (`job.health`): a clip is retried on another node if there is one, else on another GPU or in another
process (`job.placement`). A failure that the process may have caused counts against a clip only once two places agree
(`job.appeals`). An actor whose clips fail one after another is replaced; a GPU or node whose clips fail while others
succeed elsewhere is set aside. Faults of a node (`device`, `local_disk`) charge no clip.

For a lost node, no clip is charged. But a clip may itself bring nodes down, for example by exhausting their memory. So
a clip that was running on `node_losses` lost or sick nodes is recorded with that reason, and the next run retries it.
From the third lost node on, it waits until all other clips have run.

A checkpointed clip (`job.windows`) is charged per window: each stored window clears its earlier failures. A clip that
is cut into parallel windows is also charged per window, because each window is a separate item. When a window is given
up, so is the clip, and no other part of it is started. In decisions about a place or the storage, all windows of a clip
count as one clip.

For a storage error, no clip is charged: the clip waits (exponential back-off with jitter) at the end of the line. A
clip whose storage fails `storage_errors` times while others succeed is recorded as `storage` and left to the next run.
A node that the storage or the hub rejects gets no clips for a while; if that happens to several nodes, or to the only
one, the job stops (`job.starts`).

Whatever stops the job (`job.breaker`), no clip is charged: running clips may finish, and the others stay open.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from sam3ray.failures import Failure, Reason
from sam3ray.job.actions import (
    Action,
    Counts,
    Kill,
    Limits,
    Load,
    Merge,
    RecordFailure,
    Reinstate,
    SetAside,
    Stop,
)
from sam3ray.job.assignment import Assignment
from sam3ray.job.board import Board
from sam3ray.job.graph import Cutting, Work
from sam3ray.job.health import Place, State
from sam3ray.job.judge import Judge
from sam3ray.job.placement import UNSEEN_S


class Scheduler:
    """The state machine. Call `start` once, then one method per event; carry out the returned actions."""

    def __init__(
        self,
        lengths: Sequence[float],
        limits: Limits,
        *,
        prior: Mapping[int, Iterable[Reason]] | None = None,
        prior_parts: Mapping[Work, Iterable[Reason]] | None = None,
        seed: int = 0,
    ) -> None:
        """`lengths`: one number per clip, all in the same unit; 0 if unknown. `prior`: reasons of the
        failed attempts that earlier runs recorded, so that caps hold across runs; `prior_parts`: the same of parts."""
        self.limits = limits
        self._board = board = Board(lengths, limits, prior or {}, prior_parts or {}, seed)
        self._judge = Judge(board)
        self._assignment = Assignment(board, self._judge)
        self._blame, self._work, self._line, self._crew = board.blame, board.work, board.line, board.crew
        self._health, self._placement, self._starts = board.health, board.placement, board.starts

    # Queries of the driver

    @property
    def finished(self) -> bool:
        """Whether all work is done and nothing is running."""
        if self._board.stopped is not None:
            return True
        if self._board.stopping is not None:
            return False
        if self._board.draining:
            return self._board.at_rest
        return self._line.open == 0

    @property
    def stopped(self) -> str | None:
        return self._board.stopped

    @property
    def stopping(self) -> str | None:
        """Why the job will stop once running work has ended."""
        return self._board.stopping

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
        """Open items that need an actor, running ones included."""
        return self._work.for_actors

    @property
    def expected(self) -> int:
        """Open items that need an actor, if clips are cut as expected."""
        return self._work.expected

    @property
    def merging(self) -> int:
        """The number of running merges."""
        return self._work.merges.running

    def work(self, clip: int) -> Work:
        """The clip and part that an item stands for."""
        return self._work.graph.work(clip)

    @property
    def parked(self) -> int:
        """Actors that occupy GPUs that are set aside, to keep other actors off them."""
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
        """Adds an earlier driver's actor, which has its model and may be running `clip`. Call it before `start`."""
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
        """Numbers of windows of clips likely to be cut: actors for them load their models while the clip is opened."""
        self._work.expect(windows)
        return self._settle(now)

    def stays_whole(self, actor: int, clip: int, now: float) -> list[Action]:
        """The actor processes frames of the clip, so the clip will not be cut."""
        if self.running_on(actor) == clip and self._work.stays_whole(clip):
            return self._settle(now)
        return []

    def nodes_seen(self, nodes: Iterable[str]) -> None:
        """Nodes that are alive and large enough for an actor. Call it before `start`, then from time to time."""
        self._health.set_nodes(nodes)

    def actor_placed(self, actor: int, now: float, place: Place | None = None) -> list[Action]:
        """The actor's process runs at that place."""
        member = self._crew.get(actor)
        if member is not None and member.placed_at is None:
            self._crew.place(actor, now)
            self._health.actor_placed(actor, place or Place())
            if not self._health.is_aside(actor):
                self._board.out.append(Load(actor))
            elif self._health.is_node_aside(actor):
                self._judge.replace(actor, now, "its node is set aside")
            else:
                self._crew.park(actor)  # occupied, so no other actor gets that GPU
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
        """The actor could not load its model.

        Args:
            hopeless: no actor on that node could (for example, the checkpoint does not exist).
            passing: a later start may succeed (the node lacks a resource, or the hub does not answer).
        """
        if actor in self._crew and not self._crew[actor].ready:
            place = self._health.place_of(actor)
            self._board.out.append(Kill(actor, message))
            self._board.forget(actor, now)
            if passing and (self._starts.none_ready_s(now) or 0.0) < self.limits.start_timeout_s:
                self._starts.wait_for_others(now)
            else:
                if hopeless:
                    self._starts.refused(place, message, now)
                self._board.begin_stop(self._starts.failed(message, now, actor, place, hopeless=hopeless))
        return self._settle(now)

    def actor_lost(self, actor: int, reason: Reason, message: str, now: float) -> list[Action]:
        """The actor's process has ended. `reason`: crashed, out_of_memory (it was killed for that) or preempted."""
        member = self._crew.get(actor)
        if member is None:
            return self._settle(now)
        place = self._health.place_of(actor)
        self._board.forget(actor, now)
        if not member.ready:
            if reason is Reason.PREEMPTED:
                self._starts.wait(self.limits.backoff_s, now)
            elif not member.parked:
                self._board.begin_stop(self._starts.failed(message, now, actor, place))
            return self._settle(now)
        ahead = member.decoding if reason is Reason.CRASHED else -1
        if ahead >= 0 and not self._line.is_settled(ahead):
            self._blame.of(ahead).suspect = True
        if member.clip >= 0:
            seconds = now - member.assigned_at
            record = RecordFailure(member.clip, member.attempt, reason, message, False, "worker", "", seconds)
            self._judge.failed(record, actor, place, now, ambiguous=ahead >= 0)
        return self._settle(now)

    def actor_unreachable(self, actor: int, now: float) -> list[Action]:
        """The actor does not answer, but may be alive: hang detection pauses until that is known."""
        member = self._crew.get(actor)
        if member is not None:
            member.unreachable = True
        return self._settle(now)

    def actor_leaving(self, actor: int, why: str, now: float) -> list[Action]:
        """The actor's node is about to leave: the actor may finish its clip and gets no other."""
        member = self._crew.get(actor)
        if member is not None and not member.leaving:
            if member.clip < 0:
                self._judge.replace(actor, now, why, idle=member.ready)
            else:
                if member.next >= 0:
                    self._line.put_back(self._board.unhold(actor, drop=True))
                self._crew.leave(actor)
        return self._settle(now)

    def prefetched(self, actor: int, clip: int, now: float) -> list[Action]:
        """The prefetch has ended. If it failed, running the clip will report why."""
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
        """A window of the running clip is stored: failures count from zero again."""
        if self.running_on(actor) == clip:
            self._blame.renew(clip)

    def clip_done(self, actor: int, clip: int, now: float) -> list[Action]:
        """The clip is committed, by this attempt or an earlier one."""
        if self._board.release(actor, clip):
            place = self._health.place_of(actor)
            self._judge.succeeded(actor, place)
            self._finish(clip, now)
            self._judge.confirm(actor, place)
        return self._settle(now)

    def clip_cut(self, actor: int, clip: int, cutting: Cutting, now: float) -> list[Action]:
        """The actor that opened the clip found that it must be cut into windows."""
        if self._board.release(actor, clip):
            self._work.cut(clip, cutting, now)
        return self._settle(now)

    def parts_lost(self, actor: int, clip: int, windows: Collection[int], now: float) -> list[Action]:
        """Windows (or, if empty, the links) are missing or damaged. Found by an actor, or by a merge (-1)."""
        if self._board.release(actor, clip) or self._work.merges.ended(clip):
            self._judge.make_again(clip, windows, now)
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
        """The attempt ended in an error; the worker survived."""
        member = self._crew.get(actor)
        attempt, began = (member.attempt, member.assigned_at) if member else (0, now)
        if self._board.release(actor, clip):
            record = RecordFailure(clip, attempt, reason, message, False, where, traceback, seconds)
            self._judge.failed(record, actor, self._health.place_of(actor), now, began=began)
        return self._settle(now)

    def turned_away(self, actor: int, clip: int, message: str, now: float) -> list[Action]:
        """The storage refused the worker regardless of the clip: an expired token, a missing folder."""
        if self.running_on(actor) == clip:
            place = self._health.place_of(actor)
            if self._starts.refused(place, message, now):
                self._board.begin_stop(message)
        return self.clip_failed(actor, clip, Reason.STORAGE, message, now)

    def give_merges(self, slots: int, now: float) -> list[Action]:
        """Starts merges, as long as fewer than `slots` are running."""
        if self.merging == self._work.merges.open:
            return []
        if not self._board.ending and now >= self._board.paused_until:
            for clip in self._work.merges.take(slots, now):
                history = self._blame.of(clip)
                history.attempts += 1
                self._work.merges.began(clip, history.attempts, now)
                self._board.out.append(Merge(clip, history.attempts))
        return self._settle(now)

    def merge_ended(self, clip: int, now: float, failure: Failure | None = None) -> list[Action]:
        """The merge has ended, in success or an error."""
        ended = self._work.merges.ended(clip)
        if ended and failure is None:
            self._finish(clip, now)
        elif ended and failure:
            attempt, began = ended
            record = RecordFailure(clip, attempt, failure.reason, failure.message, False, failure.where)
            record = replace(record, traceback=failure.traceback, seconds=now - began)
            settles = self._blame.charge(clip, failure.reason)
            if settles and not (self._board.ending and not failure.reason.is_of_content):
                self._judge.give_up(record)
            else:
                self._board.out.append(record)
                self._work.merges.add(clip, now + self._board.backoff(attempt))
        return self._settle(now)

    def tick(self, now: float) -> list[Action]:
        """Handles everything that depends on time. Call it about once a second."""
        self._health.tick(now)
        for actor, member in self._crew.items():
            if member.unreachable or actor not in self._crew:
                continue
            if member.clip >= 0 and now - member.progress_at >= self.limits.no_progress_s:
                clip, attempt, began, progress = member.clip, member.attempt, member.assigned_at, member.progress
                message = f"no progress for {now - member.progress_at:.0f} s (last: {progress or 'nothing yet'})"
                place = self._health.place_of(actor)
                self._board.out.append(Kill(actor, message))
                self._board.forget(actor, now)
                record = RecordFailure(clip, attempt, Reason.TIMED_OUT, message, False, "worker", "", now - began)
                self._judge.failed(record, actor, place, now)
            elif member.ready or member.parked:
                continue
            elif member.placed_at is not None and now - member.placed_at >= self.limits.start_timeout_s:
                message = f"an actor did not load its model within {self.limits.start_timeout_s:.0f} s"
                place = self._health.place_of(actor)
                self._board.out.append(Kill(actor, message))
                self._board.forget(actor, now)
                self._board.begin_stop(self._starts.failed(message, now, actor, place))
            elif member.placed_at is None and not set(member.avoid).issubset(self._placement.to_avoid(now)):
                self._judge.replace(actor, now, "a node that it had to avoid is available again")
        lonely_s = self._starts.none_ready_s(now)
        if lonely_s is not None and not self._board.draining and self.for_actors:
            if lonely_s >= UNSEEN_S and not self._placement.undecided(now):
                self._health.lift()  # a node to be avoided is better than none
            limit = self.limits.place_timeout_s
            none_placed = len(self._crew.unplaced) + self._crew.parked == len(self._crew)
            if limit is not None and lonely_s >= limit and none_placed:
                self._board.begin_stop(
                    f"no actor could be placed within {limit:.0f} s: the cluster has no free resources for one"
                )
        self._judge.look_at_breakers(now)
        return self._settle(now)

    def drain(self, now: float) -> list[Action]:
        """Assigns no more clips; running clips may finish. `finished` becomes True when they have."""
        self._board.draining = True
        return self._settle(now)

    def stop(self, message: str, now: float) -> list[Action]:
        """Stops a job that cannot continue. Running clips may finish first."""
        self._board.begin_stop(message)
        return self._settle(now)

    # Clips

    def _finish(self, clip: int, now: float) -> None:
        if self._work.finish(clip, now):
            self._health.forget_clip(self._board.clip_of(clip))

    # Places

    def _look_at_places(self, now: float) -> None:
        """Applies changes in the health of nodes and GPUs."""
        for change in self._health.take_changes():
            here = [actor for actor in self._crew if change.spot in self._health.place_of(actor).spots]
            if change.state in (State.PAUSED, State.ASIDE):
                for actor in here:
                    if self._crew[actor].next >= 0:
                        self._line.put_back(self._board.unhold(actor, drop=True))
                self._judge.distrust(change.spot, now)
                self._starts.after = now if self._health.to_avoid else self._starts.after
            if change.state is State.ASIDE:
                self._board.out.append(SetAside(change.name, change.why, change.until - now))
                for actor in here:
                    if self._crew[actor].clip < 0:
                        self._judge.replace(actor, now, f"{change.name} is set aside", idle=self._crew[actor].ready)
            elif change.state is not State.PAUSED:
                self._board.out.append(Reinstate(change.name))
                for actor in here:
                    if self._crew[actor].parked and not self._health.is_aside(actor):
                        self._crew.park(actor, False)
                        self._crew[actor].placed_at = now
                        self._board.out.append(Load(actor))

    def _let_go(self, now: float) -> None:
        """Ends actors on nodes about to leave that have finished their last clip."""
        for actor in [actor for actor in self._crew.leaving if self._crew[actor].clip < 0]:
            self._judge.replace(actor, now, "its node is leaving", idle=True)

    # Decisions

    def _settle(self, now: float) -> list[Action]:
        """Derives the actions from the state: starts, assignments, prefetches, ends of idle actors."""
        self._look_at_places(now)
        self._judge.close(now)
        self._let_go(now)
        if self._board.stopping is not None and self._board.stopped is None and self._board.at_rest:
            self._board.stopped = self._board.stopping
            self._board.out.append(Stop(self._board.stopped))
        if not self._board.ending:
            self._assignment.start_actors(now)
            if now >= self._board.paused_until:
                self._assignment.give_all(now)
                if (
                    self._crew.running == 0
                    and self._crew.idle
                    and not self._placement.undecided(now)
                    and self._health.lift()
                ):
                    self._assignment.give_all(now)
                self._assignment.hold_ahead(now)
            self._assignment.retire(now)
        out, self._board.out = self._board.out, []
        return out
