"""LabelMe and X-AnyLabeling: one JSON beside each image.

LabelMe has exact masks: a PNG of the box in base64, with inclusive maxima of the corners. X-AnyLabeling has polygons
that follow pixel edges, with holes joined by a cut: exact in rasterisers like COCO's. Both keep `group_id`, which is
the object's id, and unknown keys.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from sam3ray.exports._folder import Folder
from sam3ray.exports._labels import ClipLabels
from sam3ray.exports._losses import Losses
from sam3ray.exports._pixels import crop_of
from sam3ray.exports._polygons import edge_polygons
from sam3ray.exports.mots import png
from sam3ray.values.annotations import ObjectAnnotation

_LABELME_VERSION = "6.3.1"
_XANYLABELING_VERSION = "4.2.1"


def write_labelme_clip(labels: ClipLabels, out: Folder) -> Losses:
    for frame in labels.frames:
        shapes = [_mask_shape(labels, item) for item in labels.objects.get(frame, ())]
        out.json(labels.image_name(frame, ".json"), _document(labels, frame, shapes, _LABELME_VERSION))
    return Losses()


def write_xanylabeling_clip(labels: ClipLabels, out: Folder) -> Losses:
    for frame in labels.frames:
        shapes = [shape for item in labels.objects.get(frame, ()) for shape in _polygon_shapes(labels, item)]
        out.json(labels.image_name(frame, ".json"), _document(labels, frame, shapes, _XANYLABELING_VERSION))
    return Losses()


def _document(labels: ClipLabels, frame: int, shapes: list[dict[str, Any]], version: str) -> dict[str, Any]:
    return {
        "version": version,
        "flags": {},
        "shapes": shapes,
        "imagePath": labels.image_name(frame).rpartition("/")[2],
        "imageData": None,
        "imageHeight": labels.height,
        "imageWidth": labels.width,
        "sam3ray": {"clip_id": labels.clip_id, "frame_index": frame},
    }


def _common(item: ObjectAnnotation) -> dict[str, Any]:
    return {
        "label": item.prompt,
        "group_id": item.object_id,
        "description": "",
        "flags": {},
        "score": round(float(item.score), 6),
        "attributes": {"track_score": round(float(item.track_score), 6)},
    }


def _mask_shape(labels: ClipLabels, item: ObjectAnnotation) -> dict[str, Any]:
    crop = crop_of(item, labels.height, labels.width)
    height, width = crop.pixels.shape
    mask = base64.b64encode(png(crop.pixels.astype(np.uint8) * 255)).decode("ascii")
    points = [[crop.left, crop.top], [crop.left + width - 1, crop.top + height - 1]]
    return {**_common(item), "shape_type": "mask", "points": points, "mask": mask}


def _polygon_shapes(labels: ClipLabels, item: ObjectAnnotation) -> list[dict[str, Any]]:
    polygons = edge_polygons(crop_of(item, labels.height, labels.width))
    return [
        {**_common(item), "shape_type": "polygon", "points": [list(point) for point in polygon], "difficult": False}
        for polygon in polygons
    ]
