"""Reads corrected boxes: CVAT's tracks, Label Studio's videos, MOT.

A box within half a pixel of its exported position is unchanged, because keyframes may be off by that. If a box was
moved, the object's nearest mask is scaled to the box, as a placeholder until `refine` tracks the object from the box.
For a new object, the placeholder is the whole box.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sam3ray.exports._labels import ClipLabels
from sam3ray.exports._reading import Found
from sam3ray.masks import decode_rle
from sam3ray.revisions import Label
from sam3ray.values.annotations import ObjectAnnotation
from sam3ray.values.prompts import BoxPrompt

TOLERANCE = 0.52  # half a pixel, plus the rounding of numbers with two decimals
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Keyframe:
    """The position of a tool's track from a frame on.

    Attributes:
        frame: frame index in the source video.
        box: xyxy in pixels, max exclusive.
        shown: False if the object is not visible from this frame on.
        set: whether a person set it; False: the tool computed it.
    """

    frame: int
    box: Box
    shown: bool = True
    set: bool = True


@dataclass(frozen=True)
class Track:
    """One object's track in a tool. `object_id` is negative for a new object; keyframes ascend."""

    object_id: int
    label: str
    keyframes: tuple[Keyframe, ...]

    @cached_property
    def _frames(self) -> list[int]:
        return [each.frame for each in self.keyframes]

    def at(self, frame: int) -> Keyframe | None:
        """The position at a frame, interpolated between two keyframes; None if the object is not visible."""
        n = bisect_right(self._frames, frame) - 1
        if n < 0 or not self.keyframes[n].shown:
            return None
        one = self.keyframes[n]
        if one.frame == frame or n + 1 == len(self.keyframes) or not self.keyframes[n + 1].shown:
            return replace(one, frame=frame, set=one.set and one.frame == frame)
        two = self.keyframes[n + 1]
        share = (frame - one.frame) / (two.frame - one.frame)
        xmin, ymin, xmax, ymax = (a + share * (b - a) for a, b in zip(one.box, two.box, strict=True))
        return Keyframe(frame, (xmin, ymin, xmax, ymax), set=False)


def found_boxes(labels: ClipLabels, tracks: Sequence[Track]) -> Found:
    """Labels on the exported frames, from tracks."""
    found: Found = {frame: [] for frame in labels.frames}
    for track in tracks:
        own = labels.tracks.get(track.object_id, {})
        for frame in labels.frames:
            here = track.at(frame)
            if here is None:
                continue
            item = own.get(frame)
            if item is not None and np.abs(np.subtract(here.box, item.bbox)).max() <= TOLERANCE:
                found[frame].append(Label(track.object_id, track.label, item))
                continue
            box = _whole(here.box, labels)
            if box is None:
                continue
            prompt = BoxPrompt(tuple(map(float, box)), frame, max(1, track.object_id), track.label)  # type: ignore[arg-type]
            mask = _stand_in(box, own, frame, labels)
            found[frame].append(
                Label(track.object_id, track.label, mask, prompt if here.set else None, between=not here.set)
            )
    return found


def _whole(box: Box, labels: ClipLabels) -> tuple[int, int, int, int] | None:
    """The box in whole pixels of the frame; None if it is outside."""
    xmin, ymin = max(0, round(box[0])), max(0, round(box[1]))
    xmax, ymax = min(labels.width, round(box[2])), min(labels.height, round(box[3]))
    return (xmin, ymin, xmax, ymax) if xmin < xmax and ymin < ymax else None


def _stand_in(
    box: tuple[int, int, int, int], own: Mapping[int, ObjectAnnotation], frame: int, labels: ClipLabels
) -> np.ndarray:
    xmin, ymin, xmax, ymax = box
    mask = np.zeros((labels.height, labels.width), bool)
    mask[ymin:ymax, xmin:xmax] = True
    if not own:
        return mask
    item = own[min(own, key=lambda each: (abs(each - frame), each))]
    left, top, right, bottom = (int(v) for v in item.bbox)
    part = decode_rle(item.rle, labels.height, labels.width)[top:bottom, left:right]
    rows = (np.arange(ymax - ymin) * part.shape[0]) // (ymax - ymin)
    columns = (np.arange(xmax - xmin) * part.shape[1]) // (xmax - xmin)
    stretched = part[rows][:, columns]
    if stretched.any(0)[[0, -1]].all() and stretched.any(1)[[0, -1]].all():  # so that the mask's box is the given one
        mask[ymin:ymax, xmin:xmax] = stretched
    return mask
