"""Enlarges masks to the size of the source on a CPU, only where they can be foreground.

The cost depends on the size of the objects, not of the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(eq=False)
class Region:
    """A mask that is background outside pixels[top:, left:]."""

    top: int
    left: int
    pixels: np.ndarray

    @property
    def bottom(self) -> int:
        return self.top + self.pixels.shape[0]

    @property
    def right(self) -> int:
        return self.left + self.pixels.shape[1]

    def subtract(self, other: Region) -> None:
        top, bottom = max(self.top, other.top), min(self.bottom, other.bottom)
        left, right = max(self.left, other.left), min(self.right, other.right)
        if top < bottom and left < right:
            mine = self.pixels[top - self.top : bottom - self.top, left - self.left : right - self.left]
            theirs = other.pixels[top - other.top : bottom - other.top, left - other.left : right - other.left]
            mine &= ~theirs


def enlarged(low: np.ndarray, height: int, width: int) -> Region | None:
    """Where a mask of logits (h, w), resized to (height, width), is positive.

    Gives the same pixels as `F.interpolate(..., mode="bilinear") > 0`. A result can be positive only if one of its four
    logits is. Rounding may differ in the last bit, so torch itself decides where a result is almost zero.
    """
    positive = low > 0
    rows = np.flatnonzero(positive.any(axis=1))
    if len(rows) == 0:
        return None
    columns = np.flatnonzero(positive.any(axis=0))
    down, across = _taps(low.shape[0], height), _taps(low.shape[1], width)
    top, bottom = down.range(int(rows[0]), int(rows[-1]))
    left, right = across.range(int(columns[0]), int(columns[-1]))
    if top >= bottom or left >= right:
        return None  # when shrinking, resizing may skip these logits
    row0, row1 = down.first[top], down.second[bottom - 1]
    strip = low[row0 : row1 + 1]
    wide = strip[:, across.first[left:right]] * across.weight0[left:right]
    wide += strip[:, across.second[left:right]] * across.weight1[left:right]
    large = wide[down.first[top:bottom] - row0] * down.weight0[top:bottom, None]
    large += wide[down.second[top:bottom] - row0] * down.weight1[top:bottom, None]
    doubtful = 1e-5 * float(np.abs(strip).max())
    if np.abs(large).min(initial=np.inf) <= doubtful:
        exact = F.interpolate(torch.from_numpy(low)[None, None], (height, width), mode="bilinear")[0, 0]
        return Region(top, left, exact[top:bottom, left:right].numpy() > 0)
    return Region(top, left, large > 0)


@dataclass(frozen=True, eq=False)
class _Taps:
    """Bilinear resizing along one axis: output i is weight0[i] * in[first[i]] + weight1[i] * in[second[i]]."""

    first: np.ndarray
    second: np.ndarray
    weight0: np.ndarray
    weight1: np.ndarray

    def range(self, low: int, high: int) -> tuple[int, int]:
        """Outputs that read any of the inputs low..high: start and (exclusive) stop."""
        start = int(np.searchsorted(self.second, low, "left"))
        return start, int(np.searchsorted(self.first, high, "right"))


@lru_cache(maxsize=64)
def _taps(size: int, new_size: int) -> _Taps:
    """The taps as torch computes them (align_corners False): in float32, and outputs before the first centre read only
    that.
    """
    scale = np.float32(size) / np.float32(new_size)
    centre = scale * (np.arange(new_size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    centre = np.maximum(centre, np.float32(0))
    first = np.minimum(centre.astype(np.int64), size - 1)
    second = np.minimum(first + 1, size - 1)
    weight1 = np.clip(centre - first, 0, 1).astype(np.float32)
    return _Taps(first, second, np.float32(1) - weight1, weight1)
