"""Who gives objects their ids: one place per clip, whatever found them and whichever way it was gone through."""

from __future__ import annotations

from collections.abc import Iterable


class Ids:
    """Ids of one clip's objects, ascending in the order of finding.

    Attributes:
        next: above every id given so far.
    """

    def __init__(self, first: int = 1) -> None:
        self.next = first
        self._again: list[int] = []

    @property
    def repeated(self) -> list[int]:
        """What `repeat` named and nobody has taken yet."""
        return list(self._again)

    def take(self, count: int) -> list[int]:
        """As many new ids, above all given; first those that `repeat` named."""
        taken, self._again = self._again[:count], self._again[count:]
        fresh = count - len(taken)
        self.next += fresh
        return [*taken, *range(self.next - fresh, self.next)]

    def reserve(self, object_id: int) -> None:
        """This id was given by somebody else."""
        self.next = max(self.next, object_id + 1)

    def repeat(self, ids: Iterable[int]) -> None:
        """The next to be taken are these: the same objects are about to be found again. None: no more of them."""
        self._again = list(ids)
