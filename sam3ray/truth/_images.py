"""Datasets of PNGs: DAVIS, whose pixels are object numbers, and SA-V's, with one folder of masks per object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from sam3ray.masks import encode_masks
from sam3ray.truth._values import Found, Reading, TrueClip, masks_of, true_object
from sam3ray.values.annotations import ObjectAnnotation

_DAVIS_ROOTS = tuple(
    f"{kind}/{size}" for kind in ("Annotations", "Annotations_unsupervised") for size in ("480p", "Full-Resolution")
)
_DAVIS_FPS = 24.0
_VOID = 255  # pixels that DAVIS does not label


def read_davis(reading: Reading) -> Iterator[Found]:
    """Reads palette images, one number per object; all objects have one label, because DAVIS has none."""
    root = next((root for root in (*_DAVIS_ROOTS, "Annotations", "") if _sequences(reading, root)), None)
    if root is None:
        raise ValueError("it has neither Annotations/480p/<sequence>/00000.png nor <sequence>/00000.png")
    for name in _sequences(reading, root):
        yield name, partial(_davis_clip, reading, name, f"{root}/{name}".lstrip("/"))


def _sequences(reading: Reading, root: str) -> list[str]:
    folders = reading.folders(root)
    return folders if any(reading.files(f"{root}/{name}".lstrip("/"), ".png") for name in folders[:1]) else []


def _davis_clip(reading: Reading, name: str, folder: str) -> TrueClip:
    files = reading.files(folder, ".png")
    if not files:
        raise ValueError(f"{folder} holds no PNG")
    height, width = reading.pixels(f"{folder}/{files[0]}").shape
    frames = _davis_frames(reading, folder, files, (height, width))
    return TrueClip(name, height, width, reading.indices(name, files), (reading.label,), frames, _DAVIS_FPS)


def _davis_frames(
    reading: Reading, folder: str, files: Sequence[str], size: tuple[int, int]
) -> Iterator[list[ObjectAnnotation]]:
    for file in files:
        pixels = sized(reading.pixels(f"{folder}/{file}"), size, f"{folder}/{file}")
        yield [true_object(n, reading.label, mask) for n, mask in masks_of(pixels, file, (0, _VOID))]


def sized(pixels: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """The image, if it has the size of the first; else raises ValueError."""
    if pixels.shape != size:
        raise ValueError(f"{where} has {pixels.shape[1]}x{pixels.shape[0]} pixels, the first {size[1]}x{size[0]}")
    return pixels


def read_object_folders(reading: Reading, root: str) -> Iterator[Found]:
    """`<root>/<video>/<object>/<frame number>.png`: SA-V's validation and test sets."""
    for name in reading.folders(root):
        yield name, partial(_folders_clip, reading, name, f"{root}/{name}")


def _folders_clip(reading: Reading, name: str, folder: str) -> TrueClip:
    images: dict[str, list[tuple[int, str]]] = {}
    objects = reading.folders(folder)
    for place, object_name in enumerate(objects):
        number = int(object_name) if object_name.isdecimal() and len(object_name) < 9 else place
        for file in reading.files(f"{folder}/{object_name}", ".png"):
            images.setdefault(file, []).append((number + 1, f"{folder}/{object_name}/{file}"))
    files = sorted(images)
    if not files:
        raise ValueError(f"{folder} holds no <object>/<frame>.png")
    height, width = reading.pixels(images[files[0]][0][1]).shape
    frames = (sorted_objects(reading, images[file], (height, width)) for file in files)
    numbered = Reading(reading.storage, None, reading.label, True)  # file names are frame numbers of the video
    return TrueClip(name, height, width, numbered.indices(name, files), (reading.label,), frames, 6.0)


def sorted_objects(reading: Reading, paths: Sequence[tuple[int, str]], size: tuple[int, int]) -> list[ObjectAnnotation]:
    """The objects of a frame, from one image each, which is non-zero on the object."""
    found = []
    for object_id, path in sorted(paths):
        mask = encode_masks(sized(reading.pixels(path), size, path)[None] > 0)[0]
        if mask.area:
            found.append(true_object(object_id, reading.label, mask))
    return found
