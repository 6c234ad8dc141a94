"""Matches objects on the frames that two windows share, by the overlap of their masks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from sam3ray.stitching._tracks import Track

SURE = 0.5  # tube IoU above which two tracks are one object: masks of a phrase do not overlap, so only one can reach it
POSSIBLE = 0.3  # tube IoU from which they may be, if no other pair is better
SHARED = 2  # frames on which both must be seen
LATEST = 16  # rows of the earlier window's track that count: the last ones, after which the later window follows


@dataclass(frozen=True)
class Shared:
    """The findings from the shared frames of two windows.

    Attributes:
        same: object of the earlier window -> (object of the later one, tube IoU); one to one.
        apart: pairs seen together that are not one object.
    """

    same: dict[int, tuple[int, float]] = field(default_factory=dict)
    apart: frozenset[tuple[int, int]] = frozenset()


def compare(before: Mapping[int, Track], after: Mapping[int, Track]) -> Shared:
    """Matches the tracks of two neighbouring windows, phrase by phrase, by `Track.tail` and `Track.head`.

    Tube IoU: pixels in both masks divided by pixels in either, each summed over the frames on which both objects are
    seen: those among the earlier track's last `LATEST` rows. Pairs above `SURE` are matched by decreasing IoU; then
    remaining pairs of `POSSIBLE` or more, so that the sum is largest. Tracks that are left are matched once more in
    this way by earlier rows: the last `LATEST` frames on which both are seen. Equal IoUs (rounded to 1e-6) are ordered
    by id, so the order of windows and tracks does not matter.
    """
    latest: dict[tuple[int, int], float] = {}
    earlier: dict[tuple[int, int], float] = {}
    for a in sorted(before):
        rows = sorted(before[a].tail)
        for b in sorted(after):
            one, two = before[a], after[b]
            shared = [each for each in rows if each in two.head] if one.prompt == two.prompt else []
            late = [each for each in shared if each >= rows[-LATEST:][0]]
            if len(late) >= SHARED:
                latest[a, b] = round(_tube_iou(one, two, late), 6)
            elif len(shared) >= SHARED:
                earlier[a, b] = round(_tube_iou(one, two, shared[-LATEST:]), 6)
    same: dict[int, tuple[int, float]] = {}
    for ious in (latest, earlier):
        _match(ious, same)
    return Shared(same, frozenset((a, b) for a, b in latest | earlier if a not in same or same[a][0] != b))


def _match(ious: Mapping[tuple[int, int], float], same: dict[int, tuple[int, float]]) -> None:
    """Adds matches of tracks that have none."""
    for (a, b), iou in sorted(ious.items(), key=lambda each: (-each[1], each[0])):
        if iou > SURE and a not in same and all(b != partner for partner, _ in same.values()):
            same[a] = b, iou
    taken = {partner for partner, _ in same.values()}
    possible = {pair: iou for pair, iou in ious.items() if iou >= POSSIBLE and pair[0] not in same}
    same.update(_best({pair: iou for pair, iou in possible.items() if pair[1] not in taken}))


def _tube_iou(one: Track, two: Track, positions: Collection[int]) -> float:
    common = either = 0
    for position in positions:
        a, b = one.tail[position], two.head[position]
        if a.shape != b.shape:
            raise ValueError(f"at position {position} the windows' frames have {a.shape} and {b.shape} pixels")
        both = int(a.common([b])[0])
        common += both
        either += a.area + b.area - both
    return common / max(either, 1)


def _best(ious: Mapping[tuple[int, int], float]) -> dict[int, tuple[int, float]]:
    """A one-to-one matching with the largest sum."""
    from scipy.optimize import linear_sum_assignment  # the import takes half a second, and few clips have windows

    rows, columns = sorted({a for a, _ in ious}), sorted({b for _, b in ious})
    table = np.zeros((len(rows), len(columns)))
    for (a, b), iou in ious.items():
        table[rows.index(a), columns.index(b)] = iou
    pairs = zip(*linear_sum_assignment(-table), strict=True)
    return {rows[i]: (columns[j], ious[rows[i], columns[j]]) for i, j in pairs if table[i, j]}
