"""COCO instance segmentation: one JSON per clip, images named `<clip_id>/<frame index>.jpg`.

Masks are compressed RLE, exact. `score`, `track_score` and `track_id` are next to COCO's own keys, and again under
`attributes`, because some readers keep only that.
"""

from __future__ import annotations

from typing import Any

from sam3ray.exports._folder import Folder
from sam3ray.exports._labels import ROW_STRIDE, ClipLabels
from sam3ray.exports._losses import Losses
from sam3ray.values.annotations import ObjectAnnotation


def write_clip(labels: ClipLabels, out: Folder) -> Losses:
    images, annotations = [], []
    row = (labels.number - 1) * ROW_STRIDE
    for frame in labels.frames:
        image: dict[str, Any] = {
            "id": labels.image_id(frame),
            "file_name": labels.image_name(frame),
            "height": labels.height,
            "width": labels.width,
            "video": labels.clip_id,
            "frame_index": frame,
            "time_s": labels.time_of(frame),
        }
        images.append(image)
        for item in labels.objects.get(frame, ()):
            row += 1
            annotations.append(_annotation(labels, item, row, image["id"]))
    out.json(
        f"annotations/{labels.clip_id}.json",
        {
            "info": {"description": f"clip {labels.clip_id}"},
            "images": images,
            "annotations": annotations,
            "categories": categories_of(labels),
        },
    )
    return Losses()


def _annotation(labels: ClipLabels, item: ObjectAnnotation, number: int, image_id: int) -> dict[str, Any]:
    extras = {
        "track_id": item.object_id,
        "score": round(float(item.score), 6),
        "track_score": round(float(item.track_score), 6),
    }
    return {
        "id": number,
        "image_id": image_id,
        "category_id": labels.categories[item.prompt],
        "segmentation": {"size": [labels.height, labels.width], "counts": item.rle},
        "area": item.area,
        "bbox": xywh(item),
        "iscrowd": 0,
        **extras,
        "attributes": extras,
    }


def categories_of(labels: ClipLabels) -> list[dict[str, Any]]:
    return [{"id": number, "name": label} for label, number in labels.categories.items()]


def xywh(item: ObjectAnnotation) -> list[int]:
    xmin, ymin, xmax, ymax = (int(v) for v in item.bbox)
    return [xmin, ymin, xmax - xmin, ymax - ymin]
