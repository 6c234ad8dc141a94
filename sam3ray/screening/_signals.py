"""Signals that a track may be wrong, from the rows of one clip alone: no pixels, no truth.

Each is between 0 (nothing suspicious) and 1, and has the same meaning in every clip. Frames are counted by their place
among the processed frames, so that sampled clips are measured like others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIGNALS: Mapping[str, str] = {
    "low_score": "the detector was not sure (score {:.2f})",
    "unsure": "the tracker was not sure, on average",
    "dip": "the tracker's score falls",
    "area_jump": "the area jumps",
    "shift": "the box jumps",
    "gaps": "it comes and goes",
    "brief": "it appears on only a few frames",
    "starts_inside": "it begins in the middle of the picture",
    "ends_inside": "it ends in the middle of the picture",
    "touching": "it overlaps another object of its phrase",
    "handover": "another object of its phrase ends or begins where it begins or ends",
    "doubled": "another phrase found the same object",
    "disagreement": "the other run disagrees",
}
"""Each signal, and its description."""

_BORDER = 0.02  # of the picture's side: a box closer to the edge than this touches it
_SOON = 5  # frames between the end of one track and the beginning of another that may be the same object
_BRIEF = 8.0  # frames


@dataclass(frozen=True)
class Rows:
    """The rows of one clip, sorted by frame and object.

    Attributes:
        place: place of the frame among those processed, from 0; `frame_index` counts in the source.
        boxes: (n, 4), xyxy in pixels, max exclusive.
    """

    place: NDArray[np.int64]
    frame_index: NDArray[np.int64]
    time_s: NDArray[np.float64]
    object_id: NDArray[np.int64]
    prompt: NDArray[np.object_]
    score: NDArray[np.float64]
    track_score: NDArray[np.float64]
    boxes: NDArray[np.float64]
    area: NDArray[np.float64]


@dataclass(frozen=True)
class Track:
    """One object: its signals by name, and for each signal the row of the object that is most likely wrong."""

    object_id: int
    prompt: str
    rows: NDArray[np.int64]
    signals: dict[str, float]
    where: dict[str, int]


def measure_tracks(rows: Rows, frames: int, size: tuple[int, int]) -> list[Track]:
    """Measures each object's track. Returns them by ascending id.

    Args:
        frames: number of processed frames.
        size: (height, width) of the picture.
    """
    overlap, doubled = _neighbours(rows)
    tracks = []
    for object_id in np.unique(rows.object_id):
        own = np.flatnonzero(rows.object_id == object_id)
        tracks.append(_measure(rows, own, frames, size, overlap[own], doubled[own]))
    _hand_over(rows, tracks)
    return tracks


def _measure(
    rows: Rows,
    own: NDArray[np.int64],
    frames: int,
    size: tuple[int, int],
    overlap: NDArray[np.float64],
    doubled: NDArray[np.float64],
) -> Track:
    place, scores, boxes = rows.place[own], rows.track_score[own], rows.boxes[own]
    step = np.diff(place)
    next_ = step == 1
    growth = np.where(next_, np.abs(np.diff(np.log(np.maximum(rows.area[own], 1)))), 0.0)
    at_edge = _touches_edge(boxes, size)
    growth[at_edge[1:] | at_edge[:-1]] *= 0.25  # objects that enter or leave the picture grow and shrink
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    reach = np.sqrt(np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1))
    velocity = np.diff(centre, axis=0)
    way = np.linalg.norm(velocity, axis=1) / reach[1:]
    usual = np.median(way) if len(way) else 0.0
    jump = np.where(next_, np.maximum(way - usual, 0.0), 0.0)
    usual_score = float(np.median(scores))
    signals = {
        "low_score": 1 - float(rows.score[own].min()),
        "unsure": 1 - float(scores.mean()),
        "dip": max(0.0, usual_score - float(np.percentile(scores, 5))),
        "area_jump": _saturated(growth.max(initial=0.0), 1.0),
        "shift": _saturated(jump.max(initial=0.0), 0.7),
        "gaps": _saturated(float((step > 1).sum()), 2.0),
        "brief": float(np.exp(-(len(own) - 1) / _BRIEF)),
        "starts_inside": float(place[0] > 0 and not at_edge[0]),
        "ends_inside": float(place[-1] < frames - 1 and not at_edge[-1]),
        "touching": float(np.mean(overlap)),
        "handover": 0.0,
        "doubled": float(np.mean(doubled)),
        "disagreement": 0.0,
    }
    after = 1 if len(own) > 1 else 0
    gap = int(np.argmax(step > 1)) + 1 if (step > 1).any() else 0
    where = {
        "low_score": 0,
        "unsure": int(np.argmin(scores)),
        "dip": int(np.argmin(scores)),
        "area_jump": int(np.argmax(growth)) + 1 if after else 0,
        "shift": int(np.argmax(jump)) + 1 if after else 0,
        "gaps": gap,
        "brief": 0,
        "starts_inside": 0,
        "ends_inside": len(own) - 1,
        "touching": int(np.argmax(overlap)),
        "handover": 0,
        "doubled": int(np.argmax(doubled)),
        "disagreement": 0,
    }
    return Track(int(rows.object_id[own[0]]), str(rows.prompt[own[0]]), own, signals, where)


def _saturated(value: float, scale: float) -> float:
    return float(1 - np.exp(-value / scale))


def _touches_edge(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    height, width = size
    x, y = _BORDER * width, _BORDER * height
    touches: NDArray[np.bool_] = (
        (boxes[:, 0] <= x) | (boxes[:, 1] <= y) | (boxes[:, 2] >= width - x) | (boxes[:, 3] >= height - y)
    )
    return touches


def box_ious(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 4) and (m, 4) -> (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b)]
    ious: NDArray[np.float64] = common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-9)
    return ious


def _neighbours(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each row, the highest IoU of its box with another of the same phrase on its frame; and whether another phrase
    has nearly the same box."""
    overlap, doubled = np.zeros(len(rows.place)), np.zeros(len(rows.place))
    starts = np.flatnonzero(np.diff(rows.place, prepend=-1))
    for first, last in zip(starts, [*starts[1:], len(rows.place)], strict=True):
        if last - first < 2:
            continue
        ious = box_ious(rows.boxes[first:last], rows.boxes[first:last])
        np.fill_diagonal(ious, 0)
        same = rows.prompt[first:last, None] == rows.prompt[None, first:last]
        overlap[first:last] = np.where(same, ious, 0).max(1)
        doubled[first:last] = np.where(same, 0, ious).max(1) > 0.8
    return overlap, doubled


def _hand_over(rows: Rows, tracks: Sequence[Track]) -> None:
    """One track ends where another of its phrase begins: perhaps one object with two ids. Both are marked."""
    for phrase in dict.fromkeys(track.prompt for track in tracks):
        some = [track for track in tracks if track.prompt == phrase]
        ends = np.array([rows.place[track.rows[-1]] for track in some])
        begins = np.array([rows.place[track.rows[0]] for track in some])
        last = np.array([rows.boxes[track.rows[-1]] for track in some])
        first = np.array([rows.boxes[track.rows[0]] for track in some])
        wait = begins[None] - ends[:, None]
        near = box_ious(last, first) * ((wait >= -2) & (wait <= _SOON))
        np.fill_diagonal(near, 0)
        for i, j in zip(*np.nonzero(near > 0.1), strict=True):
            for track, at in ((some[i], len(some[i].rows) - 1), (some[j], 0)):
                if near[i, j] > track.signals["handover"]:
                    track.signals["handover"] = float(min(1.0, 2 * near[i, j]))
                    track.where["handover"] = at
