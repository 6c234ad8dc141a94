"""Which frames of a clip are compared: those of the truth that the run has looked at."""

from __future__ import annotations

from collections.abc import Mapping, Set
from fractions import Fraction
from typing import Any

from sam3ray.video import Sampler

MAX_FRAMES = 10_000_000  # of a clip; more is no number of frames, but a mistake
_TIME_BASE = "1/90000"


def compared_frames(
    truth: Mapping[str, Any], run: Mapping[str, Any], true_rows: Set[int], run_rows: Set[int]
) -> list[int]:
    """Frame indices, ascending.

    Args:
        truth, run: what the clip's files say of it ("clip" of their metadata): how many `frames` were labelled, and of
            which part of the video: `start_s`, `end_s`, `fps`, and the rate of the video, `source_fps`.
        true_rows, run_rows: the frames that have rows.

    Raises:
        ValueError: `frames` of the truth is no number of frames, or a frame's index is beyond all sense.
    """
    last = max(true_rows | run_rows, default=-1)
    if last >= MAX_FRAMES:
        raise ValueError(f"it has a frame {last}; allowed: below {MAX_FRAMES}")
    count = truth.get("frames")
    if count is None:
        frames = set(true_rows)
    elif not isinstance(count, int) or not 0 <= count <= MAX_FRAMES:
        raise ValueError(f"the truth's metadata says frames: {count!r}; allowed: 0 to {MAX_FRAMES}")
    elif _is_part(truth):
        frames = _labelled(truth, last) | true_rows
    elif max(true_rows, default=-1) >= count:  # some frames of the video, nobody says which
        frames = set(true_rows)
    else:
        frames = set(range(count)) | true_rows
    if _is_part(run):
        frames &= _labelled(run, max(frames, default=-1)) | run_rows
    return sorted(frames)


def _is_part(clip: Mapping[str, Any]) -> bool:
    return bool(clip.get("source_fps")) and any(clip.get(name) is not None for name in ("start_s", "end_s", "fps"))


def _labelled(clip: Mapping[str, Any], last: int) -> set[int]:
    """The frames up to `last` that a run took of a video of constant rate."""
    unit = Fraction(clip.get("time_base") or _TIME_BASE)
    period = 1 / Fraction(clip["source_fps"]).limit_denominator(1001) / unit
    sampler = Sampler(unit, clip.get("start_s"), clip.get("end_s"), clip.get("fps"))
    return {index for index in range(last + 1) if sampler.wants(round(index * period))}
