"""Reads labels corrected in other tools. The files are untrusted: every value is checked."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sam3ray.exports._labels import ClipLabels
from sam3ray.guard.jsontext import parse_json
from sam3ray.masks import decode_rle
from sam3ray.revisions import Label
from sam3ray.store.storage import Storage
from sam3ray.values.phrases import label_problem

Found = dict[int, list[Label]]
_NUMBERED = re.compile(r"([0-9]{1,9})\.[A-Za-z]+$", re.ASCII)
_MAX_PNG_BYTES = 64 * 2**20


def read_labelme(storage: Storage, labels: ClipLabels) -> Found:
    """Reads one file per exported frame, with masks, and polygons that cover the pixels whose centres are inside.

    Raises:
        ValueError: a file is missing, damaged, or for an image of another size.
    """
    found: Found = {}
    size = labels.height, labels.width
    for frame in labels.frames:
        path = f"{labels.clip_id}/{frame:06d}.json"
        value = json_object(storage, path)
        if (value.get("imageHeight"), value.get("imageWidth")) not in (size, (None, None)):
            raise ValueError(f"{path} is of an image of {value.get('imageWidth')}x{value.get('imageHeight')} pixels")
        shapes: dict[tuple[int | None, str, int], np.ndarray] = {}
        for n, shape in enumerate(list_of(value, "shapes", path)):
            object_id, label, mask = _shape(shape, size, f"{path}, shape {n + 1}")
            key = (object_id, label, n if object_id is None else 0)
            shapes[key] = shapes[key] | mask if key in shapes else mask
        found[frame] = [Label(object_id, label, mask) for (object_id, label, _), mask in shapes.items() if mask.any()]
    return found


def read_coco(storage: Storage, labels: ClipLabels) -> Found:
    """Reads `annotations/<clip_id>.json`, with masks as run lengths, compressed or not, or as polygons.

    Raises:
        ValueError: the file is missing or damaged.
    """
    path, size = f"annotations/{labels.clip_id}.json", (labels.height, labels.width)
    value = json_object(storage, path)
    images: dict[Any, int] = {}
    for image in list_of(value, "images", path):
        frame = _frame_of(image)
        if frame is not None:
            images[image["id"]] = frame
        if isinstance(image, Mapping) and frame in labels.place:
            shown = image.get("height"), image.get("width")
            if shown not in (size, (None, None)):
                raise ValueError(
                    f"{path}: the image of frame {frame} is of {shown[1]}x{shown[0]} pixels, not {size[1]}x{size[0]}"
                )
    names = names_of(value, path)
    given = set(images.values())
    # A tool may return only edited images: the others were not reviewed.
    found: Found = {frame: [] for frame in labels.frames if frame in given}
    for n, each in enumerate(list_of(value, "annotations", path)):
        where = f"{path}, annotation {n + 1}"
        if not isinstance(each, Mapping) or not _is_id(each.get("image_id")) or each["image_id"] not in images:
            raise ValueError(f"{where}: no exported image has this image_id")
        label = name_of(each.get("category_id"), names, where)
        attributes = each.get("attributes") if isinstance(each.get("attributes"), Mapping) else {}
        object_id = object_id_of(each.get("track_id", (attributes or {}).get("track_id")), where)
        mask = mask_of(each.get("segmentation"), size, where)
        frame = images[each["image_id"]]
        if frame in found and mask.any():
            found[frame].append(Label(object_id, label, mask))
    return found


def names_of(value: Mapping[str, Any], path: str) -> dict[Any, Any]:
    """COCO's categories: id -> name."""
    found = [each for each in list_of(value, "categories", path) if isinstance(each, Mapping)]
    return {each["id"]: each.get("name") for each in found if _is_id(each.get("id"))}


def name_of(category: Any, names: Mapping[Any, Any], where: str) -> str:
    """The label of an annotation's category."""
    if not _is_id(category) or category not in names:
        raise ValueError(f"{where}: its category_id is {category!r:.40}, which is not among the file's categories")
    return label_of(names[category], where)


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)


def _frame_of(image: Any) -> int | None:
    """The frame of an image, by the key that our export writes, or by the file name if a tool drops that key."""
    if not isinstance(image, Mapping) or not _is_id(image.get("id")):
        return None
    if type(image.get("frame_index")) is int:
        return int(image["frame_index"])
    named = _NUMBERED.search(str(image.get("file_name")))
    return int(named[1]) if named else None


