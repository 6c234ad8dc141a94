"""Reads corrected tracks of masks: YouTube-VIS, SA-Co/VEval and SA-V."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sam3ray.exports._labels import ClipLabels
from sam3ray.exports._reading import (
    Found,
    json_object,
    label_of,
    list_of,
    mask_of,
    name_of,
    names_of,
    object_id_of,
)
from sam3ray.revisions import Label
from sam3ray.store.storage import Storage


def read_vis(storage: Storage, labels: ClipLabels) -> Found:
    """Reads `annotations/<clip_id>.json`. A track without our `track_id` is a new object.

    Raises:
        ValueError: the file is missing or damaged, or has another number of frames.
    """
    path, size = f"annotations/{labels.clip_id}.json", (labels.height, labels.width)
    value = json_object(storage, path)
    names = names_of(value, path)
    found: Found = {frame: [] for frame in labels.frames}
    for n, track in enumerate(list_of(value, "annotations", path), 1):
        where = f"{path}, annotation {n}"
        if not isinstance(track, Mapping):
            raise ValueError(f"{where} is not a mapping")
        object_id = object_id_of(track.get("track_id"), where)
        phrase = track.get("noun_phrase")
        label = name_of(track.get("category_id"), names, where) if phrase is None else label_of(phrase, where)
        for frame, mask in zip(labels.frames, _as_long(track, "segmentations", labels, where), strict=True):
            if mask is None:
                continue
            pixels = mask_of(mask, size, f"{where}, frame {frame}")
            if pixels.any():
                found[frame].append(Label(-n if object_id is None else object_id, label, pixels))
    return found


def read_sav(storage: Storage, labels: ClipLabels) -> Found:
    """Reads `<clip_id>_auto.json`: the masks of every frame in the order of `masklet_id`.

    Raises:
        ValueError: the file is missing or damaged, or has another number of frames or objects.
    """
    path, size = f"{labels.clip_id}_auto.json", (labels.height, labels.width)
    value = json_object(storage, path)
    ids = list_of(value, "masklet_id", path)
    names = value.get("masklet_label")
    if not isinstance(names, list) or len(names) != len(ids):
        raise ValueError(f"{path}: masklet_label must have one label for each masklet_id")
    if not all(type(number) is int and number >= 0 for number in ids):
        raise ValueError(f"{path}: masklet_id is {ids!r:.80}; allowed: whole numbers from 0")
    found: Found = {}
    for frame, masks in zip(labels.frames, _as_long(value, "masklet", labels, path), strict=True):
        if not isinstance(masks, list) or len(masks) != len(ids):
            raise ValueError(f"{path}, frame {frame}: it must have one mask for each masklet_id")
        found[frame] = []
        for number, name, mask in zip(ids, names, masks, strict=True):
            where = f"{path}, frame {frame}, masklet {number}"
            pixels = mask_of(mask, size, where)
            if pixels.any():
                found[frame].append(Label(object_id_of(number + 1, where), label_of(name, where), pixels))
    return found


def _as_long(value: Mapping[str, Any], key: str, labels: ClipLabels, where: str) -> list[Any]:
    """Returns the list if it has an entry for each exported frame."""
    found = list_of(value, key, where)
    if len(found) != len(labels.frames):
        raise ValueError(f"{where}: {key} has {len(found)} entries, and {len(labels.frames)} frames were exported")
    return found
