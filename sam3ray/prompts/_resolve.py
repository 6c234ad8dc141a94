"""Resolves visual prompts against their video, to frames and pixels."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.files import filesystem, read_whole, web
from sam3ray.guard.redact import redact
from sam3ray.masks import encode_masks
from sam3ray.prompts._check import describe, place_problem
from sam3ray.values.prompts import UNRESOLVED, BoxPrompt, ExemplarPrompt, MaskPrompt, PointPrompt, VisualPrompt
from sam3ray.video import DECODING_ERRORS, naming_store_errors

MAX_PNG_BYTES = 64 * 2**20
MAX_MASK_PIXELS = 8192 * 8192  # as `video.max_pixels` by default: a mask has the size of its frame


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
        frame_at: gives the index of the frame shown at a time in seconds; needed if a prompt has `time_s`.
        storage_options: for mask files.

    Raises:
        ClipError: over_limits (a point, box or mask does not fit the frame), or see `read_mask_file`.
    """
    return tuple(_resolved(prompt, width, height, frame_at, storage_options or {}) for prompt in prompts)


def resolve_exemplars(
    exemplars: Iterable[ExemplarPrompt], width: int, height: int, frame_at: Callable[[float], int] | None = None
) -> tuple[ExemplarPrompt, ...]:
    """See `resolve_prompts`."""
    found = []
    for each in exemplars:
        if problem := place_problem(each, width, height):
            raise ClipError(Reason.OVER_LIMITS, problem, describe(each))
        each = replace(each, frame_index=_frame_index(each, frame_at))
        if each.units == "relative":
            boxes = tuple((x0 * width, y0 * height, x1 * width, y1 * height) for x0, y0, x1, y1 in each.boxes)
            each = replace(each, boxes=boxes, units="pixels")
        found.append(each)
    return tuple(found)


def _frame_index(prompt: VisualPrompt | ExemplarPrompt, frame_at: Callable[[float], int] | None) -> int:
    if prompt.time_s is None or prompt.frame_index != UNRESOLVED:
        return prompt.frame_index
    if frame_at is None:
        raise ValueError(f"{describe(prompt)} is given by time: resolving it needs frame_at")
    return frame_at(prompt.time_s)


class MaskFile(NamedTuple):
    """The content of a mask file: COCO compressed RLE, the mask's size, and the file's digest."""

    rle: str
    height: int
    width: int
    sha256: str


def read_mask_file(address: str, storage_options: Mapping[str, Any], expected: str = "") -> MaskFile:
    """Reads a mask from a one-channel PNG, in which every value but 0 belongs to the object.

    Args:
        expected: SHA-256 that the file must have; empty accepts any.

    Raises:
        ClipError: not_found (also if it has changed), permission_denied or storage (it cannot be read), over_limits (it
            is not such an image, is too large, or is empty).
    """
    name = f"the mask {redact(address)}"
    try:
        fs, path = filesystem(address, storage_options, what="mask")
        with naming_store_errors(address):
            data = read_whole(fs, path, address, MAX_PNG_BYTES)
    except web.TooLarge:
        raise ClipError(Reason.OVER_LIMITS, f"{name} has more than {MAX_PNG_BYTES} bytes (the limit)") from None
    except UserError as error:
        raise ClipError(Reason.NOT_FOUND, str(error)) from error
    except ClipError as error:
        raise ClipError(error.reason, f"{name} cannot be read: {error.message}", error.where) from error
    sha256 = hashlib.sha256(data).hexdigest()
    if expected and sha256 != expected:
        changed = f"it had the SHA-256 {expected[:12]}..., and has {sha256[:12]}..."
        raise ClipError(Reason.NOT_FOUND, f"{name} has changed since the run first read it ({changed})")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in ("1", "L", "P", "I", "I;16"):
                raise ClipError(Reason.OVER_LIMITS, f"{name} has the channels {image.mode}; allowed: one channel")
            if image.width * image.height > MAX_MASK_PIXELS:
                raise ClipError(
                    Reason.OVER_LIMITS,
                    f"{name} has {image.width}x{image.height} pixels; allowed: at most {MAX_MASK_PIXELS}",
                )
            mask = np.asarray(image) != 0
    except (Image.DecompressionBombError, MemoryError, *DECODING_ERRORS) as error:
        unknown = isinstance(error, UnidentifiedImageError)  # PIL's message would name an object in memory
        reason = "it has no PNG signature" if unknown else redact(" ".join(str(error).split()))
        raise ClipError(Reason.OVER_LIMITS, f"{name} is not a readable PNG: {reason}") from error
    encoded = encode_masks(mask[None])[0]
    if encoded.area == 0:
        raise ClipError(Reason.OVER_LIMITS, f"{name} is empty; allowed: at least one pixel that is not 0")
    return MaskFile(encoded.rle, mask.shape[0], mask.shape[1], sha256)


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
            mask = read_mask_file(prompt.png, storage_options, prompt.sha256)
        except ClipError as error:
            raise ClipError(error.reason, error.message, name) from error
        prompt = replace(prompt, rle=mask.rle, height=mask.height, width=mask.width, png="", sha256="")
    if problem := place_problem(prompt, width, height):
        raise ClipError(Reason.OVER_LIMITS, problem, name)
    prompt = replace(prompt, frame_index=_frame_index(prompt, frame_at))
    if isinstance(prompt, PointPrompt) and prompt.units == "relative":
        # 1.0 is the frame's far edge; the last pixel is just inside.
        points = tuple((_inside(x * width, width), _inside(y * height, height)) for x, y in prompt.points)
        return replace(prompt, points=points, units="pixels")
    if isinstance(prompt, BoxPrompt) and prompt.units == "relative":
        xmin, ymin, xmax, ymax = prompt.box
        return replace(prompt, box=(xmin * width, ymin * height, xmax * width, ymax * height), units="pixels")
    return prompt


def _inside(value: float, size: int) -> float:
    return min(value, math.nextafter(size, 0))
