"""All items of a job: which are open, what they wait for, and what follows when one ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from sam3ray.failures import Reason
from sam3ray.job.blame import Blame
from sam3ray.job.graph import Cutting, Graph, Ready, Stage, Work
from sam3ray.job.line import Line
from sam3ray.job.tasks import Tasks


class Worklist:
    """The actors' queue, the merges, and the graph of items.

    Attributes:
        done, failed: numbers of whole clips.
    """

    def __init__(
        self,
        lengths: Sequence[float],
        blame: Blame,
        prior: Collection[int],
        prior_parts: Mapping[Work, Iterable[Reason]],
    ) -> None:
        """`prior`: clips that failed in earlier runs. `prior_parts`: parts that failed, with the reasons."""
        self.line = Line(lengths, last=prior)
        self.graph = Graph(lengths)
        self.merges = Tasks()
        self.done = 0
        self.failed: Counter[Reason] = Counter()
        self._expected: dict[int, int] = {}  # windows expected of clips that no actor has opened yet
        self._blame = blame
        self._prior_parts = prior_parts

    @property
    def for_actors(self) -> int:
        """Open items that need an actor, running ones included."""
        return self.line.open - self.merges.open

    @property
    def expected(self) -> int:
        """Open items that need an actor, if clips are cut as expected: each of their windows counts."""
        return self.for_actors + sum(self._expected.values()) - len(self._expected)

    def expect(self, windows: Mapping[int, int]) -> None:
        """Notes the numbers of windows of clips likely to be cut, before these are opened."""
        self._expected |= {clip: count for clip, count in windows.items() if not self.line.is_settled(clip)}

    def stays_whole(self, clip: int) -> bool:
        """The clip is not cut, whatever was expected. True if that was not known."""
        return self._expected.pop(clip, None) is not None

    def clips_of(self, running: Iterable[int]) -> int:
        """The number of clips in progress, given the items on actors; merges are added."""
        items = list(running)
        if not self.graph.is_cut:
            return len(items)
        return len({self.graph.clip(item) for item in (*items, *self.merges.items)})

    def finish(self, item: int, now: float) -> bool:
        """The item is done. True if the whole clip is now done."""
        was_over = self.graph.is_over(item)
        self._settle(item)
        self._admit(self.graph.done(item), now)
        ended = self.graph.is_over(item) and not was_over
        self.done += ended
        return ended

    def cut(self, item: int, cutting: Cutting, now: float) -> None:
        """The clip is cut into windows."""
        self._settle(item)
        self._admit(self.graph.cut(item, cutting), now)

    def make_again(self, item: int, windows: Collection[int], now: float) -> bool:
        """See `Graph.again`. False if that has happened too often and the item is still open."""
        ready = self.graph.again(item, windows)
        if ready is None:
            return False
        self._settle(item)
        self._admit(ready, now)
        return True

    def give_up(self, item: int, reason: Reason, busy: Collection[int]) -> set[int] | None:
        """Gives up the item and its clip for good.

        Args:
            busy: running items, which may finish: their windows help when the clip is retried.

        Returns:
            The clip's other items, which must be withdrawn; None if the clip had already ended.
        """
        self._settle(item)
        if self.graph.is_over(item):
            return None
        self.failed[reason] += 1
        return self.graph.end(self.graph.clip(item)) - {item} - set(busy)

    def _settle(self, item: int) -> None:
        self.line.settle(item)
        self._blame.forget(item)
        self._expected.pop(item, None)

    def _admit(self, ready: Iterable[Ready], now: float) -> None:
        """Turns parts that can begin into items."""
        for work, length in ready:
            is_merge = work.stage is Stage.MERGE
            item = self.line.add(length, waits=not is_merge)
            self.graph.number(item, work)
            self._blame.note(item, self._prior_parts.get(work, ()))
            if is_merge:
                self.merges.add(item, now)