def _shape(shape: Any, size: tuple[int, int], where: str) -> tuple[int | None, str, np.ndarray]:
    if not isinstance(shape, Mapping):
        raise ValueError(f"{where} is not a mapping")
    object_id, label = object_id_of(shape.get("group_id"), where), label_of(shape.get("label"), where)
    points = points_of(shape.get("points"), where)
    kind = shape.get("shape_type")
    if kind == "mask":
        return object_id, label, _placed(shape.get("mask"), points, size, where)
    if kind == "rectangle" and len(points) in (2, 4):
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    elif kind != "polygon" or len(points) < 3:
        raise ValueError(f"{where} is a {kind!r} of {len(points)} points; allowed: mask, polygon, rectangle")
    return object_id, label, filled(points, size)


def _placed(data: Any, points: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    from PIL import Image

    if not isinstance(data, str) or len(data) > _MAX_PNG_BYTES or len(points) != 2:
        raise ValueError(f"{where}: a mask needs two points and a PNG in base64")
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=["PNG"]) as image:
            left, top = (round(float(v)) for v in points[0])
            height, width = image.height, image.width
            if left < 0 or top < 0 or top + height > size[0] or left + width > size[1]:
                raise ValueError(f"{where}: its mask of {width}x{height} at {left}, {top} lies outside the image")
            part = np.asarray(image.convert("L")) > 0
    except (OSError, SyntaxError, binascii.Error, Image.DecompressionBombError):
        raise ValueError(f"{where}: its mask is not a PNG") from None
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = part
    return mask


def mask_of(value: Any, size: tuple[int, int], where: str) -> np.ndarray:
    if isinstance(value, list):
        mask = np.zeros(size, bool)
        if not value:  # tools write boxes in this way; read as an empty mask, it would delete the object
            raise ValueError(f"{where}: its segmentation is empty; allowed: run lengths or polygons, not a box alone")
        for polygon in value:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise ValueError(f"{where}: a polygon is {polygon!r:.60}; allowed: x, y of three points or more")
            mask |= filled(points_of(list(zip(polygon[::2], polygon[1::2], strict=True)), where), size)
        return mask
    if not isinstance(value, Mapping) or value.get("size") != list(size):
        raise ValueError(f"{where}: its segmentation is not a mask of {size[1]}x{size[0]} pixels")
    counts = value.get("counts")
    if isinstance(counts, str):
        return decode_rle(counts, *size)
    if isinstance(counts, list) and all(type(n) is int and n >= 0 for n in counts) and sum(counts) == size[0] * size[1]:
        values = np.arange(len(counts)) % 2 == 1
        return np.repeat(values, counts).reshape(size, order="F")
    raise ValueError(f"{where}: its run lengths do not add up to {size[1]}x{size[0]} pixels")


def filled(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels whose centres are inside the polygon with these (n, 2) corners x, y, by counting crossings."""
    height, width = size
    crossings = np.zeros((height, width + 1), np.int32)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
        if y0 == y1:
            continue
        low, high = sorted((y0, y1))
        rows = np.arange(max(0, int(np.ceil(low - 0.5))), min(height, int(np.ceil(high - 0.5))))
        columns = np.ceil(x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0) - 0.5)
        np.add.at(crossings, (rows, np.clip(columns, 0, width).astype(int)), 1)
    inside: np.ndarray = np.cumsum(crossings, axis=1)[:, :width] % 2 == 1
    return inside


def json_value(storage: Storage, path: str) -> Any:
    data = storage.read(path)
    if data is None:
        raise ValueError(f"{path} is missing")
    try:
        return parse_json(data)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def json_object(storage: Storage, path: str) -> Mapping[str, Any]:
    value = json_value(storage, path)
    if not isinstance(value, Mapping):
        raise ValueError(f"{path} is not a JSON object")
    return value


def list_of(value: Mapping[str, Any], key: str, path: str) -> list[Any]:
    found = value.get(key)
    if not isinstance(found, list):
        raise ValueError(f"{path}: {key!r} is not a list")
    return found


def object_id_of(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 1 <= value < 2**31:
        raise ValueError(
            f"{where}: its object id is {value!r}; allowed: whole numbers from 1, or none for a new object"
        )
    return value


def label_of(value: Any, where: str) -> str:
    if problem := label_problem(value):
        raise ValueError(f"{where}: its label {problem}")
    return str(value)


def points_of(value: Any, where: str) -> np.ndarray:
    try:
        points = np.array(value, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: its points are not pairs of numbers") from None
    if not np.isfinite(points).all() or np.abs(points).max(initial=0) > 1e6:
        raise ValueError(f"{where}: its points are not positions in an image")
    return points
