"""Assigns clips to actors, and decides how many actors to run."""

from __future__ import annotations

import functools

from sam3ray.job.actions import LAST_RUNG, PENDING_ACTORS, Assign, Prefetch, StartActor
from sam3ray.job.board import Board
from sam3ray.job.graph import Stage
from sam3ray.job.judge import Judge


class Assignment:
    """Starts actors, assigns clips, prefetches the next ones, and ends actors without work."""

    def __init__(self, board: Board, judge: Judge) -> None:
        self._board = board
        self._judge = judge
        self._limits = board.limits
        self._blame = board.blame
        self._work = board.work
        self._line = board.line
        self._crew = board.crew
        self._health = board.health
        self._placement = board.placement
        self._starts = board.starts

    def start_actors(self, now: float) -> None:
        """Starts as many actors as the open clips can use."""
        if now < self._starts.after:
            return
        crew, wanted = self._crew, self._actors_wanted()
        if self._line.wants_fresh and not any(m.fresh and m.placed_at is not None for m in crew.members()):
            # A clip waits for a fresh process: an idle actor makes room for it.
            idle = next(iter(crew.idle), None)
            if idle is not None and (crew.unplaced or crew.staying >= wanted):
                self._judge.replace(idle, now, "a fresh process is needed", idle=True)
        most = max(PENDING_ACTORS, self._limits.actors_min)
        if crew.staying < wanted and len(crew.unplaced) < most:
            avoid = self._placement.to_avoid(now)
            while crew.staying < wanted and len(crew.unplaced) < most:
                self._board.out.append(StartActor(crew.add(now, avoid), avoid))

    def _actors_wanted(self) -> int:
        # At most one actor per open clip or expected window: more would only wait.
        return min(self._limits.actors_max, self._work.expected - len(self._crew.leaving))

    def give_all(self, now: float) -> None:
        """Assigns a clip to each idle actor."""
        for actor in list(self._crew.idle):
            if self._health.may_run(actor):
                if not self._give(actor, now):
                    break
            elif self._crew[actor].next >= 0:
                self._line.put_back(self._board.unhold(actor, drop=True))
            if self._health.is_aside(actor) and actor in self._crew.idle:
                self._judge.replace(actor, now, "its node or GPU is set aside", idle=True)

    def _give(self, actor: int, now: float) -> bool:
        """Assigns the next clip to an idle actor; False if no actor can get one now."""
        member = self._crew[actor]
        clip = -1

        may = functools.partial(self._placement.may_run, actor=actor)
        if member.fresh and self._line.wants_fresh:
            clip = self._line.take(now, fresh=True, may=may)
            if clip >= 0 and member.next >= 0:
                self._line.put_back(self._board.unhold(actor, drop=True))
        elif member.next >= 0:
            clip = self._board.unhold(actor)
        if clip < 0:
            clip = self._line.take(now, may=may)
        if clip < 0:
            holder = next((h for h in self._crew.holders if may(self._crew[h].next)), -1)
            if holder >= 0:
                clip = self._board.unhold(holder, drop=True)
        if clip < 0:
            # Another idle actor may be fresh, or be at a place where the clip has not failed.
            line = self._line
            return line.wants_fresh or line.has_next or line.has_late(now) or bool(self._crew.holders)
        history = self._blame.of(clip)
        history.attempts += 1
        rung = min(history.rung, LAST_RUNG)
        self._crew.assign(actor, clip, history.attempts, rung, now)
        self._health.attempt_began(self._health.place_of(actor))
        self._board.out.append(Assign(actor, clip, history.attempts, rung))
        return True

    def hold_ahead(self, now: float) -> None:
        """Reserves a next clip for each running actor, unless an idle actor could run it now."""
        crew = self._crew
        if any(map(self._health.may_run, crew.idle)):
            return
        while crew.bare and self._line.has_next:
            actor = next(iter(crew.bare))
            member = crew[actor]
            if any(map(self._health.is_suspect, self._health.place_of(actor).spots)):
                del crew.bare[actor]  # until its next clip is assigned
                continue
            held = self._line.take_next(functools.partial(self._placement.may_run, actor=actor))
            if held < 0:
                return
            crew.hold(actor, held)
            decode = (
                self._limits.crashes > 1
                and member.decoding < 0
                and self._work.graph.work(held).stage is Stage.CLIP
                and not self._blame.suspects(held)
                and not self._blame.suspects(member.clip)
            )
            if decode:
                member.decoding = held
            self._board.out.append(Prefetch(actor, held, decode))

    def retire(self, now: float) -> None:
        """Ends actors that no open clip can use: first unplaced ones, then those loading, then idle ones."""
        crew = self._crew
        spare = crew.staying - self._actors_wanted()
        if spare > 0:
            loading = [actor for actor, member in crew.items() if not member.ready and actor not in crew.unplaced]
            # Actors whose last clip failed end first: that clip may have to be retried on another actor.
            idle = sorted((a for a in crew.idle if crew[a].next < 0), key=lambda a: not crew[a].failed)
            for actor in [*reversed(crew.unplaced), *reversed(loading), *idle][:spare]:
                self._judge.replace(actor, now, "no clips left for it", idle=crew[actor].ready)
        if self._work.for_actors == 0:
            for actor in [actor for actor, member in crew.items() if member.parked]:
                self._judge.replace(actor, now, "no clips are left")
