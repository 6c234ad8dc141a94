"""The merges that wait for a CPU, and the running ones: bookkeeping beside the actors' queue."""

from __future__ import annotations

import heapq


class Tasks:
    """First due, first served."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int]] = []
        self._running: dict[int, tuple[int, float]] = {}  # item -> its attempt, and when that began

    @property
    def open(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def items(self) -> list[int]:
        """Those under way."""
        return list(self._running)

    def add(self, item: int, due: float) -> None:
        """New, or to be tried again, and not before it is due."""
        heapq.heappush(self._waiting, (due, item))

    def take(self, slots: int, now: float) -> list[int]:
        """Items to start, so that at most `slots` are running."""
        taken: list[int] = []
        while self._waiting and self._waiting[0][0] <= now and len(self._running) + len(taken) < slots:
            taken.append(heapq.heappop(self._waiting)[1])
        return taken

    def began(self, item: int, attempt: int, now: float) -> None:
        self._running[item] = attempt, now

    def ended(self, item: int) -> tuple[int, float] | None:
        """Its attempt and when that began; None if it is already known."""
        return self._running.pop(item, None)
