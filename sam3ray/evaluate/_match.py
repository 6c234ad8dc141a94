"""Predicted against true tracks of one phrase in one clip: who stands for whom on each frame, and what is counted.

Matching is that of CLEAR MOT (Bernardin and Stiefelhagen 2008) on mask IoU: a pair of the frame before is kept while
its IoU is high enough, the rest is assigned at the highest total IoU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray
from rlemasklib import RLEMask
from scipy.optimize import linear_sum_assignment

from sam3ray.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.masks import read_rle

from ._boundary import boundary


@dataclass(frozen=True)
class Tolerance:
    """What counts as found, and which true objects are too little seen to be asked for.

    Attributes:
        iou: mask IoU from which a prediction stands for a true object.
        min_visible: true objects of which less than this share is seen are ignored: neither missing them nor
            finding them counts. The share is the `track_score` of the true annotation.
        min_area: likewise, the least area as a share of the frame.
    """

    iou: float = 0.5
    min_visible: float = 0.25
    min_area: float = 0.0008


@dataclass
class Counts:
    """Sums over frames and clips; `per_object` holds (J, F) of every true object."""

    frames: int = 0
    true_boxes: int = 0
    predicted_boxes: int = 0
    matches: int = 0
    iou_sum: float = 0.0
    switches: int = 0
    objects: int = 0
    predicted_objects: int = 0
    absent_frames: int = 0
    absent_frames_with_output: int = 0
    per_object: list[tuple[float, float]] = field(default_factory=list)

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Counts)})


@dataclass(frozen=True)
class PairedTracks:
    """One phrase in one clip as TrackEval wants it: ids from 0 on without gaps, similarities per frame."""

    true_ids: list[NDArray[np.int64]]
    predicted_ids: list[NDArray[np.int64]]
    similarities: list[NDArray[np.float64]]


@dataclass(frozen=True)
class _Seen:
    """One frame: the masks of the true objects asked for and of the predicted ones by id, and how each true one
    overlaps each predicted one (IoU). Masks stay runs: those of a long clip would not fit into memory as pixels."""

    asked: dict[int, RLEMask]
    given: dict[int, RLEMask]
    ious: NDArray[np.float64]

    def iou(self, true_id: int, predicted_id: int) -> float:
        return float(self.ious[list(self.asked).index(true_id), list(self.given).index(predicted_id)])


def compare(
    predicted: Mapping[int, FrameAnnotations],
    truth: Mapping[int, FrameAnnotations],
    frames: Sequence[int],
    prompt: str,
    tolerance: Tolerance,
) -> tuple[Counts, PairedTracks]:
    """Compares one phrase over `frames` of a clip; objects of other phrases are left out."""
    counts = Counts(frames=len(frames))
    before: dict[int, int] = {}  # true id -> predicted id of the last match
    true_ids: dict[int, int] = {}
    predicted_ids: dict[int, int] = {}
    overlaps: dict[tuple[int, int], float] = {}
    rows: list[tuple[list[int], list[int], NDArray[np.float64]]] = []
    seen: list[_Seen] = []
    present = any(o.prompt == prompt for t in frames if t in truth for o in truth[t].objects)
    for t in frames:
        asked, ignored = _true_objects(truth.get(t), prompt, tolerance)
        given = _predicted_objects(predicted.get(t), prompt)
        if not present:
            counts.absent_frames += 1
            counts.absent_frames_with_output += bool(given)
        names_a, names_g = list(asked), list(given)
        ious = _ious(list(asked.values()), list(given.values()))
        seen.append(_Seen(asked, given, ious))
        pairs = _pairs(ious, names_a, names_g, before, tolerance.iou)
        matched = {j for _, j in pairs}
        if ignored:
            # A prediction that stands for an ignored object is neither right nor wrong.
            spare = [j for j in range(len(names_g)) if j not in matched]
            for j in spare:
                mask = given[names_g[j]]
                if any((mask & other).area() > 0.3 * mask.area() for other in ignored):
                    names_g[j] = -1
            keep = [j for j, name in enumerate(names_g) if name >= 0]
            pairs = [(i, keep.index(j)) for i, j in pairs]
            names_g, ious = [names_g[j] for j in keep], ious[:, keep]
        for i, j in pairs:
            a, g = names_a[i], names_g[j]
            counts.switches += before.get(a, g) != g
            before[a] = g
            counts.iou_sum += float(ious[i, j])
        counts.matches += len(pairs)
        counts.true_boxes += len(names_a)
        counts.predicted_boxes += len(names_g)
        for i, a in enumerate(names_a):
            true_ids.setdefault(a, len(true_ids))
            for j, g in enumerate(names_g):
                overlaps[a, g] = overlaps.get((a, g), 0.0) + float(ious[i, j])
        for g in names_g:
            predicted_ids.setdefault(g, len(predicted_ids))
        rows.append((names_a, names_g, ious))
    counts.objects, counts.predicted_objects = len(true_ids), len(predicted_ids)
    counts.per_object = _per_object(list(true_ids), list(predicted_ids), overlaps, seen)
    sequence = PairedTracks(
        [np.array([true_ids[a] for a in names], np.int64) for names, _, _ in rows],
        [np.array([predicted_ids[g] for g in names], np.int64) for _, names, _ in rows],
        [ious for _, _, ious in rows],
    )
    return counts, sequence


def _true_objects(
    frame: FrameAnnotations | None, prompt: str, tolerance: Tolerance
) -> tuple[dict[int, RLEMask], list[RLEMask]]:
    asked: dict[int, RLEMask] = {}
    ignored: list[RLEMask] = []
    for item in _of(frame, prompt):
        assert frame is not None
        mask = read_rle(item.rle, frame.height, frame.width)
        seen = item.track_score >= tolerance.min_visible
        if seen and item.area >= tolerance.min_area * frame.height * frame.width:
            asked[item.object_id] = mask
        else:
            ignored.append(mask)
    return asked, ignored


def _predicted_objects(frame: FrameAnnotations | None, prompt: str) -> dict[int, RLEMask]:
    if frame is None:
        return {}
    return {item.object_id: read_rle(item.rle, frame.height, frame.width) for item in _of(frame, prompt)}


def _of(frame: FrameAnnotations | None, prompt: str) -> list[ObjectAnnotation]:
    return [] if frame is None else [item for item in frame.objects if item.prompt == prompt]


def _ious(a: list[RLEMask], b: list[RLEMask]) -> NDArray[np.float64]:
    if not a or not b:
        return np.zeros((len(a), len(b)))
    if a[0].shape != b[0].shape:
        raise ValueError(
            f"true masks are {a[0].shape[1]}x{a[0].shape[0]} pixels, predicted ones {b[0].shape[1]}x{b[0].shape[0]}"
        )
    return RLEMask.iou_matrix(a, b)


def _pairs(
    ious: NDArray[np.float64], asked: list[int], given: list[int], before: Mapping[int, int], least: float
) -> list[tuple[int, int]]:
    pairs = []
    free_i, free_j = list(range(len(asked))), list(range(len(given)))
    for i, a in enumerate(asked):
        g = before.get(a)
        if g in given and ious[i, given.index(g)] >= least and given.index(g) in free_j:
            pairs.append((i, given.index(g)))
            free_i.remove(i)
            free_j.remove(given.index(g))
    if free_i and free_j:
        rest = ious[np.ix_(free_i, free_j)]
        for i, j in zip(*linear_sum_assignment(-np.where(rest >= least, rest, 0.0)), strict=True):
            if rest[i, j] >= least:
                pairs.append((free_i[i], free_j[j]))
    return sorted(pairs)


def _per_object(
    true_ids: list[int], predicted_ids: list[int], overlaps: Mapping[tuple[int, int], float], seen: Sequence[_Seen]
) -> list[tuple[float, float]]:
    """J and F (Perazzi et al. 2016) of each true object against the track that overlaps it most, one track each,
    averaged over the frames on which the object counts."""
    if not true_ids:
        return []
    total = np.array([[overlaps.get((a, g), 0.0) for g in predicted_ids] for a in true_ids]).reshape(len(true_ids), -1)
    partner = {
        true_ids[i]: predicted_ids[j] for i, j in zip(*linear_sum_assignment(-total), strict=True) if total[i, j]
    }
    found = []
    for a in true_ids:
        g = partner.get(a, -1)
        frames = [frame for frame in seen if a in frame.asked]
        both = [frame for frame in frames if g in frame.given]
        regions = sum(frame.iou(a, g) for frame in both)
        edges = sum(boundary(frame.asked[a], frame.given[g]) for frame in both)
        found.append((regions / len(frames), edges / len(frames)))
    return found
