"""YOLO segmentation for Ultralytics: one text file per image, polygons in fractions of the image.

Ultralytics truncates `x * width` to a pixel and also draws the outline, so points are the centres of border pixels. A
line is one polygon, so further parts of a mask become separate lines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sam3ray.exports._folder import Folder
from sam3ray.exports._labels import ClipLabels, Written
from sam3ray.exports._losses import Losses
from sam3ray.exports._pixels import crop_of
from sam3ray.exports._polygons import centre_polygons

_LEAST_POINTS = 3


def write_clip(labels: ClipLabels, out: Folder) -> Losses:
    losses = Losses(times=len(labels.frames))
    for frame in labels.frames:
        lines = []
        for item in labels.objects.get(frame, ()):
            losses["scores"] += 1
            losses["track_scores"] += 1
            number = labels.categories[item.prompt] - 1
            polygons = centre_polygons(crop_of(item, labels.height, labels.width))
            written = 0
            for polygon in polygons:
                # A part of one or two pixels repeats its points, so that the reader does not drop the line.
                points = polygon if len(polygon) >= _LEAST_POINTS else (polygon * _LEAST_POINTS)[:_LEAST_POINTS]
                numbers = " ".join(f"{(x + 0.5) / labels.width:.6f} {(y + 0.5) / labels.height:.6f}" for x, y in points)
                lines.append(f"{number} {numbers}\n")
                written += 1
            losses["split"] += written - 1
        out.text(f"labels/{labels.image_name(frame, '.txt')}", "".join(lines))
    return losses


def write_dataset(clips: Sequence[Written], categories: Mapping[str, int], out: Folder) -> None:
    names = "".join(
        f"  {number - 1}: {json.dumps(label, ensure_ascii=False)}\n" for label, number in categories.items()
    )
    # Without `path`, Ultralytics uses the file's own folder; `.` would be the working directory.
    out.text("data.yaml", f"train: images\nval: images\nnames:\n{names}")
