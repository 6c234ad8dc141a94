"""Reads corrections in formats with one object per pixel: DAVIS and MOTS.

If masks overlapped in the export, the lower one lost pixels. So a mask counts as changed only if it differs from the
exported pixels; otherwise the object keeps its row, including covered pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np

from sam3ray.exports import davis, mots
from sam3ray.exports._labels import ClipLabels
from sam3ray.exports._pixels import paint, with_number
from sam3ray.exports._reading import Found
from sam3ray.masks import decode_rle
from sam3ray.revisions import Label
from sam3ray.store.storage import Storage

_PER_CLASS = 1000
_MAX_PNG_BYTES = 64 * 2**20

Masks = Mapping[int, np.ndarray]  # the tool's number -> pixels


def read_davis(storage: Storage, labels: ClipLabels) -> Found:
    """Reads `Annotations/480p/<clip_id>/<n>.png`. A number that was not exported is a new object, with the clip's only
    label, or with the label `object` if there are several.

    Raises:
        ValueError: an image is missing, damaged, or of another size.
    """
    numbers = davis.ids(labels)

    def masks(place: int) -> Masks:
        return _instances(storage, f"Annotations/480p/{labels.clip_id}/{place:05d}.png", labels)

    return _compared(labels, numbers, masks, lambda _: _only_label(labels))


def read_mots_png(storage: Storage, labels: ClipLabels) -> Found:
    """Reads `<clip_id>/instances/<frame>.png`, with the class and number of each pixel.

    Raises:
        ValueError: an image is missing or damaged, of another size, or has a class that was not exported.
    """
    numbers = mots.png_ids(labels)
    names = {number: name for name, number in labels.categories.items()}

    def masks(place: int) -> Masks:
        return _instances(storage, f"{labels.clip_id}/instances/{labels.frames[place]:06d}.png", labels)

    def label_of(number: int) -> str:
        if number // _PER_CLASS not in names:
            raise ValueError(f"class {number // _PER_CLASS} is not in labels.txt")
        return names[number // _PER_CLASS]

    return _compared(labels, numbers, masks, label_of)


def read_mots_challenge(storage: Storage, labels: ClipLabels) -> Found:
    """Reads `<clip_id>/gt/gt.txt`, with lines of `frame id class height width rle`."""
    return _read_text(storage, f"{labels.clip_id}/gt/gt.txt", labels, first_frame=1)


def read_mots_kitti(storage: Storage, labels: ClipLabels) -> Found:
    """Reads `instances_txt/<number>.txt`, with lines of `frame id class height width rle`."""
    return _read_text(storage, f"instances_txt/{labels.number - 1:04d}.txt", labels, first_frame=0)


def _read_text(storage: Storage, path: str, labels: ClipLabels, first_frame: int) -> Found:
    """Reads lines of `frame id class height width rle`.

    Raises:
        ValueError: the file is missing, or a line is damaged or has another size or frame.
    """
    data = storage.read(path)
    if data is None:
        raise ValueError(f"{path} is missing")
    numbers = mots.text_ids(labels)
    lines: dict[int, dict[int, np.ndarray]] = {}
    for n, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip():
            continue
        parts = line.split()
        if len(parts) != 6 or not all(part.isdecimal() for part in parts[:5]):
            raise ValueError(f"{path}, line {n} is {line!r:.80}; allowed: frame, id, class, height, width, run lengths")
        try:
            frame, number, _, height, width = map(int, parts[:5])
            (rle,) = parts[5:]
            place = frame - first_frame
            if (height, width) != (labels.height, labels.width) or not 0 <= place < len(labels.frames):
                raise ValueError(f"frame {frame} of {width}x{height} pixels was not exported")
            if number in lines.setdefault(place, {}):
                raise ValueError(f"object {number} appears twice on frame {frame}")
            lines[place][number] = decode_rle(rle, height, width)
        except ValueError as error:
            raise ValueError(f"{path}, line {n}: {' '.join(str(error).split())}") from None
    ignored = 10 * _PER_CLASS
    shown = {
        place: {number: mask for number, mask in each.items() if number < ignored} for place, each in lines.items()
    }
    return _compared(labels, numbers, lambda place: shown.get(place, {}), lambda _: _only_label(labels))


def _only_label(labels: ClipLabels) -> str:
    """The label of a new object in a format without labels: known only if the clip has one phrase."""
    return labels.asked[0] if len(labels.asked) == 1 else "object"


def _compared(
    labels: ClipLabels,
    numbers: Mapping[int, int],
    masks: Callable[[int], Masks],
    label_of: Callable[[int], str],
) -> Found:
    """The imported labels, by frame.

    Args:
        numbers: object id -> its number in the export. Objects without one were not exported, and stay unchanged.
        masks: returns the pixels of each number at a place among the exported frames.
        label_of: returns the label of a new object from its number.
    """
    ids = {number: object_id for object_id, number in numbers.items()}
    tracks = labels.tracks
    found: Found = {}
    for place, frame in enumerate(labels.frames):
        objects = with_number(labels.objects.get(frame, ()), numbers)
        canvas = paint(objects, labels.height, labels.width).canvas
        held = {item.object_id: (n, item) for n, item in enumerate(objects, 1)}
        came = masks(place)
        found[frame] = [
            Label(item.object_id, item.prompt, item)
            for item in labels.objects.get(frame, ())
            if item.object_id not in numbers
        ]
        for number, mask in came.items():
            object_id = ids.get(number)
            if object_id is None:
                found[frame].append(Label(-number, label_of(number), mask))
                continue
            label = next(iter(tracks[object_id].values())).prompt
            if object_id in held:
                n, item = held[object_id]
                label = item.prompt
                if np.array_equal(canvas == n, mask):
                    found[frame].append(Label(object_id, label, item))
                    continue
            found[frame].append(Label(object_id, label, mask))
        for object_id, (n, item) in held.items():  # completely covered in the export, so it cannot be in the import
            if numbers[object_id] not in came and not (canvas == n).any():
                found[frame].append(Label(object_id, item.prompt, item))
    return found


def _instances(storage: Storage, path: str, labels: ClipLabels) -> dict[int, np.ndarray]:
    from PIL import Image

    data = storage.read(path)
    if data is None:
        raise ValueError(f"{path} is missing")
    try:
        with Image.open(io.BytesIO(data[:_MAX_PNG_BYTES]), formats=["PNG"]) as image:
            if (image.height, image.width) != (labels.height, labels.width):
                raise ValueError(f"{path} has {image.width}x{image.height} pixels, not {labels.width}x{labels.height}")
            if image.mode not in ("P", "L", "I", "I;16"):
                raise ValueError(f"{path} has the channels {image.mode}; allowed: one")
            values = np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError(f"{path} is not a PNG") from None
    return {int(number): values == number for number in np.unique(values) if number}
