"""Reduces boxes to the keyframes that linear interpolation needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

HALF_PIXEL = 0.5


def stretches(places: Sequence[int]) -> list[tuple[int, int]]:
    """The (first, last) places of each run without a gap. Places ascend."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and place == found[-1][1] + 1:
            found[-1] = (found[-1][0], place)
        else:
            found.append((place, place))
    return found


def keyframes(times: Sequence[float], boxes: np.ndarray, tolerance: float = HALF_PIXEL) -> list[int]:
    """The boxes to keep so that linear interpolation between them restores all boxes within the tolerance.

    The first and the last are always kept. Greedy: each keyframe is as late as the boxes in between permit. For each
    omitted box, the line from the last keyframe must pass within the tolerance in each coordinate. The slopes for which
    it does form an interval; only the intersection of these intervals is stored.

    Args:
        times: ascending; the variable of the interpolation (frame numbers or seconds).
        boxes: (n, 4) float64.

    Returns:
        Indices, ascending.
    """
    n = len(boxes)
    if n == 0:
        return []
    kept = [0]
    start = 0
    low, high = np.full(4, -np.inf), np.full(4, np.inf)
    at = 1
    while at < n:
        distance = times[at] - times[start]
        slope = (boxes[at] - boxes[start]) / distance
        if (slope < low).any() or (slope > high).any():
            start = at - 1
            kept.append(start)
            low, high = np.full(4, -np.inf), np.full(4, np.inf)
            continue
        low = np.maximum(low, slope - tolerance / distance)
        high = np.minimum(high, slope + tolerance / distance)
        at += 1
    if kept[-1] != n - 1:
        kept.append(n - 1)
    return kept
