"""Finds what a person changed in exported labels: the operations that turn the export into the corrected files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np

from sam3ray.masks import encode_masks
from sam3ray.revisions._operations import ClipOperation, Delete, Rename, SetId, Span, Swap
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.values.prompts import BoxPrompt

CORRECTED_SCORE = 1.0  # the score of a mask drawn by hand


@dataclass(frozen=True, eq=False)
class Label:
    """One object on one frame, as the tool returned it.

    Attributes:
        object_id: None for a new object without an id. A negative id marks a new object, the same one wherever that id
            occurs.
        mask: (height, width) bool, not empty; or a row, if the format preserves rows, which keeps its scores.
        prompt: a box set by hand; the mask is only a placeholder for it.
        between: whether the tool interpolated it between two boxes that were set by hand.
    """

    object_id: int | None
    label: str
    mask: np.ndarray | ObjectAnnotation
    prompt: BoxPrompt | None = None
    between: bool = False


@dataclass(frozen=True)
class Change:
    """What changed in one clip.

    Attributes:
        operations: apply them in order, then put `masks` in place.
        masks: by object id, its new and changed frames, ascending.
        prompts: by object id, the boxes set by hand on some of these frames.
        between: by object id, which of these frames were interpolated.
        added: ids of new objects.
    """

    operations: tuple[ClipOperation, ...]
    masks: Mapping[int, tuple[FrameAnnotations, ...]]
    added: frozenset[int]
    prompts: Mapping[int, tuple[BoxPrompt, ...]] = field(default_factory=dict)
    between: Mapping[int, frozenset[int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.operations or self.masks)


def difference(
    clip_id: str,
    frames: Sequence[int],
    before: Mapping[int, FrameAnnotations],
    after: Mapping[int, Sequence[Label]],
    facts_of: Callable[[int], FrameAnnotations],
    names: Mapping[str, str] | None = None,
    left_out: Set[int] = frozenset(),
    exported: Sequence[int] | None = None,
) -> Change:
    """Compares a clip before and after, frame by frame. Frames that were not exported stay as they are.

    If a mask is unchanged but its id differs, the object was given that id, or two objects swapped ids. An object that
    is missing on a frame was deleted there. An id that the clip does not have is a new object.

    Args:
        frames: indices of the frames to compare.
        before: the whole clip as it was when exported.
        after: the labels that the tool returned, by frame.
        facts_of: returns the times and size of a frame that had no objects, as a frame without objects.
        names: label in the run -> label in the export.
        left_out: ids of the clip's objects that were not exported.
        exported: all exported frames; None if these are `frames`. If the export skipped frames, a change on every
            exported frame of an object applies to the whole object.

    Raises:
        ValueError: an id occurs twice on a frame, or belongs to an object that was not exported.
    """
    renamed = names or {}
    prompts_of: dict[int, dict[str, None]] = {}
    for row in before.values():
        for was in row.objects:
            prompts_of.setdefault(was.object_id, {})[was.prompt] = None
    known = prompts_of.keys()
    prompts = {prompt for own in prompts_of.values() for prompt in own}
    given = {label.object_id or 0 for found in after.values() for label in found}
    fresh = max(known | given | left_out, default=0) + 1
    if taken := sorted((given & left_out) - known):
        raise ValueError(
            f"object {taken[0]} is another object of the clip, which this export omitted; "
            f"give new objects no id, or one from {fresh}"
        )
    new: dict[int, int] = {}
    moves: dict[tuple[int, int], list[int]] = {}
    swaps: dict[tuple[int, int], list[int]] = {}
    gone: dict[int, list[int]] = {}
    labels: dict[tuple[int, str], list[int]] = {}
    masks: dict[int, list[FrameAnnotations]] = {}
    boxes: dict[int, list[BoxPrompt]] = {}
    between: dict[int, set[int]] = {}
    for frame in frames:
        facts = before.get(frame) or facts_of(frame)
        held = {item.object_id: item for item in facts.objects} if frame in before else {}
        found: dict[int, tuple[Label, ObjectAnnotation]] = {}
        for label in after.get(frame, ()):
            object_id = label.object_id
            if object_id is None or (object_id < 0 and object_id not in new):
                new[object_id or 0], fresh = fresh, fresh + 1
            object_id = new[object_id or 0] if object_id is None or object_id < 0 else object_id
            if object_id in found:
                raise ValueError(f"object {object_id} appears twice on frame {frame}")
            here = [held[object_id].prompt] if object_id in held else []
            own = _own_name(label.label, [*here, *prompts_of.get(object_id, ())], renamed, prompts)
            found[object_id] = label, _annotation(object_id, replace(label, label=own))
        missing = {object_id: item for object_id, item in held.items() if object_id not in found}
        partners = _partners(held, {object_id: item for object_id, (_, item) in found.items()})
        for pair in sorted({(min(pair), max(pair)) for pair in partners.items()}):
            swaps.setdefault(pair, []).append(frame)
        for object_id, (label, item) in sorted(found.items()):
            same = next((old for old, was in missing.items() if was.rle == item.rle), None)
            if object_id not in held and same is not None:
                moves.setdefault((same, object_id), []).append(frame)
                was = missing.pop(same)
            elif object_id in partners:
                was = held[partners[object_id]]
            elif object_id in held and held[object_id].rle == item.rle:
                was = held[object_id]
            else:
                made = FrameAnnotations(frame, facts.pts, facts.time_s, facts.height, facts.width, (item,))
                masks.setdefault(object_id, []).append(made)
                if label.prompt is not None:
                    boxes.setdefault(object_id, []).append(replace(label.prompt, object_id=object_id))
                if label.between:
                    between.setdefault(object_id, set()).add(frame)
                continue
            if label.label != renamed.get(was.prompt, was.prompt):
                labels.setdefault((object_id, item.prompt), []).append(frame)
        for object_id in missing:
            gone.setdefault(object_id, []).append(frame)
    sources = {new: old for old, new in moves}
    spans = _Spans(frames, before, frames if exported is None else exported)
    operations: list[ClipOperation] = [
        Delete(clip_id, object_id, span) for object_id, at in sorted(gone.items()) for span in spans.of(at, object_id)
    ]
    operations += [
        SetId(clip_id, old, new, span) for (old, new), at in sorted(moves.items()) for span in spans.of(at, old, new)
    ]
    operations += [
        Swap(clip_id, one, two, span)
        for (one, two), at in sorted(swaps.items())
        for span in spans.of_pair(at, one, two)
    ]
    operations += [
        Rename(clip_id, object_id, label, span)
        for (object_id, label), at in sorted(labels.items())
        for span in spans.of(at, sources.get(object_id, object_id), object_id if object_id in sources else None)
    ]
    return Change(
        tuple(operations),
        {object_id: tuple(each) for object_id, each in sorted(masks.items())},
        frozenset(object_id for object_id in masks if object_id not in known | sources.keys()),
        {object_id: tuple(each) for object_id, each in boxes.items()},
        {object_id: frozenset(each) for object_id, each in between.items()},
    )


def _partners(held: Mapping[int, ObjectAnnotation], found: Mapping[int, ObjectAnnotation]) -> dict[int, int]:
    """Pairs of objects that swapped ids on a frame: each has the other's mask."""
    holders = {item.rle: object_id for object_id, item in held.items()}
    partners: dict[int, int] = {}
    for object_id, item in found.items():
        other = holders.get(item.rle)
        if other is None or object_id not in held or other not in found or held[object_id].rle == item.rle:
            continue
        if found[other].rle == held[object_id].rle:
            partners[object_id] = other
    return {one: two for one, two in partners.items() if partners.get(two) == one}


