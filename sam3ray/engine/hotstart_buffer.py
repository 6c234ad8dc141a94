"""Holds frames back until no later frame can retract what they show."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from sam3ray.engine.outputs import FrameResult
from sam3ray.video import FrameStamp


@dataclass(frozen=True, eq=False)
class LoopStep:
    """The result of one frame.

    Attributes:
        found, pointed: masks of the objects of phrases, and of visual prompts; None if there are none.
        hidden: objects that this frame does not show.
        removed: objects that no frame shows, including this one and earlier ones.
        young: objects that a later frame may still remove.
    """

    stamp: FrameStamp
    found: FrameResult | None = None
    pointed: FrameResult | None = None
    hidden: frozenset[int] = frozenset()
    removed: frozenset[int] = frozenset()
    young: frozenset[int] = frozenset()

    def reunited(self, object_id: int, with_id: int, score: float) -> LoopStep:
        """The same result, after an object has turned out to be one lost earlier, which has no mask here."""
        if self.found is None or object_id not in self.found.object_ids:
            return self

        def renamed(ids: frozenset[int]) -> frozenset[int]:
            return frozenset(with_id if each == object_id else each for each in ids - {with_id})

        return replace(
            self,
            found=self.found.reunited(object_id, with_id, score),
            hidden=renamed(self.hidden),
            removed=renamed(self.removed),
            young=renamed(self.young),
        )


@dataclass(frozen=True, eq=False)
class ReleasedFrame:
    """A frame to be released, and which of its found objects to show, by place."""

    step: LoopStep
    shown: tuple[int, ...]
    tentative: frozenset[int] = frozenset()
    retracted: frozenset[int] = frozenset()


@dataclass
class HotstartBuffer:
    """The frames held back, and the objects that hotstart removed meanwhile.

    Attributes:
        delay: the number of frames at which the oldest is released. 0 holds none: an object that hotstart removes later
            was then shown already, and is retracted.
        unsure: objects shown while they were young.
    """

    delay: int = 0
    steps: deque[LoopStep] = field(default_factory=deque)
    unsure: set[int] = field(default_factory=set)

    def push(self, step: LoopStep) -> Iterator[ReleasedFrame]:
        self.steps.append(step)
        if len(self.steps) >= self.delay:
            yield self._pop()

    def reunite(self, object_id: int, with_id: int, score: float) -> None:
        """On all frames held, gives an object the id of one lost earlier."""
        self.steps = deque(step.reunited(object_id, with_id, score) for step in self.steps)

    def flush(self) -> Iterator[ReleasedFrame]:
        while self.steps:
            yield self._pop()

    def _pop(self) -> ReleasedFrame:
        """Releases the oldest frame.

        Objects on it can only have been removed by frames still held: removal happens less than `delay` frames after an
        object's first, and objects removed earlier are not in this frame's result.
        """
        gone = frozenset().union(*(step.removed for step in self.steps))
        step = self.steps.popleft()
        ids = step.found.object_ids if step.found is not None else ()
        shown = tuple(place for place, each in enumerate(ids) if each not in gone and each not in step.hidden)
        if self.delay:
            return ReleasedFrame(step, shown)
        retracted = frozenset(self.unsure & step.removed)
        tentative = frozenset(ids[place] for place in shown) & step.young
        self.unsure = (self.unsure & step.young) | tentative
        return ReleasedFrame(step, shown, tentative, retracted)
