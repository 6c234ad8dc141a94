"""Keeps track of what people set by hand in a clip: masks they drew, boxes and clicks, and where they deleted an
object.

Follows the operations in order, as `_apply` does with the rows. Marks move with the ids, and vanish when they are
replaced or deleted later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sam3ray.revisions._operations import (
    EVERYWHERE,
    Accept,
    Add,
    ClipOperation,
    Delete,
    Merge,
    Rename,
    ReplaceMask,
    SetId,
    Span,
    Split,
    Swap,
)
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.prompts import VisualPrompt


@dataclass(frozen=True)
class Data:
    """The content of an operation's data file.

    Attributes:
        frames: the rows.
        by_hand: whether a person drew the masks; otherwise a tool computed them (interpolation or tracking).
        prompts: boxes and clicks given by hand; the mask of their frame and object is only a placeholder.
    """

    frames: tuple[FrameAnnotations, ...]
    by_hand: bool = True
    prompts: tuple[VisualPrompt, ...] = ()


LoadData = Callable[[Add | ReplaceMask], Data]


@dataclass
class Marks:
    """What people set by hand in one clip.

    Attributes:
        set_rows: object id -> frame -> the prompts given there; empty if the mask itself was drawn.
        gone: object id -> spans of frames on which it was deleted.
        labels: object id -> the label last given to it, on whatever frames.
    """

    set_rows: dict[int, dict[int, tuple[VisualPrompt, ...]]] = field(default_factory=dict)
    gone: dict[int, list[Span]] = field(default_factory=dict)
    labels: dict[int, str] = field(default_factory=dict)

    def is_drawn(self, object_id: int, frame: int) -> bool:
        """Whether this mask was drawn by hand, so that nothing may change it."""
        return self.set_rows.get(object_id, {}).get(frame) == ()

    def is_gone(self, object_id: int, frame: int) -> bool:
        return any(first <= frame <= last for first, last in self.gone.get(object_id, ()))


def marks_of(operations: Iterable[ClipOperation], load: LoadData) -> Marks:
    """What people set by hand, under the ids after all operations."""
    marks = Marks()
    for operation in operations:
        match operation:
            case Accept():
                pass
            case Rename(_, object_id, label, _):
                marks.labels[object_id] = label
            case Add(_, object_id):
                _put(marks, object_id, load(operation), EVERYWHERE)
            case ReplaceMask(_, object_id, span):
                _put(marks, object_id, load(operation), span)
            case Delete(_, object_id, frames):
                _take_rows(marks, object_id, frames or EVERYWHERE)
                marks.gone.setdefault(object_id, []).append(frames or EVERYWHERE)
            case SetId(_, object_id, to, frames, _):
                _move(marks, object_id, to, frames or EVERYWHERE)
            case Split(_, object_id, first, to):
                _move(marks, object_id, to, (first, EVERYWHERE[1]))
            case Swap(_, one, two, frames):
                span = frames or EVERYWHERE
                rows, gone, named = _take_rows(marks, one, span), _take_gone(marks, one, span), marks.labels.get(one)
                _move(marks, two, one, span)
                _add(marks, two, rows, gone)
                if named is not None:
                    marks.labels[two] = named
            case Merge(_, one, two, frames):
                span = frames or EVERYWHERE
                rows, taken = _take_rows(marks, two, span), marks.set_rows.get(one, {})
                # If both have a mask, nobody has drawn a box or clicked for their union.
                both = {frame: () if frame in taken else given for frame, given in rows.items()}
                _take_gone(marks, two, span)
                _add(marks, one, both, ())
    return marks


def _put(marks: Marks, object_id: int, data: Data, span: Span) -> None:
    given: dict[int, list[VisualPrompt]] = {}
    for prompt in data.prompts:
        if prompt.object_id == object_id:
            given.setdefault(prompt.frame_index, []).append(prompt)
    for frame in data.frames:
        index = frame.frame_index
        if not span[0] <= index <= span[1] or all(item.object_id != object_id for item in frame.objects):
            continue
        _take_gone(marks, object_id, (index, index))
        marks.set_rows.get(object_id, {}).pop(index, None)
        if data.by_hand or index in given:
            marks.set_rows.setdefault(object_id, {})[index] = tuple(given.get(index, ()))


def _move(marks: Marks, source: int, to: int, span: Span) -> None:
    rows, gone = _take_rows(marks, source, span), _take_gone(marks, source, span)
    for frame in rows:
        marks.set_rows.get(to, {}).pop(frame, None)
    _add(marks, to, rows, gone)
    if source in marks.labels:
        marks.labels[to] = marks.labels[source]


def _add(marks: Marks, object_id: int, rows: Mapping[int, tuple[VisualPrompt, ...]], gone: Sequence[Span]) -> None:
    if rows:
        marks.set_rows.setdefault(object_id, {}).update(rows)
    if gone:
        marks.gone.setdefault(object_id, []).extend(gone)


def _take_rows(marks: Marks, object_id: int, span: Span) -> dict[int, tuple[VisualPrompt, ...]]:
    own = marks.set_rows.get(object_id, {})
    return {frame: own.pop(frame) for frame in sorted(own) if span[0] <= frame <= span[1]}


def _take_gone(marks: Marks, object_id: int, span: Span) -> list[Span]:
    """Removes a span from the frames on which the object is gone; returns what was removed."""
    inside: list[Span] = []
    outside: list[Span] = []
    for first, last in marks.gone.get(object_id, ()):
        low, high = max(first, span[0]), min(last, span[1])
        if low > high:
            outside.append((first, last))
            continue
        inside.append((low, high))
        if first < low:
            outside.append((first, low - 1))
        if last > high:
            outside.append((high + 1, last))
    if object_id in marks.gone:
        marks.gone[object_id] = outside
    return inside
