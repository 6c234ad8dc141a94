"""DAVIS 2017: palette PNGs, ids from 1 without gaps, one object per pixel."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import islice

import numpy as np
from PIL import Image

from sam3ray.exports._folder import Folder
from sam3ray.exports._labels import ClipLabels, Written
from sam3ray.exports._losses import Losses
from sam3ray.exports._pixels import paint, with_number

MOST_OBJECTS = 254  # readers of DAVIS treat 255 as void


def palette() -> list[int]:
    """The colours of PASCAL VOC: the bits of a number, spread over three channels, highest first."""
    colours = []
    for value in range(256):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= ((value >> (3 * bit + channel)) & 1) << (7 - bit)
        colours += channels
    return colours


def ids(labels: ClipLabels) -> dict[int, int]:
    """Object id -> its number in the images, for the first `MOST_OBJECTS` objects."""
    return {object_id: n for n, object_id in enumerate(islice(labels.tracks, MOST_OBJECTS), 1)}


def write_clip(labels: ClipLabels, out: Folder) -> Losses:
    """`Annotations/480p/<clip_id>/<n>.png`, n counting exported frames from 0, at the size of the video."""
    numbers = ids(labels)
    rows = sum(map(len, labels.tracks.values()))
    losses = Losses(
        times=len(labels.frames),
        labels=rows,
        scores=rows,
        track_scores=rows,
        renumbered=sum(a != b for a, b in numbers.items()),
        left_out=len(labels.tracks) - len(numbers),
    )
    colours = palette()
    for place, frame in enumerate(labels.frames):
        objects = with_number(labels.objects.get(frame, ()), numbers)
        painted = paint(objects, labels.height, labels.width)
        values = np.array([0, *(numbers[item.object_id] for item in objects)], np.uint8)
        losses["overlap_pixels"] += painted.lost
        losses["hidden_objects"] += len(objects) + 1 - len(np.union1d(np.unique(painted.canvas), [0]))
        image = Image.fromarray(values[painted.canvas], mode="P")
        image.putpalette(colours)
        data = io.BytesIO()
        image.save(data, "PNG")
        out.bytes(f"Annotations/480p/{labels.clip_id}/{place:05d}.png", data.getvalue())
    return losses


def write_dataset(clips: Sequence[Written], out: Folder) -> None:
    names = "".join(f"{clip.clip_id}\n" for clip in clips)
    out.text("ImageSets/2017/val.txt", names)
    out.text("ImageSets/480p/val.txt", names)
