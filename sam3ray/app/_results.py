"""The results of orders: frames by index, kept when an order ends for whatever reason.

Pages hold the rows of the clip that they show, and fetch those of other clips again. So results stay as long as there
is room on the disk: the latest are in memory, the others in files.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from sam3ray.app._library import NotHere
from sam3ray.app._messages import Kept
from sam3ray.app._order import Order
from sam3ray.display.readable import readable_span
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation

_KEPT = 10_000  # results, over all pages
_KEPT_BYTES = 4 * 2**30  # of their files
_IN_MEMORY = 8  # besides those under way
_GONE = "this result is no longer kept: run again"


@dataclass(eq=False)
class Result:
    """One order's.

    Attributes:
        key: of its clip.
        asked: the page's request, to show it again.
        owner: who sent it.
        how: queued, running, done, cancelled, failed.
        frames: by index; read from the file where they are no longer in memory.
        kept: frames of which something was taken over from the run before, which saved `skipped` steps of the model.
        says: how far it is, or how it ended, in a sentence.
    """

    order: Order
    key: str
    asked: dict[str, Any]
    owner: str = ""
    how: str = "queued"
    message: str = ""
    kept: set[int] = field(default_factory=set)
    skipped: int = 0
    says: str = "Working."
    _frames: dict[int, FrameAnnotations] | None = field(default_factory=dict)
    _file: Path | None = None

    @property
    def frames(self) -> dict[int, FrameAnnotations]:
        """Raises NotHere where the file has been deleted."""
        frames = self._frames
        if frames is None:
            assert self._file is not None
            try:
                frames = self._frames = _unpacked(self._file.read_bytes())
            except FileNotFoundError:
                raise NotHere(_GONE) from None
        return frames

    @property
    def rests(self) -> bool:
        """It is over, and in memory."""
        return self.how not in ("queued", "running") and self._frames is not None

    def put_away(self, folder: Path) -> int:
        """Leaves the frames to a file, and returns its bytes if it is new. On a full disk they stay in memory."""
        size = 0
        if self._file is None:
            path = folder / f"{self.order.id}.result"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                size = path.write_bytes(_packed(self.frames.values()))
            except OSError:
                with suppress(OSError):
                    path.unlink()
                return 0
            self._file = path
        self._frames = None
        return size

    def delete(self) -> int:
        """Deletes the file, if any, and returns its bytes."""
        if self._file is None:
            return 0
        size = self._file.stat().st_size
        self._file.unlink()
        return size

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
    """The results of all pages; those that began first give way.

    Args:
        folder: for the files of results that are over.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bytes = 0
        self._results: OrderedDict[str, Result] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, result: Result) -> None:
        with self._lock:
            self._results[result.order.id] = result
            self._make_room()

    def drop(self, order_id: str) -> None:
        with self._lock:
            self._results.pop(order_id, None)

    def get(self, order_id: str) -> Result:
        """Raises NotHere."""
        with self._lock:
            if order_id not in self._results:
                raise NotHere(_GONE)
            self._make_room()
            return self._results[order_id]

    def of_clip(self, key: str) -> list[Result]:
        with self._lock:
            return [each for each in self._results.values() if each.key == key]

    def _make_room(self) -> None:
        """In memory, and on the disk."""
        resting = [each for each in self._results.values() if each.rests]
        for each in resting[:-_IN_MEMORY]:
            self._bytes += each.put_away(self._folder)
        while len(self._results) > _KEPT or (self._bytes > _KEPT_BYTES and len(self._results) > 1):
            _, oldest = self._results.popitem(last=False)
            self._bytes -= oldest.delete()


def _packed(frames: Iterable[FrameAnnotations]) -> bytes:
    """Exactly, as JSON."""
    names = [each.name for each in fields(ObjectAnnotation)]
    values = [
        (f.frame_index, f.pts, f.time_s, f.height, f.width, [{n: getattr(row, n) for n in names} for row in f.objects])
        for f in frames
    ]
    return zlib.compress(json.dumps(values).encode(), 1)


def _unpacked(data: bytes) -> dict[int, FrameAnnotations]:
    frames = {}
    for index, pts, time_s, height, width, rows in json.loads(zlib.decompress(data)):
        objects = tuple(ObjectAnnotation(**{**row, "bbox": tuple(row["bbox"])}) for row in rows)
        frames[index] = FrameAnnotations(index, pts, time_s, height, width, objects)
    return frames


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
