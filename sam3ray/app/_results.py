"""The results of orders: frames by index, kept when an order ends for whatever reason."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from sam3ray.app._library import NotHere
from sam3ray.app._order import Order
from sam3ray.values.annotations import FrameAnnotations

_KEPT = 40  # results, over all pages


@dataclass(eq=False)
class Result:
    """One order's.

    Attributes:
        key: of its clip.
        asked: the page's request, to show it again.
        owner: who sent it.
        how: queued, running, done, cancelled, failed.
    """

    order: Order
    key: str
    asked: dict[str, Any]
    owner: str = ""
    how: str = "queued"
    message: str = ""
    frames: dict[int, FrameAnnotations] = field(default_factory=dict)

    def add(self, frames: Iterable[FrameAnnotations]) -> None:
        for frame in frames:
            before = self.frames.get(frame.frame_index)
            if before is not None:
                objects = {each.object_id: each for each in (*before.objects, *frame.objects)}
                frame = replace(frame, objects=tuple(objects[i] for i in sorted(objects)))
            self.frames[frame.frame_index] = frame

    def take_over(self, other: Result, indices: Iterable[int]) -> None:
        """Frames of another result of the same clip; what phrases have found has ids above one's own objects."""
        base, up = other.order.base, self.order.base - other.order.base
        for index in indices:
            frame = other.frames[index]
            objects = [replace(o, object_id=o.object_id + up) if o.object_id > base else o for o in frame.objects]
            self.frames[index] = replace(frame, objects=tuple(objects))

    def in_order(self, min_score: float = 0.0) -> list[FrameAnnotations]:
        return [
            replace(frame, objects=tuple(each for each in frame.objects if each.score >= min_score))
            for _, frame in sorted(self.frames.items())
        ]

    def as_json(self) -> dict[str, Any]:
        return {"id": self.order.id, "key": self.key, "how": self.how, "message": self.message, "asked": self.asked}


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