def _own_name(label: str, likely: Sequence[str], renamed: Mapping[str, str], prompts: Set[str]) -> str:
    """The run's label for a label that the export may have renamed.

    Args:
        likely: labels of the same object, the most likely first.
        prompts: all labels of the clip.
    """
    for own in likely:
        if renamed.get(own, own) == label:
            return own
    kept = [label] if label in prompts and label not in renamed else []
    candidates = [own for own, name in renamed.items() if name == label] + kept
    return candidates[0] if len(candidates) == 1 else label


def _annotation(object_id: int, label: Label) -> ObjectAnnotation:
    if isinstance(label.mask, ObjectAnnotation):
        return replace(label.mask, object_id=object_id, prompt=label.label)
    found = encode_masks(label.mask[None])[0]
    xmin, ymin, xmax, ymax = found.bbox
    box = (float(xmin), float(ymin), float(xmax), float(ymax))
    return ObjectAnnotation(object_id, label.label, CORRECTED_SCORE, CORRECTED_SCORE, box, found.area, found.rle)


class _Spans:
    """Turns frames on which something changed into spans of frames.

    Args:
        frames: indices of the frames that were compared.
        before: the whole clip as it was when exported.
        exported: indices of all exported frames.
    """

    def __init__(self, frames: Sequence[int], before: Mapping[int, FrameAnnotations], exported: Sequence[int]) -> None:
        self._place = {frame: n for n, frame in enumerate(frames)}
        shown = set(exported)
        self._shown: dict[int, set[int]] = {}
        self._between: dict[int, set[int]] = {}
        for index, frame in before.items():
            for item in frame.objects:
                held = self._shown if index in shown else self._between
                held.setdefault(item.object_id, set()).add(index)

    def of(self, frames: Sequence[int], object_id: int, other: int | None = None) -> Sequence[Span | None]:
        """The spans of frames on which an object changed; None stands for the whole object.

        Consecutive frames of the video form one span. Frames that the export skipped belong to none.

        Args:
            other: the id it was given. If another object had that id, only the frames themselves change.
        """
        hidden = self._between.get(object_id, set())
        taken = other is not None and (other in self._shown or other in self._between)
        if hidden and not taken and set(frames) == self._shown.get(object_id):
            return [None]
        return self._parts(frames)

    def of_pair(self, frames: Sequence[int], one: int, two: int) -> Sequence[Span | None]:
        """The spans of frames on which two objects swapped ids; None stands for both objects as a whole."""
        hidden = self._between.keys() & {one, two}
        if hidden and set(frames) == self._shown.get(one) == self._shown.get(two):
            return [None]
        return self._parts(frames)

    def _parts(self, frames: Sequence[int]) -> list[Span]:
        spans: list[Span] = []
        for frame in frames:
            last = spans[-1][1] if spans else None
            if last is not None and frame == last + 1 and self._place[frame] == self._place[last] + 1:
                spans[-1] = (spans[-1][0], frame)
            else:
                spans.append((frame, frame))
        return spans
