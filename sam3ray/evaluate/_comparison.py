"""Compares predicted with true tracks of one phrase in one clip, and decides which of them count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from sam3ray.masks import MaskRuns, iou_matrix, read_rle
from sam3ray.values.annotations import FrameAnnotations

from ._concept import Concept, ConceptFrame, match_masklets
from ._davis import SeenFrame, j_and_f
from ._track_eval import Measured, Sequences, measure

_ON_IGNORED = 0.3  # a prediction with a larger share than this on an ignored object counts as that object


@dataclass(frozen=True)
class Tolerance:
    """What counts as found, and which true objects are ignored because too little of them is visible.

    Attributes:
        iou: minimum mask IoU for a prediction to match a true object.
        min_visible: true objects with a smaller visible share are ignored: neither missing nor finding them counts. The
            share is the `visibility` of the true annotation, or 1 if unknown.
        min_area: true objects with a smaller area, as a share of the frame, are ignored likewise.
        min_score: cgF1 and pHOTA omit predicted objects with a lower detection score, as SA-Co does. These two ignore
            no true object, however little of it is visible.
    """

    iou: float = 0.5
    min_visible: float = 0.25
    min_area: float = 0.0008
    min_score: float = 0.5


@dataclass(frozen=True)
class Comparison:
    """One phrase in one clip.

    Attributes:
        true_boxes, predicted_boxes: number of boxes that count, over all frames.
        measured: TrackEval's figures.
        phrase: HOTA over all true objects, including barely visible ones; SA-Co's pHOTA.
        concept: the comparison of whole masklets, for cgF1.
        objects: J and F of each true object.
        is_absent: whether no frame has an object of the phrase.
        frames_with_output: number of frames with a prediction.
    """

    clip_id: str
    prompt: str
    frames: int
    true_boxes: int
    predicted_boxes: int
    measured: Measured
    phrase: Measured
    concept: Concept
    objects: list[tuple[float, float]]
    is_absent: bool
    frames_with_output: int


def compare(
    clip_id: str,
    predicted: Mapping[int, FrameAnnotations],
    truth: Mapping[int, FrameAnnotations],
    frames: Sequence[int],
    prompt: str,
    tolerance: Tolerance,
) -> Comparison:
    """Compares one phrase on these frames of a clip, ignoring objects of other phrases."""
    seen, concepts = [], []
    for t in frames:
        frame, concept = _see(predicted.get(t), truth.get(t), prompt, tolerance)
        seen.append(frame)
        concepts.append(concept)
    kept = [_held_against(frame, tolerance.iou) for frame in seen]
    asked = [list(frame.asked) for frame in seen]
    given = [list(compress(frame.given, keep)) for frame, keep in zip(seen, kept, strict=True)]
    similarities = [frame.ious[:, keep] for frame, keep in zip(seen, kept, strict=True)]
    everything = Sequences(
        [list(frame.true) for frame in concepts],
        [list(frame.predicted) for frame in concepts],
        [frame.ious for frame in concepts],
    )
    return Comparison(
        clip_id,
        prompt,
        frames=len(frames),
        true_boxes=sum(map(len, asked)),
        predicted_boxes=sum(map(len, given)),
        measured=measure(Sequences(asked, given, similarities), tolerance.iou),
        phrase=measure(everything, tolerance.iou, ("HOTA",)),
        concept=match_masklets(concepts),
        objects=j_and_f(seen),
        is_absent=not any(frame.asked or frame.ignored for frame in seen),
        frames_with_output=sum(bool(frame.given) for frame in seen),
    )


def _see(
    predicted: FrameAnnotations | None, truth: FrameAnnotations | None, prompt: str, tolerance: Tolerance
) -> tuple[SeenFrame, ConceptFrame]:
    """Two views of a frame: one for recall, J&F and HOTA, one for cgF1 and pHOTA."""
    asked: dict[int, MaskRuns] = {}
    faint: dict[int, MaskRuns] = {}
    regions: dict[int, MaskRuns] = {}
    for object_id, mask, visibility in _masks(truth, prompt):
        height, width = mask.shape
        counts = visibility >= tolerance.min_visible and mask.area >= tolerance.min_area * height * width
        (regions if visibility <= 0 else asked if counts else faint)[object_id] = mask
    given = {object_id: mask for object_id, mask, _ in _masks(predicted, prompt)}
    true = asked | faint
    ious = mask_ious([*true.values()], [*given.values()])
    scores = {} if predicted is None else {item.object_id: item.score for item in predicted.objects}
    sure = [scores[object_id] >= tolerance.min_score for object_id in given]
    concept = ConceptFrame(true, dict(compress(given.items(), sure)), ious[:, sure])
    return SeenFrame(asked, faint | regions, given, ious[: len(asked)]), concept


def _masks(frame: FrameAnnotations | None, prompt: str) -> list[tuple[int, MaskRuns, float]]:
    """Ids, masks and visibility of a phrase's objects. An empty mask does not count as an object."""
    if frame is None:
        return []
    return [
        (
            item.object_id,
            read_rle(item.rle, frame.height, frame.width),
            1.0 if item.visibility is None else item.visibility,
        )
        for item in frame.objects
        if item.prompt == prompt and item.area
    ]


def mask_ious(a: list[MaskRuns], b: list[MaskRuns]) -> NDArray[np.float64]:
    """IoU of each of n masks with each of m others: (n, m). Raises ValueError if their sizes differ."""
    if not a or not b:
        return np.zeros((len(a), len(b)))
    if a[0].shape != b[0].shape:
        raise ValueError(
            f"true masks are {a[0].shape[1]}x{a[0].shape[0]} pixels, predicted ones {b[0].shape[1]}x{b[0].shape[0]}"
        )
    return iou_matrix(a, b)


def _held_against(frame: SeenFrame, iou: float) -> list[bool]:
    """Which predictions count: all but those that match an ignored object and no other."""
    return [
        bool((frame.ious[:, j] >= iou).any())
        or not any(mask.common([other])[0] > _ON_IGNORED * mask.area for other in frame.ignored.values())
        for j, mask in enumerate(frame.given.values())
    ]
