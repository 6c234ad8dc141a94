"""Masks as pixels: crops, and one object per pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sam3ray.masks import decode_rle
from sam3ray.values.annotations import ObjectAnnotation


@dataclass(frozen=True, eq=False)
class Crop:
    """A mask within its tight box. `pixels`: bool, (height, width) of the box; `left`, `top`: the box's corner."""

    left: int
    top: int
    pixels: np.ndarray


def crop_of(item: ObjectAnnotation, height: int, width: int) -> Crop:
    xmin, ymin, xmax, ymax = (int(v) for v in item.bbox)
    return Crop(xmin, ymin, decode_rle(item.rle, height, width)[ymin:ymax, xmin:xmax])


@dataclass(frozen=True, eq=False)
class Painted:
    """Masks of one frame on one canvas.

    Attributes:
        canvas: (height, width) int32; for each pixel, the place (from 1) of its object; 0 is background.
        lost: number of pixels that went to another mask.
    """

    canvas: np.ndarray
    lost: int


def with_number(objects: Sequence[ObjectAnnotation], numbers: Mapping[int, int]) -> list[ObjectAnnotation]:
    """The objects of a frame that the format can number. Others are not painted and cover no object."""
    return [item for item in objects if item.object_id in numbers]


def paint(objects: Sequence[ObjectAnnotation], height: int, width: int) -> Painted:
    """Paints masks on one canvas. Where they overlap, the higher detection score wins, then the smaller object id."""
    canvas = np.zeros((height, width), np.int32)
    lost = 0
    order = sorted(range(len(objects)), key=lambda i: (objects[i].score, -objects[i].object_id))
    for place in order:
        crop = crop_of(objects[place], height, width)
        bottom, right = crop.top + crop.pixels.shape[0], crop.left + crop.pixels.shape[1]
        below = canvas[crop.top : bottom, crop.left : right]
        lost += int(np.count_nonzero(below[crop.pixels]))
        below[crop.pixels] = place + 1
    return Painted(canvas, lost)
