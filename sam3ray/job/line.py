"""The clips that wait for an actor, in the order in which they are to be run."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import Any

_MOST_PASSED = 200  # clips that may not run on an actor are looked at for it at one time


class Line:
    """Longest first; a clip that comes back keeps its place, unless it is put at the end. Clips are numbers from 0.

    Memory: 17 bytes a clip, and a little for each that came back.

    Attributes:
        open: clips that are not settled, those that run included.
    """

    def __init__(self, lengths: Sequence[float], last: Collection[int] = ()) -> None:
        """`lengths`: one number per clip, in any one unit; ties keep their order. `last`: clips that go to the end."""
        count = len(lengths)
        self._by_rank = array("l", sorted(range(count), key=lambda clip: inf if clip in last else -lengths[clip]))
        self._rank = array("l", bytes(count * array("l").itemsize))
        for rank, clip in enumerate(self._by_rank):
            self._rank[clip] = rank
        self._head = 0  # ranks before it were handed out at least once
        self._returned: list[int] = []  # heap of ranks handed out and come back
        self._fresh: list[int] = []  # the same, wanting a fresh actor
        self._patient: list[int] = []  # the same, waiting for all others
        self._late: list[tuple[float, int]] = []  # heap of (due, rank): at the end, and not before they are due
        self._settled = bytearray(count)
        self.open = count

    def __len__(self) -> int:
        """All clips, settled or not."""
        return len(self._settled)

    @property
    def wants_fresh(self) -> bool:
        """A clip waits for an actor that has run nothing before."""
        return bool(self._fresh)

    @property
    def has_next(self) -> bool:
        """A clip may be taken ahead of its turn; what is patient, late or wants a fresh actor may not."""
        return self._head < len(self._by_rank) or bool(self._returned)

    def has_late(self, now: float) -> bool:
        """A clip at the end is due."""
        return bool(self._late) and self._late[0][0] <= now

    def take(self, now: float, *, fresh: bool = False, may: Callable[[int], bool] = lambda _: True) -> int:
        """The first clip that may run now, or -1.

        Args:
            fresh: on an actor that has run nothing before.
            may: whether a clip that comes back may run on this actor.
        """
        if fresh and (clip := self._pop(self._fresh, may)) >= 0:
            return clip
        clip = self.take_next(may)
        if clip >= 0:
            return clip
        passed: list[tuple[float, int]] = []
        while self._late and self._late[0][0] <= now:
            entry = heapq.heappop(self._late)
            if may(self._by_rank[entry[1]]):
                self._push_all(self._late, passed)
                return self._by_rank[entry[1]]
            passed.append(entry)
        self._push_all(self._late, passed)
        if self._patient and not self._late and not self._returned:
            return self._pop(self._patient, may)
        return -1

    def take_next(self, may: Callable[[int], bool] = lambda _: True) -> int:
        """The first that may be taken ahead of its turn (`has_next`), or -1."""
        if self._returned and (self._head >= len(self._by_rank) or self._returned[0] < self._head):
            clip = self._pop(self._returned, may)
            if clip >= 0:
                return clip
        if self._head < len(self._by_rank):
            self._head += 1
            return self._by_rank[self._head - 1]
        return self._pop(self._returned, may)

    def _pop(self, ranks: list[int], may: Callable[[int], bool]) -> int:
        """The first of a heap that may run, or -1; the others stay."""
        passed: list[int] = []
        found = -1
        while ranks and found < 0 and len(passed) < _MOST_PASSED:
            rank = heapq.heappop(ranks)
            if may(self._by_rank[rank]):
                found = self._by_rank[rank]
            else:
                passed.append(rank)
        self._push_all(ranks, passed)
        return found

    @staticmethod
    def _push_all(heap: list[Any], entries: list[Any]) -> None:
        for entry in entries:
            heapq.heappush(heap, entry)

    def put_back(self, clip: int) -> None:
        heapq.heappush(self._returned, self._rank[clip])

    def put_back_fresh(self, clip: int) -> None:
        """For an actor that has run nothing before."""
        heapq.heappush(self._fresh, self._rank[clip])

    def put_back_patient(self, clip: int) -> None:
        """Until all others have had their turn."""
        heapq.heappush(self._patient, self._rank[clip])

    def put_last(self, clip: int, due: float) -> None:
        """At the end, and not before it is due."""
        heapq.heappush(self._late, (due, self._rank[clip]))

    def is_settled(self, clip: int) -> bool:
        return bool(self._settled[clip])

    def settle(self, clip: int) -> None:
        """It is done, or failed for good, and never comes back."""
        assert not self._settled[clip], f"clip {clip} settled twice"
        self._settled[clip] = 1
        self.open -= 1
