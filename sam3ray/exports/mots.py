"""Multi-object tracking and segmentation: text of KITTI MOTS and MOTSChallenge, and PNGs of instances.

All three allow one object per pixel, have no scores, and number objects `class * 1000 + n`. The text formats have two
classes; all objects get the class pedestrian (2). The PNGs have a class for each label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import cv2
import numpy as np

from sam3ray.exports._folder import Folder
from sam3ray.exports._labels import ClipLabels, Written
from sam3ray.exports._losses import Losses
from sam3ray.exports._pixels import paint, with_number
from sam3ray.exports.mot import seqinfo
from sam3ray.masks import encode_masks

_PER_CLASS = 1000
_PEDESTRIAN = 2
_MOST_CLASSES = 64  # 16 bits


def text_ids(labels: ClipLabels) -> dict[int, int]:
    """Object id -> its id in the text, for the first 999 objects."""
    return {
        object_id: _PEDESTRIAN * _PER_CLASS + n for n, object_id in enumerate(islice(labels.tracks, _PER_CLASS - 1), 1)
    }


def png_ids(labels: ClipLabels) -> dict[int, int]:
    """Object id -> its value in the images: class * 1000 + its number within its label, from 1 by ascending id.

    Objects beyond the 999th of a label, or of a label beyond the 64th, have no value, because images have 16 bits.
    """
    counts: dict[str, int] = {}
    numbers = {}
    for object_id, track in labels.tracks.items():
        label = next(iter(track.values())).prompt
        counts[label] = counts.get(label, 0) + 1
        if counts[label] < _PER_CLASS and labels.categories[label] <= _MOST_CLASSES:
            numbers[object_id] = labels.categories[label] * _PER_CLASS + counts[label]
    return numbers


def write_challenge_clip(labels: ClipLabels, out: Folder) -> Losses:
    """`<clip_id>/gt/gt.txt`, frames from 1, and `seqinfo.ini`."""
    text, losses = _text(labels, first_frame=1)
    out.text(f"{labels.clip_id}/gt/gt.txt", text)
    out.text(f"{labels.clip_id}/seqinfo.ini", seqinfo(labels))
    return losses


def write_kitti_clip(labels: ClipLabels, out: Folder) -> Losses:
    """`instances_txt/<number>.txt`, frames from 0. KITTI's readers need sequences that are numbered from 0000."""
    text, losses = _text(labels, first_frame=0)
    out.text(f"instances_txt/{labels.number - 1:04d}.txt", text)
    return losses


def write_kitti_dataset(clips: Sequence[Written], out: Folder) -> None:
    """The sequence map of TrackEval, and a list of the sequences' clips."""
    lines = [f"{clip.number - 1:04d} empty 000000 {clip.frames:06d}\n" for clip in clips]
    out.text("val.seqmap", "".join(lines))
    out.text("sequences.txt", "".join(f"{clip.number - 1:04d} {clip.clip_id}\n" for clip in clips))


def write_challenge_dataset(clips: Sequence[Written], out: Folder) -> None:
    out.text("seqmaps.txt", "name\n" + "".join(f"{clip.clip_id}\n" for clip in clips))


def _text(labels: ClipLabels, first_frame: int) -> tuple[str, Losses]:
    numbers = text_ids(labels)
    losses = _losses(labels, numbers)
    lines = []
    for place, frame in enumerate(labels.frames):
        objects = with_number(labels.objects.get(frame, ()), numbers)
        if not objects:
            continue
        painted = paint(objects, labels.height, labels.width)
        losses["overlap_pixels"] += painted.lost
        losses["scores"] += len(objects)
        losses["track_scores"] += len(objects)
        masks = encode_masks(painted.canvas[None] == np.arange(1, len(objects) + 1)[:, None, None])
        for item, mask in zip(objects, masks, strict=True):
            if mask.area == 0:
                losses["hidden_objects"] += 1
                continue
            found = numbers[item.object_id]
            lines.append(f"{place + first_frame} {found} {_PEDESTRIAN} {labels.height} {labels.width} {mask.rle}\n")
    if len({next(iter(track.values())).prompt for track in labels.tracks.values()}) > 1:
        losses["labels"] += sum(map(len, labels.tracks.values()))
    return "".join(lines), losses


def write_png_clip(labels: ClipLabels, out: Folder) -> Losses:
    """`<clip_id>/instances/<frame index>.png`, 16 bit, and `labels.txt`: class n is line n, 0 the background."""
    numbers = png_ids(labels)
    losses = _losses(labels, numbers)
    out.text(f"{labels.clip_id}/instances/labels.txt", "".join(f"{name}\n" for name in labels.categories))
    for frame in labels.frames:
        objects = with_number(labels.objects.get(frame, ()), numbers)
        painted = paint(objects, labels.height, labels.width)
        losses["overlap_pixels"] += painted.lost
        losses["scores"] += len(objects)
        losses["track_scores"] += len(objects)
        values = np.array([0, *(numbers[item.object_id] for item in objects)], np.uint16)
        hidden = len(objects) + 1 - len(np.union1d(np.unique(painted.canvas), [0]))
        losses["hidden_objects"] += hidden
        out.bytes(f"{labels.clip_id}/instances/{frame:06d}.png", png(values[painted.canvas]))
    return losses


def _losses(labels: ClipLabels, numbers: Mapping[int, int]) -> Losses:
    return Losses(
        times=len(labels.frames),
        renumbered=sum(object_id != number % _PER_CLASS for object_id, number in numbers.items()),
        left_out=len(labels.tracks) - len(numbers),
    )


def png(pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", pixels)
    assert done
    return data.tobytes()
