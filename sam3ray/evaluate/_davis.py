"""DAVIS's J (region) and F (outline) of whole tracks (Perazzi et al. 2016).

TrackEval has them too, and a test checks that the numbers agree. Ours can also omit frames on which an object is barely
visible, and take a twentieth of the time, because they only look at the part of the frame around the two masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sam3ray.evaluate._assignment import best_pairs
from sam3ray.masks import MaskRuns

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SeenFrame:
    """The objects on one frame, by id.

    Attributes:
        asked: true objects that count.
        ignored: true objects that are barely visible and do not count.
        given: predicted objects.
        ious: IoU of each `asked` object with each `given` one.

    Masks are kept as runs, because the pixels of a long clip's masks would not fit into memory.
    """

    asked: dict[int, MaskRuns]
    ignored: dict[int, MaskRuns]
    given: dict[int, MaskRuns]
    ious: NDArray[np.float64]


def j_and_f(frames: Sequence[SeenFrame]) -> list[tuple[float, float]]:
    """J and F of every object that counts on some frame, against the predicted track with the highest J. No two objects
    share a track.

    A frame with neither of the two counts as 1, a frame with only one of them as 0. Frames on which the object is
    ignored are omitted.
    """
    objects = list(dict.fromkeys(a for frame in frames for a in frame.asked))
    tracks = list(dict.fromkeys(g for frame in frames for g in frame.given))
    row, column = {a: i for i, a in enumerate(objects)}, {g: j for j, g in enumerate(tracks)}
    if not objects:
        return []
    # Objects left without a track get an empty one.
    regions = np.zeros((len(objects), max(len(tracks), len(objects))))
    counted = np.zeros(len(objects))
    for frame in frames:
        rows, columns = [row[a] for a in frame.asked], [column[g] for g in frame.given]
        gone, silent = np.ones(len(objects), bool), np.ones(regions.shape[1], bool)
        gone[[*rows, *(row[a] for a in frame.ignored if a in row)]] = False
        silent[columns] = False
        regions[np.ix_(rows, columns)] += frame.ious
        regions[np.ix_(gone, silent)] += 1
        counted += gone
        counted[rows] += 1
    regions /= counted[:, None]
    found = []
    for i, j in zip(*best_pairs(regions), strict=True):
        track = tracks[j] if j < len(tracks) else None
        edges = [_frame_f(frame, objects[i], track) for frame in frames if objects[i] not in frame.ignored]
        found.append((float(regions[i, j]), float(np.mean(edges))))
    return found


def _frame_f(frame: SeenFrame, true_id: int, predicted_id: int | None) -> float:
    a = frame.asked.get(true_id)
    b = None if predicted_id is None else frame.given.get(predicted_id)
    if a is None or b is None:
        return float(a is b)
    return outline_f(a, b)


def outline_f(a: MaskRuns, b: MaskRuns, share: float = 0.008) -> float:
    """F measure (0..1) of the outlines of two masks of the same size. Points closer than `share` of the frame's
    diagonal match.
    """
    height, width = a.shape
    reach = int(np.ceil(share * np.hypot(height, width)))
    boxes = np.array([mask.bbox for mask in (a, b) if mask.area] or [(0, 0, 0, 0)])
    (x0, y0), (x1, y1) = boxes[:, :2].min(axis=0).tolist(), boxes[:, 2:].max(axis=0).tolist()
    left, top = max(x0 - reach - 1, 0), max(y0 - reach - 1, 0)
    right, bottom = min(x1 + reach + 1, width), min(y1 + reach + 1, height)
    edge_a, edge_b = (_outline(mask.crop(left, top, right, bottom)) for mask in (a, b))
    if not edge_a.any() or not edge_b.any():
        return float(edge_a.any() == edge_b.any())
    across = np.arange(-reach, reach + 1)
    disk = (across[:, None] ** 2 + across**2 <= reach**2).astype(np.uint8)
    near_a, near_b = (cv2.dilate(edge.astype(np.uint8), disk) > 0 for edge in (edge_a, edge_b))
    precision = (edge_b & near_a).sum() / edge_b.sum()
    recall = (edge_a & near_b).sum() / edge_a.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _outline(pixels: Mask) -> Mask:
    """True where a pixel differs from its neighbour to the right, below, or below to the right."""
    mask = np.pad(pixels, ((0, 1), (0, 1)), mode="edge")
    here = mask[:-1, :-1]
    edge: Mask = (here != mask[:-1, 1:]) | (here != mask[1:, :-1]) | (here != mask[1:, 1:])
    return edge
