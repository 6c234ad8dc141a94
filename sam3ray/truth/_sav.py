"""SA-V: `<video>_manual.json` or `<video>_auto.json`, a list of masks for each labelled frame; or folders of PNGs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from sam3ray.truth._images import read_object_folders
from sam3ray.truth._values import (
    Found,
    Reading,
    TrueClip,
    frame_numbers,
    phrase,
    read_mask,
    size_of,
    true_object,
    whole,
)
from sam3ray.values.annotations import ObjectAnnotation

_FOLDERS = ("Annotations_6fps", "sav_val/Annotations_6fps", "sav_test/Annotations_6fps")
_STEP = 4  # 24 frames per second, labelled at 6


def read_sav(reading: Reading) -> Iterator[Found]:
    """Manual masklets if there are any, otherwise the automatic ones."""
    if reading.file is not None:
        yield _stem(reading.file), partial(_clip, reading, reading.file)
        return
    files = {_stem(name): name for suffix in ("_auto.json", "_manual.json") for name in reading.files("", suffix)}
    if not files:
        root = next((root for root in _FOLDERS if reading.folders(root)), None)
        if root is None:
            raise ValueError(f"it has no <video>_manual.json, no <video>_auto.json and no {_FOLDERS[0]}/")
        yield from read_object_folders(reading, root)
    for name in sorted(files):
        yield name, partial(_clip, reading, files[name])


def _stem(name: str) -> str:
    return name.removesuffix(".json").removesuffix("_auto").removesuffix("_manual")


def _clip(reading: Reading, path: str) -> TrueClip:
    value = reading.json(path)
    name = phrase(value.get("video_id"), f"{path}: 'video_id'")
    size = size_of(value, path, ("video_height", "video_width"))
    masklets, ids = value.get("masklet"), value.get("masklet_id")
    if not isinstance(masklets, list) or not all(isinstance(each, list) for each in masklets):
        raise ValueError(f"{path}: 'masklet' is not a list of lists")
    if not isinstance(ids, list) or len(set(map(str, ids))) != len(ids):
        raise ValueError(f"{path}: 'masklet_id' is not a list of different numbers")
    object_ids = [whole(n, 0, 2**31 - 2, f"{path}: a masklet's id") + 1 for n in ids]
    labels = value.get("masklet_label")
    if labels is None:
        labels = [reading.label] * len(ids)
    if not isinstance(labels, list) or len(labels) != len(ids):
        raise ValueError(f"{path}: 'masklet_label' needs one entry for each masklet")
    labels = [phrase(label, f"{path}: a masklet's label") for label in labels]
    frames = []
    for place, masks in enumerate(masklets):
        if len(masks) != len(ids):
            raise ValueError(f"{path}, frame {place}: {len(masks)} masks of {len(ids)} masklets")
        found: list[ObjectAnnotation] = []
        for object_id, label, each in zip(object_ids, labels, masks, strict=True):
            mask = read_mask(each, size, f"{path}, frame {place}")
            if mask is not None:
                found.append(true_object(object_id, label, mask))
        frames.append(found)
    asked = tuple(dict.fromkeys(labels)) or (reading.label,)
    return TrueClip(name, *size, _indices(value, len(frames), path), asked, frames)


def _indices(value: Any, count: int, path: str) -> tuple[int, ...]:
    if value.get("frame_index") is not None:
        return frame_numbers(value["frame_index"], count, path)
    total = whole(value.get("video_frame_count", count), 0, 10_000_000, f"{path}: 'video_frame_count'")
    step = 1 if total <= count else _STEP
    return tuple(range(0, step * count, step))
