"""Reads corrected XML from CVAT, which replaces the clip's exported file: the `annotations.xml` of a CVAT export."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import numpy as np

from sam3ray.exports._labels import ClipLabels
from sam3ray.exports._reading import Found, filled, label_of, object_id_of, points_of
from sam3ray.exports._reading_boxes import Keyframe, Track, found_boxes
from sam3ray.revisions import Label
from sam3ray.store.storage import Storage

_NUMBERED = re.compile(r"([0-9]{1,9})(\.[A-Za-z]+)?$", re.ASCII)
_MAX_BYTES = 512 * 2**20


def read_cvat_boxes(storage: Storage, labels: ClipLabels) -> Found:
    """Reads `<clip_id>.xml`, CVAT for video: tracks of boxes, with linear interpolation between keyframes.

    Raises:
        ValueError: the file is missing or damaged.
    """
    root, path = _root(storage, labels)
    tracks = []
    for n, track in enumerate(root.iter("track"), 1):
        where = f"{path}, track {n}"
        boxes = [_keyframe(box, f"{where}, box {m}") for m, box in enumerate(track.iter("box"), 1)]
        if not boxes:
            continue
        frames = [each.frame for each in boxes]
        if sorted(set(frames)) != frames:
            raise ValueError(f"{where}: its boxes are not in the order of their frames")
        object_id = _object_id(track, where)
        number = -n if object_id is None else object_id
        tracks.append(Track(number, label_of(track.get("label"), where), tuple(boxes)))
    return found_boxes(labels, tracks)


def read_cvat_masks(storage: Storage, labels: ClipLabels) -> Found:
    """Reads `<clip_id>.xml`, CVAT for images: masks, polygons and boxes by frame. Shapes with one id are one object.

    Raises:
        ValueError: the file is missing or damaged, or an image has another size.
    """
    root, path = _root(storage, labels)
    size = labels.height, labels.width
    found: Found = {}
    for image in root.iter("image"):
        named = _NUMBERED.search(image.get("name", ""))
        frame = int(named[1]) if named else None
        if frame not in labels.place:
            raise ValueError(f"{path}: image {image.get('name')!r} is not an exported frame; allowed: frame_<index>")
        where = f"{path}, frame {frame}"
        if (_number(image, "height", where), _number(image, "width", where)) != size:
            raise ValueError(f"{where} has {image.get('width')}x{image.get('height')} pixels, not {size[1]}x{size[0]}")
        shapes: dict[tuple[int | None, str, int], np.ndarray] = {}
        for n, shape in enumerate(image, 1):
            if shape.tag not in _SHAPES:
                continue
            place = f"{where}, shape {n}"
            object_id, label = _object_id(shape, place), label_of(shape.get("label"), place)
            key = (object_id, label, n if object_id is None else 0)
            mask = _SHAPES[shape.tag](shape, size, place)
            shapes[key] = shapes[key] | mask if key in shapes else mask
        assert frame is not None
        found[frame] = [Label(object_id, label, mask) for (object_id, label, _), mask in shapes.items() if mask.any()]
    return found


def _root(storage: Storage, labels: ClipLabels) -> tuple[ET.Element, str]:
    path = f"{labels.clip_id}.xml"
    data = storage.read(path)
    if data is None:
        raise ValueError(f"{path} is missing")
    if len(data) > _MAX_BYTES or b"<!DOCTYPE" in data[:4096] or b"<!ENTITY" in data:
        raise ValueError(
            f"{path} is not an export of CVAT: it has a document type, or is larger than {_MAX_BYTES} bytes"
        )
    try:
        root = ET.fromstring(data)
    except ET.ParseError as error:
        line, column = error.position
        raise ValueError(f"{path} is not XML: it is damaged or ends at line {line}, column {column + 1}") from None
    except (ValueError, LookupError):
        raise ValueError(f"{path} is not XML: its encoding is unknown, or does not match its characters") from None
    if root.tag != "annotations":
        raise ValueError(f"{path} is not an export of CVAT: it begins with <{root.tag}>, not with <annotations>")
    return root, path


def _keyframe(box: ET.Element, where: str) -> Keyframe:
    corners = tuple(_number(box, name, where) for name in ("xtl", "ytl", "xbr", "ybr"))
    xmin, ymin, xmax, ymax = corners
    frame, shown = _number(box, "frame", where), box.get("outside", "0") != "1"
    if frame != int(frame) or frame < 0 or (shown and not (xmin < xmax and ymin < ymax)):
        raise ValueError(f"{where} is ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}) on frame {frame:g}; allowed: a box")
    return Keyframe(int(frame), (xmin, ymin, xmax, ymax), shown, set=box.get("keyframe", "1") == "1")


def _number(element: ET.Element, name: str, where: str) -> float:
    try:
        value = float(element.get(name, ""))
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:
        raise ValueError(f"{where}: {name} is {element.get(name)!r}; allowed: a number")
    return value


def _object_id(element: ET.Element, where: str) -> int | None:
    """The attribute `object_id` of the element or its first box, else `group_id`; 0 or none means a new object."""
    named: Iterator[ET.Element] = (each for each in element.iter("attribute") if each.get("name") == "object_id")
    first = next(named, None)
    text = (first.text if first is not None else element.get("group_id")) or "0"
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{where}: object_id is {text!r:.40}; allowed: whole numbers from 1, or 0 for new") from None
    return None if value == 0 else object_id_of(value, where)


def _mask(shape: ET.Element, size: tuple[int, int], where: str) -> np.ndarray:
    left, top, width, height = (int(_number(shape, name, where)) for name in ("left", "top", "width", "height"))
    try:
        runs = [int(part) for part in shape.get("rle", "").split(",")]
    except ValueError:
        raise ValueError(f"{where}: rle is not a list of numbers") from None
    inside = left >= 0 and top >= 0 and 0 < width <= size[1] - left and 0 < height <= size[0] - top
    if not inside or min(runs) < 0 or sum(runs) != width * height:
        raise ValueError(f"{where}: its run lengths do not fill {width}x{height} pixels at {left}, {top} in the image")
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(
        height, width
    )
    return mask


def _polygon(shape: ET.Element, size: tuple[int, int], where: str) -> np.ndarray:
    pairs = [part.split(",") for part in shape.get("points", "").split(";")]
    if any(len(pair) != 2 for pair in pairs) or len(pairs) < 3:
        raise ValueError(f"{where}: its points are not a polygon")
    return filled(points_of(pairs, where), size)


def _box(shape: ET.Element, size: tuple[int, int], where: str) -> np.ndarray:
    xmin, ymin, xmax, ymax = (_number(shape, name, where) for name in ("xtl", "ytl", "xbr", "ybr"))
    return filled(np.array([[xmin, ymin], [xmax, ymin], [xmax, ymax], [xmin, ymax]]), size)


_SHAPES = {"mask": _mask, "polygon": _polygon, "box": _box}
