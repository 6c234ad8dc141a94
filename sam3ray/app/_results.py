"""The results of orders: frames by index, kept when an order ends for whatever reason."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from sam3ray.app._library import NotHere
from sam3ray.app._messages import Kept
from sam3ray.app._order import Order
from sam3ray.display.readable import readable_span
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation

_KEPT = 40  # results, over all pages


@dataclass(eq=False)
class Result:
    """One order's.

    Attributes:
        key: of its clip.
        asked: the page's request, to show it again.
        owner: who sent it.
        how: queued, running, done, cancelled, failed.
        kept: frames of which something was taken over from the run before, which saved `skipped` steps of the model.
        says: how far it is, or how it ended, in a sentence.
    """

    order: Order
    key: str
    asked: dict[str, Any]
    owner: str = ""
    how: str = "queued"
    message: str = ""
    frames: dict[int, FrameAnnotations] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    skipped: int = 0
    says: str = "Working."

    def progress(self, done: int, total: int, seconds: float) -> None:
        """Says how far it is. Args: seconds: since it began."""
        rate = (done - self.skipped) / max(0.01, seconds)
        left = f" · {readable_span((total - done) / rate)} left" if rate > 0 else ""
        self.says = f"{done} of {total} steps · {rate:.1f} a second{left}"

    def end(self, how: str, message: str) -> None:
        """Keeps how it ended, and says so."""
        self.how, self.message = how, message
        frames = "1 frame" if len(self.frames) == 1 else f"{len(self.frames)} frames"
        if how == "done":
            self.says = f"Done: {frames}{f', {len(self.kept)} of them from the run before' if self.kept else ''}."
        elif how == "cancelled":
            self.says = f"Stopped: {frames} {'is' if len(self.frames) == 1 else 'are'} kept."
        else:
            self.says = f"Failed: {message.rstrip('.')}."

    def add(self, frames: Iterable[FrameAnnotations]) -> None:
        for frame in frames:
            before = self.frames.get(frame.frame_index)
            if before is not None:
                objects = {each.object_id: each for each in (*before.objects, *frame.objects)}
                frame = replace(frame, objects=tuple(objects[i] for i in sorted(objects)))
            self.frames[frame.frame_index] = frame

    def take_over(self, other: Result, kept: Kept) -> None:
        """Objects of another result of the same clip; what phrases have found has ids above one's own objects."""
        base, mine = other.order.base, self.order.base
        least, by = kept.moved
        begun: dict[int, int] = {}
        for prompt in other.order.visual:
            begun[prompt.object_id] = min(prompt.frame_index, begun.get(prompt.object_id, prompt.frame_index))

        def is_kept(each: ObjectAnnotation, index: int) -> bool:
            if each.object_id > base:
                return kept.found
            return kept.own == "all" or (kept.own == "begun" and begun.get(each.object_id, 0) <= index)

        def renamed(each: ObjectAnnotation) -> ObjectAnnotation:
            if each.object_id <= base:
                return each
            name = each.object_id + mine - base
            return replace(each, object_id=name + by if name >= least else name)

        for index in kept.frames:
            frame, here = other.frames[index], self.frames.get(index)
            before = [o for o in here.objects if not (kept.found and o.object_id > mine)] if here is not None else []
            taken = [renamed(each) for each in frame.objects if is_kept(each, index)]
            objects = {each.object_id: each for each in (*before, *taken)}
            self.frames[index] = replace(frame, objects=tuple(objects[i] for i in sorted(objects)))
        self.kept.update(kept.frames)

    def in_order(self, min_score: float = 0.0) -> list[FrameAnnotations]:
        return [
            replace(frame, objects=tuple(each for each in frame.objects if each.score >= min_score))
            for _, frame in sorted(self.frames.items())
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.order.id,
            "key": self.key,
            "how": self.how,
            "message": self.message,
            "says": self.says,
            "asked": self.asked,
        }


class Results:
    """The latest results of all pages."""

    def __init__(self) -> None:
        self._results: OrderedDict[str, Result] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, result: Result) -> None:
        with self._lock:
            self._results[result.order.id] = result
            while len(self._results) > _KEPT:
                self._results.popitem(last=False)

    def drop(self, order_id: str) -> None:
        with self._lock:
            self._results.pop(order_id, None)

    def get(self, order_id: str) -> Result:
        """Raises NotHere."""
        with self._lock:
            if order_id not in self._results:
                raise NotHere("this result is no longer kept: run again")
            return self._results[order_id]

    def of_clip(self, key: str) -> list[Result]:
        with self._lock:
            return [each for each in self._results.values() if each.key == key]


def frame_json(frame: FrameAnnotations) -> dict[str, Any]:
    """A frame as pages get it: short names, since there are thousands."""
    return {
        "i": frame.frame_index,
        "o": [
            [
                each.object_id,
                each.prompt,
                round(each.score, 4),
                round(each.track_score, 4),
                *(round(v, 1) for v in each.bbox),
                each.area,
                each.rle,
            ]
            for each in frame.objects
        ],
    }
