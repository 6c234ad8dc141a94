"""Which frames of a clip are compared: those of the truth that the run has looked at."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from sam3ray.store.labelled_frames import is_part, labelled_frames, sampled_frames


def compared_frames(
    truth: Mapping[str, Any], run: Mapping[str, Any], true_rows: Set[int], run_rows: Set[int]
) -> list[int]:
    """Frame indices, ascending.

    Args:
        truth, run: what the clip's files say of it, see `labelled_frames`.
        true_rows, run_rows: the frames that have rows.

    Raises:
        ValueError: as `labelled_frames`.
    """
    labelled_frames({}, run_rows)  # its indices are in bounds, too
    frames = set(labelled_frames(truth, true_rows, last=max(true_rows | run_rows, default=-1)))
    if is_part(run):
        frames &= sampled_frames(run, last=max(frames, default=-1)) | run_rows
    return sorted(frames)
