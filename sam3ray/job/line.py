"""The clips that wait for an actor, in the order in which they are to be run."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence


class Line:
    """Longest first; a clip that comes back keeps its place. Clips are numbers from 0.

    Memory: 17 bytes a clip, and a little for each that came back.

    Attributes:
        open: clips that are not settled, those that run included.
    """

    def __init__(self, lengths: Sequence[float]) -> None:
        """`lengths`: one number per clip, in any one unit; ties keep their order."""
        count = len(lengths)
        self._by_rank = array("l", sorted(range(count), key=lambda clip: -lengths[clip]))
        self._rank = array("l", bytes(count * array("l").itemsize))
        for rank, clip in enumerate(self._by_rank):
            self._rank[clip] = rank
        self._head = 0  # ranks before it were handed out at least once
        self._returned: list[int] = []  # heap of ranks handed out and come back
        self._fresh: list[int] = []  # the same, wanting a fresh actor
        self._patient: list[int] = []  # the same, waiting for all others
        self._delayed: list[tuple[float, int]] = []  # heap of (due, rank)
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
        """A clip may be taken ahead of its turn; what is patient, delayed or wants a fresh actor may not."""
        return self._head < len(self._by_rank) or bool(self._returned)

    def take(self, now: float, *, fresh: bool = False) -> int:
        """The longest clip that may run now, or -1. `fresh`: on an actor that has run nothing before."""
        while self._delayed and self._delayed[0][0] <= now:
            heapq.heappush(self._returned, heapq.heappop(self._delayed)[1])
        if fresh and self._fresh:
            return self._by_rank[heapq.heappop(self._fresh)]
        if self._returned and (self._head >= len(self._by_rank) or self._returned[0] < self._head):
            return self._by_rank[heapq.heappop(self._returned)]
        if self._head < len(self._by_rank):
            self._head += 1
            return self._by_rank[self._head - 1]
        if self._patient and not self._delayed:
            return self._by_rank[heapq.heappop(self._patient)]
        return -1

    def put_back(self, clip: int) -> None:
        heapq.heappush(self._returned, self._rank[clip])

    def put_back_fresh(self, clip: int) -> None:
        """For an actor that has run nothing before."""
        heapq.heappush(self._fresh, self._rank[clip])

    def put_back_patient(self, clip: int) -> None:
        """Until all others have had their turn."""
        heapq.heappush(self._patient, self._rank[clip])

    def put_back_until(self, clip: int, due: float) -> None:
        heapq.heappush(self._delayed, (due, self._rank[clip]))

    def is_settled(self, clip: int) -> bool:
        return bool(self._settled[clip])

    def settle(self, clip: int) -> None:
        """It is done, or failed for good, and never comes back."""
        assert not self._settled[clip], f"clip {clip} settled twice"
        self._settled[clip] = 1
        self.open -= 1
