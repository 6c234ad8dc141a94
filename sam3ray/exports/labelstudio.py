"""Label Studio: boxes on video, or brush masks frame by frame, as predictions to import.

`tasks/<clip_id>.json` is a list of tasks. `config.xml` is the labelling interface that shows them. Its names must
match those of the tasks, or Label Studio accepts the import and shows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from sam3ray.exports._folder import Folder
from sam3ray.exports._keyframes import keyframes, stretches
from sam3ray.exports._labels import ClipLabels
from sam3ray.exports._losses import Losses
from sam3ray.exports.coco import xywh
from sam3ray.masks import decode_rle
from sam3ray.values.annotations import ObjectAnnotation

MODEL = "sam3ray"
_RLE_SIZES = (3, 4, 8, 16)  # bits of the four sizes of run length


def write_video_clip(labels: ClipLabels, out: Folder) -> Losses:
    """One task with a region per object. Boxes are in percent, frames count from 1, `enabled: false` begins a gap."""
    regions, losses = [], Losses(times=0)
    count = (labels.frames[-1] + 1) if labels.frames else 0
    for object_id, track in labels.tracks.items():
        sequence = _sequence(labels, track)
        first = next(iter(track.values()))
        losses["keyframes"] += len(track) - len(sequence)
        losses["masks"] += len(track)
        losses["track_scores"] += len(track)
        regions.append(
            {
                "id": f"{labels.clip_id}-{object_id}",
                "from_name": "box",
                "to_name": "video",
                "type": "videorectangle",
                "origin": "prediction",
                "score": round(float(first.score), 6),
                "meta": {"text": [f"object {object_id}"]},
                "value": {
                    "framesCount": count,
                    "duration": count / labels.fps if labels.fps else float(count),
                    "labels": [first.prompt],
                    "sequence": sequence,
                },
            }
        )
    task = {
        "data": {"video": labels.uri, "clip_id": labels.clip_id},
        "predictions": [{"model_version": MODEL, "score": _mean_score(labels), "result": regions}],
    }
    out.json(f"tasks/{labels.clip_id}.json", [task])
    return losses


def write_brush_clip(labels: ClipLabels, out: Folder) -> Losses:
    """One task per frame, with a pixel-exact region per object."""
    tasks = []
    rows = 0
    for frame in labels.frames:
        regions = []
        for item in labels.objects.get(frame, ()):
            rows += 1
            mask = decode_rle(item.rle, labels.height, labels.width)
            regions.append(
                {
                    "id": f"{labels.clip_id}-{frame}-{item.object_id}",
                    "from_name": "brush",
                    "to_name": "image",
                    "type": "brushlabels",
                    "origin": "prediction",
                    "original_width": labels.width,
                    "original_height": labels.height,
                    "image_rotation": 0,
                    "score": round(float(item.score), 6),
                    "meta": {"text": [f"object {item.object_id}"]},
                    "value": {"format": "rle", "rle": brush_rle(mask), "brushlabels": [item.prompt]},
                }
            )
        tasks.append(
            {
                "data": {"image": labels.image_name(frame), "clip_id": labels.clip_id, "frame_index": frame},
                "predictions": [{"model_version": MODEL, "result": regions}],
            }
        )
    out.json(f"tasks/{labels.clip_id}.json", tasks)
    return Losses(track_scores=rows, tracks=len(labels.tracks))


def video_config(categories: Mapping[str, int]) -> str:
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in categories)
    return (
        '<View>\n  <Video name="video" value="$video"/>\n'
        '  <VideoRectangle name="box" toName="video"/>\n'
        f'  <Labels name="labels" toName="video">\n{labels}  </Labels>\n</View>\n'
    )


def brush_config(categories: Mapping[str, int]) -> str:
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in categories)
    return (
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <BrushLabels name="brush" toName="image">\n{labels}  </BrushLabels>\n</View>\n'
    )


def brush_rle(mask: np.ndarray) -> list[int]:
    """A mask as Label Studio's run lengths: a bit stream over RGBA bytes, row by row, opaque white inside.

    The stream has the number of bytes (32 bits), the width of a value less one (5 bits), and four widths of run
    lengths less one (4 bits each). Then, per run: 1 if one value is repeated (else 0), the index of the width (2 bits),
    the length less one, and the value or values (8 bits each).
    """
    flat = np.repeat(mask.reshape(-1).astype(np.uint8) * 255, 4)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate(([0], changes))
    lengths = np.diff(np.concatenate((starts, [len(flat)])))
    bits = [f"{len(flat):032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in _RLE_SIZES)]
    longest = 1 << _RLE_SIZES[-1]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = f"{flat[start]:08b}"
        while length:
            run = min(length, longest)
            kind = next(n for n, size in enumerate(_RLE_SIZES) if run <= 1 << size)
            bits.append(f"1{kind:02b}{run - 1:0{_RLE_SIZES[kind]}b}{value}")
            length -= run
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[n : n + 8], 2) for n in range(0, len(text), 8)]


def _sequence(labels: ClipLabels, track: Mapping[int, ObjectAnnotation]) -> list[dict[str, Any]]:
    places = [labels.place[frame] for frame in track]
    frames = list(track)
    entries: list[dict[str, Any]] = []
    for first, last in stretches(places):
        start, stop = places.index(first), places.index(last) + 1
        part = frames[start:stop]
        boxes = np.array([track[frame].bbox for frame in part], dtype=np.float64)
        kept = keyframes(part, boxes)
        for n in kept:
            frame = part[n]
            x, y, width, height = xywh(track[frame])
            entries.append(
                {
                    "frame": frame + 1,
                    "time": labels.time_of(frame),
                    "x": 100 * x / labels.width,
                    "y": 100 * y / labels.height,
                    "width": 100 * width / labels.width,
                    "height": 100 * height / labels.height,
                    "rotation": 0,
                    "enabled": n != kept[-1],
                }
            )
    return entries


def _mean_score(labels: ClipLabels) -> float:
    scores = [float(next(iter(track.values())).score) for track in labels.tracks.values()]
    return round(sum(scores) / len(scores), 6) if scores else 0.0
