"""Reads corrected JSON from Label Studio.

Put the project's JSON export (with any number of clips) into the folder `corrected` of our export. For each task, the
last annotation that was not cancelled counts; a task without one was not reviewed. Without that folder, our own
`tasks/<clip_id>.json` are read, including predictions, in case you edited the files directly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sam3ray.exports._labels import ClipLabels
from sam3ray.exports._reading import Found, json_value, label_of, object_id_of
from sam3ray.exports._reading_boxes import Keyframe, Track, found_boxes
from sam3ray.revisions import Label
from sam3ray.store.storage import Storage

CORRECTED = "corrected"
_META = re.compile(r"object ([0-9]{1,10})", re.ASCII)

Region = Mapping[str, Any]


def read_labelstudio_video(storage: Storage, labels: ClipLabels) -> Found:
    """Reads regions that are boxes over time.

    Raises:
        ValueError: a file is damaged, or a region of the clip is.
    """
    tracks: list[Track] = []
    looked_at = False
    for regions, where in _tasks(storage, labels.clip_id, None):
        looked_at = True
        for n, region in enumerate(regions, 1):
            if region.get("type") == "videorectangle":
                tracks.append(_track(region, labels, -n, f"{where}, region {n}"))
    return found_boxes(labels, tracks) if looked_at else {}


def read_labelstudio_brush(storage: Storage, labels: ClipLabels) -> Found:
    """Reads regions of pixels, with one task per frame.

    Raises:
        ValueError: a file is damaged, or a region of the clip is damaged or has another size.
    """
    found: Found = {}
    for frame in labels.frames:
        for regions, where in _tasks(storage, labels.clip_id, frame):
            found[frame] = [
                _brush(region, labels, f"{where}, frame {frame}, region {n}")
                for n, region in enumerate(regions, 1)
                if region.get("type") == "brushlabels"
            ]
            found[frame] = [label for label in found[frame] if isinstance(label.mask, np.ndarray) and label.mask.any()]
    return found


def _tasks(storage: Storage, clip_id: str, frame: int | None) -> list[tuple[list[Region], str]]:
    """The regions of the clip's reviewed tasks."""
    names = sorted(name for name in storage.names(CORRECTED) if name.endswith(".json"))
    paths = [f"{CORRECTED}/{name}" for name in names] or [f"tasks/{clip_id}.json"]
    found = []
    for path in paths:
        for task in _file(storage, path):
            data = task.get("data")
            if not isinstance(data, Mapping) or data.get("clip_id") != clip_id:
                continue
            if frame is not None and data.get("frame_index") != frame:
                continue
            regions = _regions(task, own=not names)
            if regions is not None:
                found.append((regions, path))
    return found[-1:]


def _regions(task: Mapping[str, Any], *, own: bool) -> list[Region] | None:
    """The regions of the last annotation that counts; in our own files, those of the prediction."""
    made = [each for each in _mappings(task.get("annotations")) if not each.get("was_cancelled")]
    if not made and own:
        made = _mappings(task.get("predictions"))
    return _mappings(made[-1].get("result")) if made else None


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _file(storage: Storage, path: str) -> list[Mapping[str, Any]]:
    value = json_value(storage, path)
    if not isinstance(value, list):
        raise ValueError(f"{path} is not a list of tasks; export the project as JSON, not as JSON-MIN")
    return _mappings(value)


def _track(region: Region, labels: ClipLabels, new: int, where: str) -> Track:
    value = region.get("value")
    sequence = value.get("sequence") if isinstance(value, Mapping) else None
    if not isinstance(sequence, list) or not sequence:
        raise ValueError(f"{where} has no sequence")
    keyframes = [_keyframe(entry, labels, where) for entry in sequence]
    frames = [each.frame for each in keyframes]
    if sorted(set(frames)) != frames:
        raise ValueError(f"{where}: its frames are not in order")
    made = []
    for entry, keyframe in zip(sequence, keyframes, strict=True):
        made.append(keyframe)
        # `enabled: false` means that the box ends with this frame.
        if entry.get("enabled") is False and keyframe.frame + 1 not in frames:
            made.append(Keyframe(keyframe.frame + 1, keyframe.box, shown=False))
    number = _number_of(region, where)
    return Track(new if number is None else number, _label(value, "labels", where), tuple(made))


def _keyframe(entry: Any, labels: ClipLabels, where: str) -> Keyframe:
    try:
        frame = int(entry["frame"]) - 1
        x, y, width, height = (float(entry[name]) / 100 for name in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: {entry!r:.80} is not a position; allowed: frame, x, y, width and height") from None
    if frame < 0 or not all(abs(v) < 1e6 for v in (x, y, width, height)) or width <= 0 or height <= 0:
        raise ValueError(f"{where}: frame {frame + 1} or its box is out of range; frames count from 1")
    w, h = labels.width, labels.height
    return Keyframe(frame, (x * w, y * h, (x + width) * w, (y + height) * h))


def _brush(region: Region, labels: ClipLabels, where: str) -> Label:
    value = region.get("value")
    rle = value.get("rle") if isinstance(value, Mapping) else None
    size = region.get("original_height"), region.get("original_width")
    if size != (labels.height, labels.width):
        raise ValueError(f"{where} has {size[1]}x{size[0]} pixels, not {labels.width}x{labels.height}")
    if not isinstance(rle, list) or not all(type(n) is int and 0 <= n < 256 for n in rle):
        raise ValueError(f"{where} has no rle")
    mask = brush_mask(rle, labels.height, labels.width, where)
    return Label(_number_of(region, where), _label(value, "brushlabels", where), mask)


def _label(value: Any, key: str, where: str) -> str:
    names = value.get(key) if isinstance(value, Mapping) else None
    return label_of(names[0] if isinstance(names, list) and names else None, where)


def _number_of(region: Region, where: str) -> int | None:
    """The id in the region's meta text, which our export wrote and people can change."""
    meta = region.get("meta")
    texts = meta.get("text") if isinstance(meta, Mapping) else None
    for text in texts if isinstance(texts, list) else [texts]:
        if isinstance(text, str) and (named := _META.fullmatch(text.strip())):
            return object_id_of(int(named[1]), where)
    return None


def brush_mask(data: Sequence[int], height: int, width: int, where: str = "the mask") -> np.ndarray:
    """The mask in Label Studio's run lengths (see `labelstudio.brush_rle`): all pixels that are not transparent.

    Raises:
        ValueError: they do not fill the image.
    """
    bits = np.unpackbits(np.array(data, np.uint8))
    weights = 1 << np.arange(31, -1, -1, dtype=np.int64)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        part = bits[place : place + count]
        if len(part) < count:
            raise ValueError(f"{where}: its run lengths end early")
        place += count
        return int(part @ weights[32 - count :])

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    if total != height * width * 4 or word != 8:
        raise ValueError(f"{where}: its run lengths have {total} values; allowed: {height * width * 4}, of 8 bits")
    values = np.zeros(total, np.uint8)
    at = 0
    while at < total:
        same, size = take(1), sizes[take(2)]
        length = min(take(size) + 1, total - at)
        if same:
            values[at : at + length] = take(8)
        else:
            part = bits[place : place + 8 * length]
            if len(part) < 8 * length:
                raise ValueError(f"{where}: its run lengths end early")
            values[at : at + length] = np.packbits(part)
            place += 8 * length
        at += length
    mask: np.ndarray = values.reshape(height, width, 4)[..., 3] > 0
    return mask
