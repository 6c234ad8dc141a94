"""Gives objects their ids: one source per clip, whatever finds the objects and in whichever direction."""

from __future__ import annotations

from collections.abc import Iterable


class Ids:
    """Ids of one clip's objects, ascending in the order in which they are found.

    Attributes:
        next: above every id given so far.
    """

    def __init__(self, first: int = 1) -> None:
        self.next = first
        self._again: list[int] = []

    @property
    def repeated(self) -> list[int]:
        """Ids named by `repeat` and not taken yet."""
        return list(self._again)

    def take(self, count: int) -> list[int]:
        """Takes ids: first those named by `repeat`, then new ones above all others."""
        taken, self._again = self._again[:count], self._again[count:]
        fresh = count - len(taken)
        self.next += fresh
        return [*taken, *range(self.next - fresh, self.next)]

    def reserve(self, object_id: int) -> None:
        """Notes an id that was given elsewhere."""
        self.next = max(self.next, object_id + 1)

    def repeat(self, ids: Iterable[int]) -> None:
        """Names the ids to take next, because the same objects are about to be found again. None ends this."""
        self._again = list(ids)
