"""cgF1 of SA-Co: are the right phrases answered at all, and are their objects found whole?

As in "SAM 3: Segment Anything with Concepts" (2025) and Meta's evaluator (`sam3.eval.cgf1_eval`,
`sam3.eval.ytvis_eval`): masklets of one phrase in one clip are matched one to one by the IoU of their tubes, so that
the sum of the IoUs is highest. F1 over the clips in which something of the phrase exists, mean over IoU thresholds .5,
.55 ... .95, times Matthews' correlation of "anything found" with "anything there" over all pairs of clip and phrase.
Meta's code adds 1e-4 to denominators and says 0 where a factor has no meaning; here it is None.
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
    """All masks of one phrase on one frame by object id, and the IoU of each true one with each predicted one."""

    true: dict[int, MaskRuns]
    predicted: dict[int, MaskRuns]
    ious: NDArray[np.float64]


@dataclass(frozen=True)
class Concept:
    """One phrase in one clip: how many masklets there are, were predicted, and agree at each of `THRESHOLDS`."""

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
        common[np.ix_(i, j)] += np.rint(frame.ious * (a[:, None] + b) / (1 + frame.ious))  # pixels that both have
    ious = common / np.maximum(true_area[:, None] + predicted_area - common, 1)
    pairs = ious[best_pairs(ious)]
    return Concept(len(rows), len(columns), tuple(int((pairs >= least).sum()) for least in THRESHOLDS))


@dataclass(frozen=True)
class ConceptScores:
    """`cgf1` = `pmf1` (F1 of masklets over the pairs in which the phrase exists) x `il_mcc` (correlation over all)."""

    cgf1: float | None
    pmf1: float | None
    il_mcc: float | None


def score_concepts(pairs: Iterable[Concept]) -> ConceptScores:
    """Over pairs of clip and phrase, each masklet weighing the same."""
    pairs = list(pairs)
    there = [pair for pair in pairs if pair.true]
    found = np.array([pair.matched for pair in there]).reshape(-1, len(THRESHOLDS)).sum(0)
    total = sum(pair.true + pair.predicted for pair in there)
    pmf1 = float(np.mean(2 * found / total)) if there else None
    mcc = _matthews([(pair.true > 0, pair.predicted > 0) for pair in pairs])
    return ConceptScores(None if pmf1 is None or mcc is None else pmf1 * mcc, pmf1, mcc)


def _matthews(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Correlation of two yes-or-no answers; None where the truth is always the same, 0 where the other one is."""
    counts = {key: pairs.count(key) for key in ((True, True), (True, False), (False, True), (False, False))}
    tp, fn, fp, tn = counts.values()
    if not (tp + fn and fp + tn):
        return None
    if not (tp + fp and fn + tn):
        return 0.0
    return float((tp * tn - fp * fn) / np.sqrt(float(tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
