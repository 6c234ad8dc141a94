"""The actors: what each runs and holds ahead, and which are idle. Only bookkeeping; the scheduler decides.

There are as many as there are open items, up to `actors_max`. Those that the cluster has no room for yet wait to be
placed (at most `PENDING_ACTORS` at a time), which makes an autoscaler add nodes. An actor ends as soon as nothing is
left for it, those that wait first: what it holds is wanted elsewhere. An actor whose node is about to go finishes its
clip and gets no other; one that takes its place is started at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class Member:
    """An actor. Clips are numbers, -1 for none."""

    started_at: float
    avoid: tuple[str, ...] = ()  # nodes that it was not to be started on
    placed_at: float | None = None
    ready: bool = False
    parked: bool = False  # it holds a GPU that is set aside, and has no model
    fresh: bool = True
    unreachable: bool = False
    leaving: bool = False
    strikes: int = 0  # clips that failed in its process since its last success
    failed: bool = False  # its last attempt
    done: int = 0
    clip: int = -1  # running
    assigned_at: float = 0.0
    attempt: int = 0
    rung: int = 0
    next: int = -1  # held for it
    decoding: int = -1  # whose first frames are being decoded ahead in the actor's process
    progress: object = None
    progress_at: float = 0.0


class Crew:
    """All actors by number; numbers are never reused."""

    def __init__(self) -> None:
        self._members: dict[int, Member] = {}
        self._numbers = 0
        self.idle: dict[int, None] = {}  # ready, nothing to run; oldest first
        self.holders: dict[int, None] = {}  # holding a next clip
        self.bare: dict[int, None] = {}  # running a clip, holding no next one
        self.unplaced: dict[int, None] = {}  # not placed by the cluster yet
        self.leaving: dict[int, None] = {}  # running a last clip on nodes that are about to leave
        self.ready = 0
        self.parked = 0
        self.running = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[int]:
        return iter(self._members)

    def __contains__(self, actor: int) -> bool:
        return actor in self._members

    def __getitem__(self, actor: int) -> Member:
        return self._members[actor]

    def get(self, actor: int) -> Member | None:
        return self._members.get(actor)

    def items(self) -> list[tuple[int, Member]]:
        return list(self._members.items())

    def members(self) -> list[Member]:
        return list(self._members.values())

    def add(self, now: float, avoid: tuple[str, ...]) -> int:
        actor = self._numbers
        self._numbers += 1
        self._members[actor] = Member(now, avoid)
        self.unplaced[actor] = None
        return actor

    @property
    def staying(self) -> int:
        """Actors with work or waiting for work."""
        return len(self._members) - len(self.leaving) - self.parked

    def place(self, actor: int, now: float) -> None:
        self._members[actor].placed_at = now
        self.unplaced.pop(actor, None)

    def remove(self, actor: int) -> Member:
        """The caller takes care of the clips that it ran and held."""
        member = self._members.pop(actor)
        for group in (self.idle, self.holders, self.bare, self.unplaced, self.leaving):
            group.pop(actor, None)
        self.running -= member.clip >= 0
        self.ready -= member.ready
        self.parked -= member.parked
        return member

    def make_ready(self, actor: int) -> None:
        self._members[actor].ready = True
        self.unplaced.pop(actor, None)
        self.ready += 1
        self.idle[actor] = None

    def park(self, actor: int, parked: bool = True) -> None:
        member = self._members[actor]
        self.parked += parked - member.parked
        member.parked = parked

    def assign(self, actor: int, clip: int, attempt: int, rung: int, now: float) -> None:
        member = self._members[actor]
        del self.idle[actor]
        self.running += 1
        member.clip, member.attempt, member.rung = clip, attempt, rung
        member.assigned_at = member.progress_at = now
        member.progress = None
        member.fresh = False
        if member.decoding == clip:
            member.decoding = -1  # from now on it is the running clip, and charged
        self.bare[actor] = None

    def release(self, actor: int) -> None:
        """It is done with its clip."""
        member = self._members[actor]
        member.clip = -1
        member.unreachable = False
        self.running -= 1
        self.bare.pop(actor, None)
        if not member.leaving:
            self.idle[actor] = None

    def leave(self, actor: int) -> None:
        """It gets no clip after the one that it runs."""
        self._members[actor].leaving = True
        self.leaving[actor] = None
        self.bare.pop(actor, None)

    def hold(self, actor: int, clip: int) -> None:
        self.bare.pop(actor, None)
        self._members[actor].next = clip
        self.holders[actor] = None

    def unhold(self, actor: int) -> int:
        """The clip that it held."""
        member = self._members[actor]
        clip, member.next = member.next, -1
        self.holders.pop(actor, None)
        if member.clip >= 0 and not member.leaving:
            self.bare[actor] = None
        return clip
