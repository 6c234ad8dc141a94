"""Selects the frames of a clip to compare: frames of the truth that the run has looked at."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from sam3ray.store.labelled_frames import is_part, labelled_frames, sampled_frames


def compared_frames(
    truth: Mapping[str, Any], run: Mapping[str, Any], true_rows: Set[int], run_rows: Set[int]
) -> list[int]:
    """Frame indices, ascending.

    Args:
        truth, run: facts from the metadata of the clip's two files, see `labelled_frames`.
        true_rows, run_rows: indices of the frames that have rows.

    Raises:
        ValueError: see `labelled_frames`.
    """
    labelled_frames({}, run_rows)  # also checks that its indices are in bounds
    frames = set(labelled_frames(truth, true_rows, last=max(true_rows | run_rows, default=-1)))
    if is_part(run):
        frames &= sampled_frames(run, last=max(frames, default=-1)) | run_rows
    return sorted(frames)
