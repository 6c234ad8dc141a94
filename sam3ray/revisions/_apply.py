"""Applies operations to the rows of a clip, in order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sam3ray.masks import decode_rle, encode_masks
from sam3ray.revisions._operations import (
    EVERYWHERE,
    Accept,
    Add,
    ClipOperation,
    Delete,
    EditRefused,
    Merge,
    Rename,
    ReplaceMask,
    SetId,
    Span,
    Split,
    Swap,
)
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation

LoadData = Callable[[Add | ReplaceMask], Sequence[FrameAnnotations]]
"""Loads the rows of an operation's data file."""


@dataclass
class _Frame:
    facts: FrameAnnotations  # without objects
    objects: dict[int, ObjectAnnotation]


class ClipRows:
    """The rows of one clip. Operations change them in place.

    Args:
        frames: as stored; frames without objects may be missing.
    """

    def __init__(self, frames: Iterable[FrameAnnotations]) -> None:
        self._frames: dict[int, _Frame] = {}
        for frame in frames:
            self._frames[frame.frame_index] = _Frame(
                replace(frame, objects=()), {item.object_id: item for item in frame.objects}
            )

    def frames(self) -> list[FrameAnnotations]:
        """The frames by ascending index, objects by ascending id. Frames without objects are omitted."""
        return [
            replace(frame.facts, objects=tuple(frame.objects[i] for i in sorted(frame.objects)))
            for _, frame in sorted(self._frames.items())
            if frame.objects
        ]

    def ids(self) -> set[int]:
        return {object_id for frame in self._frames.values() for object_id in frame.objects}

    def apply(self, operation: ClipOperation, load: LoadData) -> None:
        """Applies one operation. Raises EditRefused if it does not fit; the rows are then unusable."""
        match operation:
            case Rename(_, object_id, label, frames):
                for frame in self._with(operation, object_id, frames):
                    frame.objects[object_id] = replace(frame.objects[object_id], prompt=label)
            case SetId(_, object_id, to, frames, overwrite):
                self._move(operation, self._with(operation, object_id, frames), object_id, to, overwrite)
            case Split(_, object_id, first, to):
                self._move(operation, self._with(operation, object_id, (first, EVERYWHERE[1])), object_id, to, False)
            case Swap(_, one, two, frames):
                self._swap(operation, one, two, frames)
            case Merge(_, one, two, frames):
                for frame in self._with(operation, two, frames):
                    item = frame.objects.pop(two)
                    held = frame.objects.get(one)
                    frame.objects[one] = replace(item, object_id=one) if held is None else _union(held, item, frame)
                self._keep_label(one)
            case Delete(_, object_id, frames):
                for frame in self._with(operation, object_id, frames):
                    del frame.objects[object_id]
            case Add(_, object_id):
                if object_id in self.ids():
                    raise EditRefused(f"clip {operation.clip}: object {object_id} already exists; add a new id")
                self._put(operation, object_id, load(operation), EVERYWHERE)
            case ReplaceMask(_, object_id, frames):
                self._put(operation, object_id, load(operation), frames)
            case Accept():
                pass

    def _with(self, operation: ClipOperation, object_id: int, frames: Span | None) -> list[_Frame]:
        first, last = frames or EVERYWHERE
        found = [
            frame for index, frame in self._frames.items() if first <= index <= last and object_id in frame.objects
        ]
        if not found:
            where = "" if frames is None else f" on frames {first} to {last}"
            raise EditRefused(f"clip {operation.clip}, {operation.op}: there is no object {object_id}{where}")
        return found

    def _move(self, operation: ClipOperation, frames: Sequence[_Frame], source: int, to: int, overwrite: bool) -> None:
        taken = [frame.facts.frame_index for frame in frames if to in frame.objects]
        if taken and not overwrite:
            raise EditRefused(
                f"clip {operation.clip}, {operation.op}: object {to} already exists on {len(taken)} of the frames, "
                f"first on {min(taken)}; merge the two, choose another id, or overwrite"
            )
        for frame in frames:
            frame.objects[to] = replace(frame.objects.pop(source), object_id=to)

    def _swap(self, operation: ClipOperation, one: int, two: int, frames: Span | None) -> None:
        first, last = frames or EVERYWHERE
        for object_id in (one, two):
            self._with(operation, object_id, frames)
        for index, frame in self._frames.items():
            if first <= index <= last:
                pair = {new: frame.objects.pop(old) for old, new in ((one, two), (two, one)) if old in frame.objects}
                frame.objects |= {new: replace(item, object_id=new) for new, item in pair.items()}

    def _keep_label(self, object_id: int) -> None:
        """One object has one label: that of its first row."""
        rows = [frame for _, frame in sorted(self._frames.items()) if object_id in frame.objects]
        label = rows[0].objects[object_id].prompt
        for frame in rows:
            frame.objects[object_id] = replace(frame.objects[object_id], prompt=label)

    def _put(self, operation: ClipOperation, object_id: int, data: Sequence[FrameAnnotations], frames: Span) -> None:
        sizes = {(frame.facts.height, frame.facts.width) for frame in self._frames.values()}
        put = 0
        for given in data:
            items = [item for item in given.objects if item.object_id == object_id]
            if not items or not frames[0] <= given.frame_index <= frames[1]:
                continue
            if sizes and (given.height, given.width) not in sizes:
                raise EditRefused(
                    f"clip {operation.clip}, {operation.op}: the masks are {given.width}x{given.height}, the clip's "
                    f"are {'; '.join(f'{w}x{h}' for h, w in sorted(sizes))}"
                )
            frame = self._frames.setdefault(given.frame_index, _Frame(replace(given, objects=()), {}))
            frame.objects[object_id] = items[0]
            put += 1
        if not put:
            raise EditRefused(
                f"clip {operation.clip}, {operation.op}: the data have no mask of object {object_id} on its frames"
            )


def _union(one: ObjectAnnotation, two: ObjectAnnotation, frame: _Frame) -> ObjectAnnotation:
    height, width = frame.facts.height, frame.facts.width
    mask = decode_rle(one.rle, height, width) | decode_rle(two.rle, height, width)
    found = encode_masks(np.asarray(mask)[None])[0]
    xmin, ymin, xmax, ymax = found.bbox
    return replace(
        one,
        score=max(one.score, two.score),
        track_score=max(one.track_score, two.track_score),
        bbox=(float(xmin), float(ymin), float(xmax), float(ymax)),
        area=found.area,
        rle=found.rle,
    )
