"""Merges that wait for a CPU and running ones: bookkeeping, separate from the actors' queue."""

from __future__ import annotations

import heapq


class Tasks:
    """A queue in the order in which tasks are due."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int]] = []
        self._running: dict[int, tuple[int, float]] = {}  # item -> its attempt and its start time

    @property
    def open(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def items(self) -> list[int]:
        """Items that are running."""
        return list(self._running)

    def add(self, item: int, due: float) -> None:
        """Adds a new or retried item, which does not run before it is due."""
        heapq.heappush(self._waiting, (due, item))

    def take(self, slots: int, now: float) -> list[int]:
        """Takes items to start, as long as fewer than `slots` are running."""
        taken: list[int] = []
        while self._waiting and self._waiting[0][0] <= now and len(self._running) + len(taken) < slots:
            taken.append(heapq.heappop(self._waiting)[1])
        return taken

    def began(self, item: int, attempt: int, now: float) -> None:
        self._running[item] = attempt, now

    def ended(self, item: int) -> tuple[int, float] | None:
        """Removes the item; returns its attempt and start time, or None if it has already ended."""
        return self._running.pop(item, None)
