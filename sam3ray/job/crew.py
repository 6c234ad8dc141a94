"""The actors: what each runs and holds ahead, and which are idle. Only bookkeeping; the scheduler decides.

There is one actor for each open item, up to `actors_max`. Actors for which the cluster has no room yet wait to be
placed (at most `PENDING_ACTORS` at a time), which makes an autoscaler add nodes. An actor without work ends, unplaced
ones first, to free its resources. An actor whose node is about to leave finishes its clip and gets no other; its
replacement starts at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class Member:
    """An actor. Clips are numbers; -1 means none."""

    started_at: float
    avoid: tuple[str, ...] = ()  # nodes on which it must not start
    placed_at: float | None = None
    ready: bool = False
    parked: bool = False  # occupies a GPU that is set aside, without a model
    fresh: bool = True
    unreachable: bool = False
    leaving: bool = False
    strikes: int = 0  # clips that failed in the process since its last success
    failed: bool = False  # its latest attempt
    done: int = 0
    clip: int = -1  # running
    assigned_at: float = 0.0
    attempt: int = 0
    rung: int = 0
    next: int = -1  # held for it
    decoding: int = -1  # its held clip's first frames are being decoded in the actor's process
    progress: object = None
    progress_at: float = 0.0


class Crew:
    """All actors by number; numbers are never reused."""

    def __init__(self) -> None:
        self._members: dict[int, Member] = {}
        self._numbers = 0
        self.idle: dict[int, None] = {}  # ready, without a clip; oldest first
        self.holders: dict[int, None] = {}  # that hold a next clip
        self.bare: dict[int, None] = {}  # that run a clip and hold no next one
        self.unplaced: dict[int, None] = {}  # not placed by the cluster yet
        self.leaving: dict[int, None] = {}  # that run a last clip on nodes about to leave
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
        """Removes the actor. The caller takes care of the clips that it ran and held."""
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
            member.decoding = -1  # from now on it is the running clip, so a crash is charged to it
        self.bare[actor] = None

    def release(self, actor: int) -> None:
        """The actor has finished its clip."""
        member = self._members[actor]
        member.clip = -1
        member.unreachable = False
        self.running -= 1
        self.bare.pop(actor, None)
        if not member.leaving:
            self.idle[actor] = None

    def leave(self, actor: int) -> None:
        """The actor gets no clip after the running one."""
        self._members[actor].leaving = True
        self.leaving[actor] = None
        self.bare.pop(actor, None)

    def hold(self, actor: int, clip: int) -> None:
        self.bare.pop(actor, None)
        self._members[actor].next = clip
        self.holders[actor] = None

    def unhold(self, actor: int) -> int:
        """Takes the held clip back, and returns it."""
        member = self._members[actor]
        clip, member.next = member.next, -1
        self.holders.pop(actor, None)
        if member.clip >= 0 and not member.leaving:
            self.bare[actor] = None
        return clip
