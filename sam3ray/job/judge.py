"""Decides what a failure means for its clip, its actor, its place and the job."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from sam3ray.failures import Reason
from sam3ray.job.actions import FRESH_RUNG, PATIENT_LOSSES, Kill, RecordFailure
from sam3ray.job.appeals import Appeals, Step
from sam3ray.job.board import Board
from sam3ray.job.breaker import FailureBreaker, StorageBreaker
from sam3ray.job.health import ACTOR_STRIKES, OF_PROCESS, Place
from sam3ray.job.placement import UNSEEN_S
from sam3ray.job.verdicts import Verdict, Verdicts


class Judge:
    """Charges, settles or retries clips, replaces actors, and stops a job that cannot continue."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._limits = board.limits
        self._blame = board.blame
        self._work = board.work
        self._line = board.line
        self._crew = board.crew
        self._health = board.health
        self._placement = board.placement
        self._verdicts = Verdicts()
        self._appeals = Appeals(self._crew, self._health, self._placement, self._blame)
        self._breaker = FailureBreaker(self._blame.known)
        self._storage = StorageBreaker(self._limits, self._blame.known)

    def failed(
        self,
        record: RecordFailure,
        actor: int,
        place: Place,
        now: float,
        *,
        began: float = 0.0,
        ambiguous: bool = False,
    ) -> None:
        """Charges the clip if it is at fault; then requeues it, settles it, or holds the verdict."""
        clip, reason = record.clip, record.reason
        settles = self._blame.charge(clip, reason, ambiguous=ambiguous)
        # Out of memory does not count against the place while the ladder has further rungs.
        if reason is not Reason.PREEMPTED and (settles or reason is not Reason.OUT_OF_MEMORY):
            self._strike(record, actor, place, began, now)
        if self._work.graph.is_over(clip):
            self.give_up(record)
            return
        if settles and not self._board.ending and reason in OF_PROCESS and reason.is_charged:
            settles = self._blame.nodes_that_say(clip, reason) > 1 or not self._placement.has_other_node(place.node)
        if not settles or (self._board.ending and not reason.is_of_content):
            self._board.out.append(record)
            self._put_back(clip, reason, actor, now)
        elif reason.is_charged and (reason in OF_PROCESS or len(self._health.nodes) > 1):
            self._verdicts.hold(record, actor, place)
            if actor not in self._crew and reason is Reason.INTERNAL:
                self._reopen(self._verdicts.of_actor(actor), now, process=True)
        else:
            self.give_up(record)

    def succeeded(self, actor: int, place: Place) -> None:
        """The actor completed a clip: its place and the storage work."""
        self._board.paused_until = float("-inf")
        self._storage.succeeded()
        self._breaker.succeeded()
        self._board.starts.accepted(place)
        self._health.succeeded(place)
        member = self._crew[actor]
        member.strikes = 0
        member.failed = False
        member.done += 1

    def confirm(self, actor: int, place: Place) -> None:
        """Makes final the verdicts that waited for a success at this place."""
        for verdict in self._verdicts.proven_by(actor, place, self._crew.__contains__):
            self.give_up(verdict.record)

    def distrust(self, spot: str, now: float) -> None:
        """A node or GPU is no longer trusted: clips that failed there are retried elsewhere."""
        self._reopen(self._verdicts.of_spot(spot), now)

    def give_up(self, record: RecordFailure) -> None:
        """The clip failed for good. No more parts of it are started; running parts may finish."""
        rest = None
        if not self._line.is_settled(record.clip):  # for example because another part was just given up
            rest = self._work.give_up(record.clip, record.reason, [member.clip for member in self._crew.members()])
        self._board.out.append(replace(record, final=rest is not None))
        if rest is None:
            return
        self._board.out += [verdict.record for verdict in self._verdicts.of_clips(rest)]
        for actor in [actor for actor in self._crew.holders if self._crew[actor].next in rest]:
            self._board.unhold(actor, drop=True)
        self._line.withdraw(rest)
        self._health.forget_clip(self._board.clip_of(record.clip))

    def _put_back(self, clip: int, reason: Reason, actor: int, now: float) -> None:
        history = self._blame.of(clip)
        if reason is Reason.STORAGE:
            self._line.put_last(clip, now + self._board.backoff(history.storage))
        elif reason.is_node_fault and (history.losses > 1 or not self._placement.has_other_place(clip)):
            self._line.put_last(clip, now + self._board.backoff(history.losses))
        elif reason is Reason.OUT_OF_MEMORY and history.rung >= FRESH_RUNG:
            self._line.put_back_fresh(clip)
            self.replace(actor, now, f"out of memory on clip {clip}: retrying in a fresh process", idle=True)
        elif reason is Reason.PREEMPTED and history.losses >= PATIENT_LOSSES:
            self._line.put_back_patient(clip)
        else:
            self._line.put_back(clip)

    def _strike(self, record: RecordFailure, actor: int, place: Place, began: float, now: float) -> None:
        """What the failure means for the actor, its place, and the job."""
        reason, clip = record.reason, self._board.clip_of(record.clip)
        again = self._blame.failed_at(record.clip, actor, place, reason)
        own = again and not any(map(self._health.is_suspect, place.spots))
        if own:
            self._health.own_fault(clip)
        elif clip not in self._blame.known:
            self._health.failed(actor, place, clip, reason, record.message, now)
        if reason is Reason.STORAGE:
            if self._storage.failed(clip, place.node, began, now):
                self._board.paused_until = now + self._board.backoff(self._storage.rounds - 1)
            if self._storage.is_open(self._placement.nodes_of_actors(), self._work.graph.open):
                self._board.begin_stop(
                    f"storage failed {self._storage.rounds} times in a row; the last error: {record.message}"
                )
        elif reason in OF_PROCESS or reason.is_node_fault:
            self._breaker.failed(clip, place.spots[0], reason, record.message)
            self.look_at_breakers(now)
        member = self._crew.get(actor)
        if member is not None:
            member.failed = True
        if member is not None and reason in OF_PROCESS:
            member.strikes += not own
            if reason in (Reason.CRASHED, Reason.DEVICE):
                # A process whose GPU context is lost cannot be used again.
                self.replace(actor, now, record.message)
            elif member.strikes >= ACTOR_STRIKES:
                self.replace(
                    actor, now, f"{member.strikes} clips in a row failed in it; the last error: {record.message}"
                )

    def _reopen(self, verdicts: Iterable[Verdict], now: float, *, process: bool = False) -> None:
        """Retries the clips elsewhere, because the place where they failed is no longer trusted.

        `process`: only the process is not trusted, so another process is enough to retry a defect.
        """
        for verdict in verdicts:
            clip = verdict.record.clip
            if self._board.ending or self._appeals.may_be_heard(verdict, process=process):
                self._board.out.append(verdict.record)
                if self._placement.has_other_place(clip):
                    self._line.put_back(clip)
                else:
                    self._line.put_last(clip, now)
            else:
                self._verdicts.hold(verdict.record, -1, verdict.place)

    def close(self, now: float) -> None:
        """When no other work is left, verdicts become final unless a healthy place has not been tried."""
        if self._board.ending:
            self._reopen(self._verdicts.all(), now)
        if not len(self._verdicts) or self._work.for_actors > len(self._verdicts):
            return
        if any(place is None or not self._health.was_seen(place) for place in self._placement.coming(now)):
            return  # actors about to start may be tried
        for verdict in self._verdicts.all():
            step = self._appeals.next_step(verdict)
            if step is Step.STANDS:
                self.give_up(verdict.record)
                continue
            clip = verdict.record.clip
            self._board.out.append(verdict.record)
            self._line.put_back(clip)
            if step is Step.OTHER_ACTOR:
                self._placement.keep_from(self._blame.of(clip).nodes, now + UNSEEN_S)
                why = f"another actor retries what failed: {verdict.record.message}"
                self.replace(verdict.actor, now, why, idle=True)

    def look_at_breakers(self, now: float) -> None:
        """Stops the job if failures show that it cannot continue."""
        if self._storage.rounds:
            return  # nothing can succeed while storage is unreachable, which is counted separately
        places = {
            self._health.place_of(a).spots[0]
            for a, m in self._crew.items()
            if m.placed_at is not None and not m.parked and not self._health.is_aside(a)
        }
        why = self._breaker.verdict(places, self._work.graph.open)
        if why and not (self._health.unseen_nodes and self._placement.undecided(now)):
            self._board.begin_stop(why)

    def replace(self, actor: int, now: float, why: str, *, idle: bool = False) -> None:
        """Ends the actor; another one starts if one is needed."""
        if actor in self._crew:
            self._board.out.append(Kill(actor, why, idle))
            self._board.forget(actor, now)
            self._reopen(self._verdicts.of_actor(actor), now, process=True)

    def make_again(self, clip: int, windows: Collection[int], now: float) -> None:
        """Requeues windows that are lost or damaged (or, if empty, the links), up to a limit."""
        if not self._work.make_again(clip, windows, now):
            message = "windows of the clip were damaged repeatedly; check the storage"
            self.give_up(RecordFailure(clip, self._blame.of(clip).attempts, Reason.STORAGE, message, False, "worker"))
