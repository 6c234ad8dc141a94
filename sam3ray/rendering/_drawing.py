"""Draws annotations on an image: `draw`, and what rendering shares with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from sam3ray.masks import decode_rle
from sam3ray.rendering._overlay import DrawnObject, draw_objects
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.video import Frame

Annotated = FrameAnnotations | Sequence[ObjectAnnotation] | Sequence[Mapping[str, Any]]


def draw(image: np.ndarray | Frame, annotations: Annotated) -> np.ndarray:
    """Draws masks, boxes and `id prompt score` labels on a copy of an image.

    Args:
        image: uint8 RGB, (height, width, 3), at the size of the source frame or scaled down from it; or a `Frame`.
        annotations: the frame's objects: `FrameAnnotations`, a result of a session, `ObjectAnnotation`s, or rows of
            `read_annotations(...).to_table().to_pylist()`.

    Returns:
        uint8 RGB, of the image's size. Each object has one colour, the same in every frame and in rendered videos.

    Raises:
        ValueError: the image is not such an array, does not fit the masks, or the rows belong to several frames.
    """
    pixels = _pixels(image)
    objects, size = _objects(annotations, pixels.shape[:2])
    height, width = pixels.shape[:2]
    if not _is_scaled(size, (height, width)):
        raise ValueError(
            f"the image is {width}x{height}, the masks are {size[1]}x{size[0]}; allowed: an image of the masks' size, "
            "or scaled by one factor"
        )
    drawn = np.array(pixels, order="C", copy=True)
    draw_objects(drawn, drawn_objects(objects, size, (height, width)))
    return drawn


def drawn_objects(
    objects: Iterable[ObjectAnnotation], size: tuple[int, int], shown: tuple[int, int]
) -> list[DrawnObject]:
    """Prepares objects of a frame of `size` (height, width) for drawing on an image of the size `shown`."""
    (height, width), (shown_height, shown_width) = size, shown
    x_scale, y_scale = shown_width / width, shown_height / height
    ready = []
    for item in objects:
        mask = decode_rle(item.rle, height, width).view(np.uint8)
        if (x_scale, y_scale) != (1, 1):
            mask = np.asarray(cv2.resize(mask, (shown_width, shown_height), interpolation=cv2.INTER_NEAREST), np.uint8)
        xmin, ymin, xmax, ymax = item.bbox
        x0, y0 = min(int(xmin * x_scale), shown_width - 1), min(int(ymin * y_scale), shown_height - 1)
        x1, y1 = (
            min(shown_width, max(x0 + 1, round(xmax * x_scale))),
            min(shown_height, max(y0 + 1, round(ymax * y_scale))),
        )
        label = f"{item.object_id} {item.prompt} {item.score:.2f}"
        ready.append(DrawnObject(item.object_id, label, (x0, y0, x1, y1), np.ascontiguousarray(mask[y0:y1, x0:x1])))
    return ready


def _is_scaled(size: tuple[int, int], shown: tuple[int, int]) -> bool:
    """Whether an image may be a frame of this size, possibly scaled by one factor, within a pixel."""
    if size == shown:
        return True
    if size[0] == shown[0] or size[1] == shown[1]:
        return False
    scale = shown[1] / size[1] if size[1] >= size[0] else shown[0] / size[0]
    return abs(size[0] * scale - shown[0]) <= 1 and abs(size[1] * scale - shown[1]) <= 1


def _pixels(image: Any) -> np.ndarray:
    pixels = image.image if isinstance(image, Frame) else image
    if hasattr(pixels, "__array__") or hasattr(pixels, "__array_interface__"):  # a PIL image, a tensor on the CPU
        pixels = np.asarray(pixels)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        got = f"{pixels.shape} of {pixels.dtype}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ValueError(f"image is {got}; allowed: a uint8 RGB array of shape (height, width, 3)")
    if 0 in pixels.shape:
        raise ValueError(f"image is {pixels.shape}, which has no pixels; allowed: (height, width, 3) with at least one")
    return pixels


def _objects(annotations: Any, default: tuple[int, ...]) -> tuple[list[ObjectAnnotation], tuple[int, int]]:
    """The objects, and the (height, width) of their masks."""
    given = getattr(annotations, "annotations", annotations)  # a session's result has them as rows
    if isinstance(given, FrameAnnotations):
        return list(given.objects), (given.height, given.width)
    if hasattr(given, "to_pylist"):  # a pyarrow table
        given = given.to_pylist()
    if isinstance(given, ObjectAnnotation | Mapping):
        given = [given]
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise ValueError(f"annotations is {type(given).__name__}; allowed: FrameAnnotations, or a list of its objects")
    items = list(given)
    if all(isinstance(item, ObjectAnnotation) for item in items):
        return items, (default[0], default[1])
    if not all(isinstance(item, Mapping) and "segmentation" in item for item in items):
        raise ValueError(
            "annotations contains items that are neither ObjectAnnotation nor rows of the annotations schema"
        )
    frames = sorted({(row["clip_id"], row["frame_index"]) for row in items})
    if len(frames) > 1:
        raise ValueError(
            f"annotations are of {len(frames)} frames, {frames[0]} and {frames[1]} among them; allowed: one frame"
        )
    frame = FrameAnnotations.of_rows(sorted(items, key=lambda row: int(row["object_id"])))
    return list(frame.objects), (frame.height, frame.width)
