"""The frames of the source video that a finished clip labelled, from its file's metadata."""

from __future__ import annotations

from collections.abc import Mapping, Set
from fractions import Fraction
from typing import Any

from sam3ray.video import Sampler

MAX_FRAMES = 10_000_000  # of a clip; larger numbers are an error
_TIME_BASE = "1/90000"


def labelled_frames(clip: Mapping[str, Any], rows: Set[int], last: int | None = None) -> list[int]:
    """Frame indices in the source video, ascending, including frames without objects.

    For a range or a sample of a video, they are computed from the range and the video's frame rate. That is exact for a
    constant rate; frames that have rows are always included.

    Args:
        clip: the "clip" of the file's metadata: how many `frames` were labelled, and of which part of the video:
            `start_s`, `end_s`, `fps`, and the rate of the video, `source_fps`; or `frame_index`, all of them.
        rows: the frames that have rows.
        last: end at this frame; None: end when all `frames` are found.

    Raises:
        ValueError: `frames` is not a valid number of frames, or an index is out of range.
    """
    highest = max(rows, default=-1)
    if highest >= MAX_FRAMES:
        raise ValueError(f"it has a frame {highest}; allowed: below {MAX_FRAMES}")
    frames = clip.get("frames")
    listed = clip.get("frame_index")
    if listed is not None:
        if not isinstance(listed, list) or not all(type(n) is int and 0 <= n < MAX_FRAMES for n in listed):
            raise ValueError(f"the metadata's frame_index is not a list of frames from 0 to {MAX_FRAMES - 1}")
        return sorted({*listed, *rows})
    if frames is None:
        return sorted(rows)
    if not isinstance(frames, int) or not 0 <= frames <= MAX_FRAMES:
        raise ValueError(f"the metadata says frames: {frames!r}; allowed: 0 to {MAX_FRAMES}")
    if is_part(clip):
        return sorted(sampled_frames(clip, last, frames if last is None else None, highest) | rows)
    if highest >= frames:  # a sample whose frames are not known
        return sorted(rows)
    return sorted(set(range(frames)) | rows)


def is_part(clip: Mapping[str, Any]) -> bool:
    """Whether the clip is a range or a sample of its video."""
    return bool(clip.get("source_fps")) and any(clip.get(name) is not None for name in ("start_s", "end_s", "fps"))


def sampled_frames(
    clip: Mapping[str, Any], last: int | None = None, frames: int | None = None, at_least: int = -1
) -> set[int]:
    """The frames that a run labels of a video of constant rate: up to `last`, or this many and at least up to
    `at_least`.
    """
    unit = Fraction(clip.get("time_base") or _TIME_BASE)
    period = 1 / Fraction(clip["source_fps"]).limit_denominator(1001) / unit
    sampler = Sampler(unit, clip.get("start_s"), clip.get("end_s"), clip.get("fps"))
    found: set[int] = set()
    for index in range(MAX_FRAMES if last is None else last + 1):
        if frames is not None and len(found) >= frames and index > at_least:
            break
        ticks = round(index * period)
        if sampler.is_after(ticks):
            break
        if sampler.wants(ticks):
            found.add(index)
    return found
