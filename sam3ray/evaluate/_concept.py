"""SA-Co's cgF1: is each phrase found in the right clips, and are its objects segmented throughout?

Defined as in "SAM 3: Segment Anything with Concepts" (2025) and Meta's evaluator (`sam3.eval.cgf1_eval`,
`sam3.eval.ytvis_eval`). The masklets of one phrase in one clip are matched one to one by the IoU of their tubes, so
that the sum of the IoUs is largest. cgF1 is a product of two factors. The first is F1 over the clips in which the
phrase occurs, averaged over the IoU thresholds .5, .55 ... .95. The second is Matthews' correlation between "something
was found" and "something is there", over all pairs of clip and phrase.

An undefined factor is None here; Meta's code returns 0, and adds 1e-4 to denominators.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sam3ray.evaluate._assignment import best_pairs
from sam3ray.masks import MaskRuns

THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class ConceptFrame:
    """All masks of one phrase on one frame by object id, and the IoU of each true mask with each predicted one."""

    true: dict[int, MaskRuns]
    predicted: dict[int, MaskRuns]
    ious: NDArray[np.float64]


@dataclass(frozen=True)
class Concept:
    """One phrase in one clip: numbers of true masklets, of predicted ones, and of matches at each of `THRESHOLDS`."""

    true: int
    predicted: int
    matched: tuple[int, ...]


def match_masklets(frames: Sequence[ConceptFrame]) -> Concept:
    """Matches whole masklets."""
    rows = {k: i for i, k in enumerate(dict.fromkeys(k for frame in frames for k in frame.true))}
    columns = {k: i for i, k in enumerate(dict.fromkeys(k for frame in frames for k in frame.predicted))}
    true_area, predicted_area = np.zeros(len(rows)), np.zeros(len(columns))
    common = np.zeros((len(rows), len(columns)))
    for frame in frames:
        i, j = [rows[k] for k in frame.true], [columns[k] for k in frame.predicted]
        a = np.array([mask.area for mask in frame.true.values()], float)
        b = np.array([mask.area for mask in frame.predicted.values()], float)
        true_area[i] += a
        predicted_area[j] += b
        common[np.ix_(i, j)] += np.rint(frame.ious * (a[:, None] + b) / (1 + frame.ious))  # pixels in both
    ious = common / np.maximum(true_area[:, None] + predicted_area - common, 1)
    pairs = ious[best_pairs(ious)]
    return Concept(len(rows), len(columns), tuple(int((pairs >= least).sum()) for least in THRESHOLDS))


@dataclass(frozen=True)
class ConceptScores:
    """`cgf1` is `pmf1` (F1 of masklets over the pairs in which the phrase occurs) times `il_mcc` (correlation over all
    pairs).
    """

    cgf1: float | None
    pmf1: float | None
    il_mcc: float | None


def score_concepts(pairs: Iterable[Concept]) -> ConceptScores:
    """Scores over pairs of clip and phrase. Every masklet has the same weight."""
    pairs = list(pairs)
    there = [pair for pair in pairs if pair.true]
    found = np.array([pair.matched for pair in there]).reshape(-1, len(THRESHOLDS)).sum(0)
    total = sum(pair.true + pair.predicted for pair in there)
    pmf1 = float(np.mean(2 * found / total)) if there else None
    mcc = _matthews([(pair.true > 0, pair.predicted > 0) for pair in pairs])
    return ConceptScores(None if pmf1 is None or mcc is None else pmf1 * mcc, pmf1, mcc)


def _matthews(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Correlation of two yes-or-no answers: None if the true answer never changes, 0 if only the predicted one never
    does.
    """
    counts = {key: pairs.count(key) for key in ((True, True), (True, False), (False, True), (False, False))}
    tp, fn, fp, tn = counts.values()
    if not (tp + fn and fp + tn):
        return None
    if not (tp + fp and fn + tn):
        return 0.0
    return float((tp * tn - fp * fn) / np.sqrt(float(tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
