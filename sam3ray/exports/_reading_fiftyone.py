"""Reads corrected detections from FiftyOne.

Export the dataset from FiftyOne (`dataset.export(export_dir=".../corrected",
dataset_type=fo.types.FiftyOneDataset, export_media=False)`) into the folder `corrected` of our export. Without that
folder, `frames/<clip_id>.json` are read, in case you edited the files directly.
"""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from sam3ray.exports._labels import ClipLabels
from sam3ray.exports._reading import Found, json_object, label_of, list_of, object_id_of
from sam3ray.exports.fiftyone import FIELD
from sam3ray.revisions import Label
from sam3ray.store.storage import Storage

CORRECTED = "corrected"
_MAX_MASK_BYTES = 2**28


def read_fiftyone(storage: Storage, labels: ClipLabels) -> Found:
    """Reads detections by frame. A detection without a mask covers its whole box.

    Raises:
        ValueError: a file is missing or damaged, a detection is outside the frame, or a frame was not exported.
    """
    found: Found = {}
    for number, value, where in _frames(storage, labels.clip_id):
        frame = number - 1
        if frame not in labels.place:
            raise ValueError(f"{where}: frame {number} was not exported; frames count from 1")
        field = value.get(FIELD)
        detections = list_of(field, "detections", where) if isinstance(field, Mapping) else []
        found[frame] = []
        for n, each in enumerate(detections, 1):
            place = f"{where}, frame {number}, detection {n}"
            if not isinstance(each, Mapping):
                raise ValueError(f"{place} is not a mapping")
            mask = _mask(each, labels, place)
            if mask.any():
                label = label_of(each.get("label"), place)
                found[frame].append(Label(object_id_of(each.get("index"), place), label, mask))
    return found


def _frames(storage: Storage, clip_id: str) -> list[tuple[int, Mapping[str, Any], str]]:
    """(number from 1, frame, file) of one clip."""
    if not storage.exists(f"{CORRECTED}/samples.json"):
        path = f"frames/{clip_id}.json"
        frames = json_object(storage, path).get("frames")
        if not isinstance(frames, Mapping) or not all(str(key).isdecimal() for key in frames):
            raise ValueError(f"{path}: frames is not a mapping of frame numbers")
        return [(int(key), _mapping(value, path), path) for key, value in frames.items()]
    path = f"{CORRECTED}/samples.json"
    samples = [_mapping(each, path) for each in list_of(json_object(storage, path), "samples", path)]
    ids = {_oid(each.get("_id")) for each in samples if each.get("clip_id") == clip_id} - {None}
    path = f"{CORRECTED}/frames.json"
    found = []
    for value in list_of(json_object(storage, path), "frames", path):
        frame = _mapping(value, path)
        if _oid(frame.get("_sample_id")) in ids:
            number = frame.get("frame_number")
            if type(number) is not int:
                raise ValueError(f"{path}: frame_number is {number!r:.40}; allowed: whole numbers from 1")
            found.append((number, frame, path))
    return found


def _mask(detection: Mapping[str, Any], labels: ClipLabels, where: str) -> np.ndarray:
    box = detection.get("bounding_box")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) and abs(v) < 1e6 for v in box):
        raise ValueError(f"{where}: bounding_box is {box!r:.80}; allowed: x, y, width, height as fractions")
    left, top = round(box[0] * labels.width), round(box[1] * labels.height)
    right, bottom = round((box[0] + box[2]) * labels.width), round((box[1] + box[3]) * labels.height)
    mask = np.zeros((labels.height, labels.width), bool)
    data = detection.get("mask")
    if data is None:
        mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
        return mask
    pixels = _unpacked(data, where)
    height, width = pixels.shape
    if left < 0 or top < 0 or left + width > labels.width or top + height > labels.height:
        raise ValueError(f"{where}: its mask of {width}x{height} pixels at {left}, {top} lies outside the frame")
    mask[top : top + height, left : left + width] = pixels
    return mask


def _unpacked(value: Any, where: str) -> np.ndarray:
    inner = value.get("$binary") if isinstance(value, Mapping) else None
    text = inner.get("base64") if isinstance(inner, Mapping) else value
    try:
        if not isinstance(text, str):
            raise ValueError
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(text, validate=True), _MAX_MASK_BYTES)
        pixels = np.load(io.BytesIO(data), allow_pickle=False)
        if pixels.ndim != 2 or pixels.dtype.kind not in "bui" or inflate.unconsumed_tail:
            raise ValueError
    except (ValueError, OSError, EOFError, zlib.error, binascii.Error, SyntaxError, MemoryError):
        raise ValueError(f"{where}: its mask is not an array of pixels") from None
    found: np.ndarray = pixels != 0
    return found


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path}: {value!r:.40} is not a mapping")
    return value


def _oid(value: Any) -> str | None:
    inner = value.get("$oid") if isinstance(value, Mapping) else value
    return inner if isinstance(inner, str) else None
