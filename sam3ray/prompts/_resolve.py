"""Visual prompts against their video: are they inside it, and which frame and pixels do they mean."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.prompts._values import UNRESOLVED, BoxPrompt, MaskPrompt, PointPrompt, VisualPrompt

if TYPE_CHECKING:
    from sam3ray.video import VideoInfo

MAX_PNG_BYTES = 64 * 2**20


def check_prompts(
    prompts: Iterable[VisualPrompt], info: VideoInfo, start_s: float | None = None, end_s: float | None = None
) -> list[str]:
    """What is wrong with these prompts for this video: one sentence each, none where all is well.

    Frames are compared with `info.frame_count`; leave that None where the container's count is not to be trusted.
    Masks still in a PNG file are checked when they are resolved.
    """
    problems = []
    for prompt in prompts:
        problem = _time_problem(prompt, info, start_s, end_s) or _place_problem(prompt, info.width, info.height)
        if problem:
            problems.append(f"{describe(prompt)}: {problem}")
    return problems


def resolve_prompts(
    prompts: Iterable[VisualPrompt],
    width: int,
    height: int,
    frame_at: Callable[[float], int] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[VisualPrompt, ...]:
    """The same prompts with frames as indices, coordinates in pixels and masks as RLE.

    Args:
        width, height: of the displayed frame.
        frame_at: the index of the frame shown at a moment (seconds); needed where a prompt has `time_s`.
        storage_options: for mask files.

    Raises:
        ClipError: over_limits (a point, box or mask that does not fit the frame), not_found (a mask file that cannot
            be read).
    """
    return tuple(_resolved(prompt, width, height, frame_at, storage_options or {}) for prompt in prompts)


def describe(prompt: VisualPrompt) -> str:
    """ "the box of object 2 ('ball') on frame 7"."""
    kind = {PointPrompt: "points", BoxPrompt: "box", MaskPrompt: "mask"}[type(prompt)]
    frame = f"frame {prompt.frame_index}" if prompt.time_s is None else f"the frame at {prompt.time_s:g} s"
    label = f" ({prompt.label!r})" if prompt.label else ""
    return f"the {kind} of object {prompt.object_id}{label} on {frame}"


def read_mask_file(address: str, storage_options: Mapping[str, Any]) -> tuple[str, int, int]:
    """(COCO compressed RLE, height, width) of a one-channel image: everything that is not 0 is the object.

    Raises:
        UserError: it cannot be read, has several channels, or is empty.
    """
    import numpy as np
    from PIL import Image

    from sam3ray.files import read_bytes
    from sam3ray.masks import encode_masks

    data = read_bytes(address, storage_options, MAX_PNG_BYTES, what="mask")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in ("1", "L", "P", "I", "I;16"):
                raise UserError(f"mask {address} has the channels {image.mode}; allowed: one channel")
            mask = np.asarray(image) != 0
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"mask {address} is no PNG image that can be read: {error}") from error
    encoded = encode_masks(mask[None])[0]
    if encoded.area == 0:
        raise UserError(f"mask {address} is empty; allowed: at least one pixel that is not 0")
    return encoded.rle, mask.shape[0], mask.shape[1]


def _time_problem(prompt: VisualPrompt, info: VideoInfo, start_s: float | None, end_s: float | None) -> str | None:
    start, end = start_s or 0.0, math.inf if end_s is None else end_s
    if prompt.time_s is None:
        if info.frame_count is not None and prompt.frame_index >= info.frame_count:
            return f"the video has {info.frame_count} frames; allowed: 0 to {info.frame_count - 1}"
        return None
    if not start <= prompt.time_s < end:
        until = "its end" if end_s is None else f"{end_s:g} s"
        return f"the clip is the video from {start:g} s to {until}, end exclusive"
    if info.duration_s is not None and prompt.time_s >= info.duration_s:
        return f"the video ends at {info.duration_s:g} s"
    return None


def _place_problem(prompt: VisualPrompt, width: int, height: int) -> str | None:
    if isinstance(prompt, MaskPrompt):
        if prompt.rle and (prompt.height, prompt.width) != (height, width):
            return f"it has {prompt.width}x{prompt.height} pixels, the video's frames have {width}x{height}"
        return None
    if prompt.units == "relative":
        return None
    if isinstance(prompt, BoxPrompt):
        if prompt.box[2] > width or prompt.box[3] > height:
            return f"{list(prompt.box)} reaches outside the frame of {width}x{height} pixels"
        return None
    for x, y in prompt.points:
        if x >= width or y >= height:
            return f"[{x:g}, {y:g}] lies outside the frame of {width}x{height} pixels"
    return None


def _resolved(
    prompt: VisualPrompt,
    width: int,
    height: int,
    frame_at: Callable[[float], int] | None,
    storage_options: Mapping[str, Any],
) -> VisualPrompt:
    name = describe(prompt)
    if isinstance(prompt, MaskPrompt) and prompt.png:
        try:
            rle, mask_height, mask_width = read_mask_file(prompt.png, storage_options)
        except UserError as error:
            raise ClipError(Reason.NOT_FOUND, str(error), name) from error
        prompt = replace(prompt, rle=rle, height=mask_height, width=mask_width, png="")
    if problem := _place_problem(prompt, width, height):
        raise ClipError(Reason.OVER_LIMITS, problem, name)
    if prompt.time_s is not None and prompt.frame_index == UNRESOLVED:
        if frame_at is None:
            raise ValueError(f"{name} is given by time: resolving it needs frame_at")
        prompt = replace(prompt, frame_index=frame_at(prompt.time_s))
    if isinstance(prompt, PointPrompt) and prompt.units == "relative":
        # 1.0 is the frame's far edge; the last pixel lies just inside.
        points = tuple((_inside(x * width, width), _inside(y * height, height)) for x, y in prompt.points)
        return replace(prompt, points=points, units="pixels")
    if isinstance(prompt, BoxPrompt) and prompt.units == "relative":
        xmin, ymin, xmax, ymax = prompt.box
        return replace(prompt, box=(xmin * width, ymin * height, xmax * width, ymax * height), units="pixels")
    return prompt


def _inside(value: float, size: int) -> float:
    return min(value, math.nextafter(size, 0))
