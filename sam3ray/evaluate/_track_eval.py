"""Computes CLEAR MOT, HOTA and IDF1 with TrackEval, sequence by sequence, then combined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sam3ray.failures import UserError


@dataclass(frozen=True)
class Sequences:
    """True and predicted tracks, frame by frame.

    Attributes:
        true_ids, predicted_ids: any numbers, (n,) and (m,) on each frame.
        similarities: (n, m) on each frame.
    """

    true_ids: Sequence[Sequence[int]]
    predicted_ids: Sequence[Sequence[int]]
    similarities: Sequence[NDArray[np.float64]]


Measured = dict[str, dict[str, Any]]  # by metric: TrackEval's result for one sequence


def metrics(iou: float) -> dict[str, Any]:
    """TrackEval's metrics. CLEAR matches boxes with at least this similarity.

    Raises:
        UserError: TrackEval is not installed.
    """
    try:
        from trackeval.metrics import CLEAR, HOTA, Identity
    except ImportError as error:
        raise UserError(
            f"evaluation needs TrackEval, and {error.name} is not installed: pip install 'sam3ray[eval]', then "
            "pip install --no-deps trackeval"
        ) from None
    quiet = {"PRINT_CONFIG": False, "THRESHOLD": iou}
    return {"CLEAR": CLEAR(quiet), "HOTA": HOTA(), "Identity": Identity(quiet)}


ALL = ("CLEAR", "HOTA", "Identity")


def measure(tracks: Sequences, iou: float, names: Sequence[str] = ALL) -> Measured:
    """Measures one sequence with the metrics of these names.

    Raises:
        UserError: TrackEval is not installed.
    """
    (true_ids, true_count), (predicted_ids, predicted_count) = map(_numbered, (tracks.true_ids, tracks.predicted_ids))
    data = {
        "num_timesteps": len(true_ids),
        "num_gt_ids": true_count,
        "num_tracker_ids": predicted_count,
        "num_gt_dets": sum(map(len, true_ids)),
        "num_tracker_dets": sum(map(len, predicted_ids)),
        "gt_ids": true_ids,
        "tracker_ids": predicted_ids,
        "similarity_scores": tracks.similarities,
    }
    known = metrics(iou)
    return {name: known[name].eval_sequence(data) for name in names}


def combine(parts: Iterable[Measured], names: Sequence[str] = ALL) -> Measured:
    """Combines the results of several sequences. Every box has the same weight."""
    named = {str(i): part for i, part in enumerate(parts)} or {"nothing": measure(Sequences([], [], []), 0.5)}
    known = metrics(0.5)
    return {name: known[name].combine_sequences({key: part[name] for key, part in named.items()}) for name in names}


def _numbered(frames: Sequence[Sequence[int]]) -> tuple[list[NDArray[np.int64]], int]:
    """Renumbers ids from 0 without gaps, as TrackEval needs them. Also returns how many there are."""
    numbers: dict[int, int] = {}
    rows = [np.array([numbers.setdefault(k, len(numbers)) for k in frame], np.int64) for frame in frames]
    return rows, len(numbers)
