"""The queue of items for actors, in the order in which they run."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Collection, Sequence
from math import inf
from typing import Any

_MOST_PASSED = 200  # items checked at a time for an actor that may not run some of them

_Entry = tuple[float, int]  # (negative length, item): sorts in the order of the line


class Line:
    """A queue, longest first. A requeued item keeps its place, unless it goes to the end. Items are numbers from 0.

    Memory: 17 bytes per item, and a little for each item that was requeued or added.

    Attributes:
        open: items that are not settled, running ones included.
    """

    def __init__(self, lengths: Sequence[float], last: Collection[int] = ()) -> None:
        """`lengths`: one number per item, in any one unit; ties keep their order. `last`: items that go to the end."""
        count = len(lengths)
        self._lengths = array("d", (-inf if item in last else lengths[item] for item in range(count)))
        self._sorted = array("l", sorted(range(count), key=lambda item: -self._lengths[item]))
        self._head = 0  # earlier items were handed out at least once, or are settled
        self._waiting: list[_Entry] = []  # heap of items that were requeued or added
        self._fresh: list[_Entry] = []  # the same, for items that need a fresh actor
        self._patient: list[_Entry] = []  # the same, for items that wait for all others
        self._late: list[tuple[float, _Entry]] = []  # heap of items for the end, by earliest time to run
        self._settled = bytearray(count)
        self.open = count

    def __len__(self) -> int:
        """The number of items, settled or not."""
        return len(self._settled)

    @property
    def wants_fresh(self) -> bool:
        """Whether an item waits for a fresh actor."""
        return bool(self._fresh)

    @property
    def has_next(self) -> bool:
        """Whether an item can be taken early, which excludes patient and late items and those for a fresh actor."""
        return self._head < len(self._sorted) or bool(self._waiting)

    def has_late(self, now: float) -> bool:
        """Whether an item at the end is due."""
        return bool(self._late) and self._late[0][0] <= now

    def add(self, length: float, *, waits: bool = True) -> int:
        """Adds an item with the next number. `waits`: it waits for an actor; otherwise only its settling is tracked."""
        item = len(self._settled)
        self._lengths.append(length)
        self._settled.append(0)
        self.open += 1
        if waits:
            self.put_back(item)
        return item

    def take(self, now: float, *, fresh: bool = False, may: Callable[[int], bool] = lambda _: True) -> int:
        """The first item that may run now, or -1.

        Args:
            fresh: the actor has run nothing yet.
            may: whether a requeued item may run on this actor.
        """
        if fresh and (item := self._pop(self._fresh, may)) >= 0:
            return item
        item = self.take_next(may)
        if item >= 0:
            return item
        passed: list[tuple[float, _Entry]] = []
        while self._late and self._late[0][0] <= now:
            entry = heapq.heappop(self._late)
            if may(entry[1][1]):
                self._push_all(self._late, passed)
                return entry[1][1]
            passed.append(entry)
        self._push_all(self._late, passed)
        if self._patient and not self._late and not self._waiting:
            return self._pop(self._patient, may)
        return -1

    def take_next(self, may: Callable[[int], bool] = lambda _: True) -> int:
        """The first item that can be taken early (`has_next`), or -1."""
        if self._waiting and (self._head >= len(self._sorted) or self._waiting[0] < self._entry_at_head):
            item = self._pop(self._waiting, may)
            if item >= 0:
                return item
        if self._head < len(self._sorted):
            item = self._sorted[self._head]
            self._head += 1
            self._skip_settled()
            return item
        return self._pop(self._waiting, may)

    @property
    def _entry_at_head(self) -> _Entry:
        return self._entry(self._sorted[self._head])

    def _entry(self, item: int) -> _Entry:
        return -self._lengths[item], item

    def _pop(self, heap: list[_Entry], may: Callable[[int], bool]) -> int:
        """Removes and returns the first item of a heap that may run, or -1."""
        passed: list[_Entry] = []
        found = -1
        while heap and found < 0 and len(passed) < _MOST_PASSED:
            entry = heapq.heappop(heap)
            if may(entry[1]):
                found = entry[1]
            else:
                passed.append(entry)
        self._push_all(heap, passed)
        return found

    @staticmethod
    def _push_all(heap: list[Any], entries: list[Any]) -> None:
        for entry in entries:
            heapq.heappush(heap, entry)

    def hand_out(self, item: int) -> None:
        """Takes this item out of turn. Call it before any `take`."""
        assert self._head == 0
        self._sorted.remove(item)

    def put_back(self, item: int) -> None:
        heapq.heappush(self._waiting, self._entry(item))

    def put_back_fresh(self, item: int) -> None:
        """Requeues the item for a fresh actor."""
        heapq.heappush(self._fresh, self._entry(item))

    def put_back_patient(self, item: int) -> None:
        """Requeues the item behind all others."""
        heapq.heappush(self._patient, self._entry(item))

    def put_last(self, item: int, due: float) -> None:
        """Requeues the item at the end, not before it is due."""
        heapq.heappush(self._late, (due, self._entry(item)))

    def is_settled(self, item: int) -> bool:
        return bool(self._settled[item])

    def settle(self, item: int) -> None:
        """The item is done or failed for good, and is never requeued."""
        assert not self._settled[item], f"item {item} settled twice"
        self._settled[item] = 1
        self.open -= 1

    def withdraw(self, items: Collection[int]) -> None:
        """Settles waiting items that are no longer needed."""
        for item in items:
            self.settle(item)
        gone = set(items)
        for heap in (self._waiting, self._fresh, self._patient):
            if any(item in gone for _, item in heap):
                heap[:] = [entry for entry in heap if entry[1] not in gone]
                heapq.heapify(heap)
        if any(entry[1] in gone for _, entry in self._late):
            self._late = [each for each in self._late if each[1][1] not in gone]
            heapq.heapify(self._late)
        self._skip_settled()

    def _skip_settled(self) -> None:
        while self._head < len(self._sorted) and self._settled[self._sorted[self._head]]:
            self._head += 1
