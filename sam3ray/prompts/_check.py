"""Checks that visual prompts lie inside their video, as far as it is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from sam3ray.values.prompts import BoxPrompt, ExemplarPrompt, MaskPrompt, PointPrompt, VisualPrompt
from sam3ray.video import VideoInfo


def check_prompts(
    prompts: Iterable[VisualPrompt | ExemplarPrompt],
    info: VideoInfo,
    start_s: float | None = None,
    end_s: float | None = None,
    *,
    direction: str = "forward",
) -> list[str]:
    """Problems of these prompts with this video, one sentence each.

    Frames are compared with `info.frame_count`; set that to None if the container's count may be wrong. Does not check
    whether a frame index lies in the clip's range, nor masks still in a PNG file.

    Args:
        direction: "forward", "backward" or "both", which decides the frame on which an object starts.
    """
    given = tuple(prompts)
    problems = []
    for prompt in given:
        problem = _time_problem(prompt, info, start_s, end_s) or place_problem(prompt, info.width, info.height)
        if problem:
            problems.append(f"{describe(prompt)}: {problem}")
    return problems or _start_problems([each for each in given if not isinstance(each, ExemplarPrompt)], direction)


def describe(prompt: VisualPrompt | ExemplarPrompt) -> str:
    """ "the box of object 2 ('ball') on frame 7"; "the boxes of 'ball' on frame 7"."""
    if isinstance(prompt, ExemplarPrompt):
        return f"the boxes of {prompt.name!r} on {_frame(prompt)}"
    kind = {PointPrompt: "points", BoxPrompt: "box", MaskPrompt: "mask"}[type(prompt)]
    return f"the {kind} of {_object(prompt)} on {_frame(prompt)}"


def place_problem(prompt: VisualPrompt | ExemplarPrompt, width: int, height: int) -> str | None:
    """Why the prompt does not fit a frame of this size, or None."""
    if isinstance(prompt, MaskPrompt):
        if prompt.height and (prompt.height, prompt.width) != (height, width):
            return (
                f"the mask has {prompt.width}x{prompt.height} pixels, the video's frames have {width}x{height}; "
                "allowed: a mask of the frame's size"
            )
        return None
    if prompt.units == "relative":
        return None
    if not isinstance(prompt, PointPrompt):
        for corners in (prompt.box,) if isinstance(prompt, BoxPrompt) else prompt.boxes:
            if corners[2] > width or corners[3] > height:
                box = ", ".join(f"{value:g}" for value in corners)
                return f"[{box}] reaches outside the frame; allowed: xmax up to {width}, ymax up to {height}"
        return None
    for x, y in prompt.points:
        if x >= width or y >= height:
            return f"[{x:g}, {y:g}] lies outside the frame; allowed: x from 0 to below {width}, y to below {height}"
    return None


def _object(prompt: VisualPrompt) -> str:
    named = prompt.label and prompt.label != f"object {prompt.object_id}"
    return f"object {prompt.object_id}" + (f" ({prompt.label!r})" if named else "")


def _frame(prompt: VisualPrompt | ExemplarPrompt) -> str:
    return f"frame {prompt.frame_index}" if prompt.time_s is None else f"the frame at {prompt.time_s:g} s"


def _time_problem(
    prompt: VisualPrompt | ExemplarPrompt, info: VideoInfo, start_s: float | None, end_s: float | None
) -> str | None:
    start, end = start_s or 0.0, math.inf if end_s is None else end_s
    if prompt.time_s is None:
        if info.frame_count is not None and prompt.frame_index >= info.frame_count:
            return f"the video has {info.frame_count} frames; allowed: 0 to {info.frame_count - 1}"
        return None
    if not start <= prompt.time_s < end:
        until = "its end" if end_s is None else f"{end_s:g} s"
        return f"the clip is the video from {start:g} s to {until}; allowed: a time in it (its end is not)"
    if info.duration_s is not None and not info.duration_is_estimate and prompt.time_s >= info.duration_s:
        return f"the video ends at {info.duration_s:g} s; allowed: a time before that"
    return None


def _start_problems(prompts: Sequence[VisualPrompt], direction: str) -> list[str]:
    """Problems of objects that would start with negative clicks only.

    Skips objects with prompts by frame and by time, since only the worker knows their order.
    """
    problems = []
    by_object: dict[int, list[VisualPrompt]] = {}
    for prompt in prompts:
        by_object.setdefault(prompt.object_id, []).append(prompt)
    for own in by_object.values():
        by_frame = sum(prompt.time_s is None for prompt in own)
        if by_frame not in (0, len(own)):
            continue
        at = [float(prompt.frame_index) if prompt.time_s is None else prompt.time_s for prompt in own]
        first = max(at) if direction == "backward" else min(at)
        # Times up to a second apart may mean the same frame of a slow video.
        start = [prompt for prompt, each in zip(own, at, strict=True) if abs(each - first) < 1]
        if all(isinstance(prompt, PointPrompt) and not any(prompt.labels) for prompt in start):
            problems.append(
                f"{_object(start[0])} starts on {_frame(start[0])} (direction {direction}) with negative clicks only; "
                "allowed: a positive click, a box or a mask there"
            )
    return problems
