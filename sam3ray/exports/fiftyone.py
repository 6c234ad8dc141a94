"""FiftyOne: a dataset of videos with detections and masks on each frame.

`samples.json` and `metadata.json` with `frames/<clip_id>.json`, which `fiftyone.types.FiftyOneDataset` reads. FiftyOne
only opens videos on local disks.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from sam3ray.exports._folder import Folder
from sam3ray.exports._labels import ClipLabels, Written
from sam3ray.exports._losses import Losses
from sam3ray.exports._pixels import crop_of
from sam3ray.exports.coco import xywh
from sam3ray.values.annotations import ObjectAnnotation

FIELD = "detections"


def write_clip(labels: ClipLabels, out: Folder) -> Losses:
    """`frames/<clip_id>.json`; frames count from 1, boxes are fractions, masks fill their boxes."""
    frames = {}
    for frame in labels.frames:
        found = [_detection(labels, item) for item in labels.objects.get(frame, ())]
        frames[str(frame + 1)] = {
            "frame_number": frame + 1,
            "time_s": labels.time_of(frame),
            FIELD: {"_cls": "Detections", "detections": found},
        }
    out.json(f"frames/{labels.clip_id}.json", {"frames": frames})
    return Losses()


def write_dataset(clips: Sequence[Written], out: Folder) -> None:
    samples = [
        {"filepath": clip.uri, "_media_type": "video", "clip_id": clip.clip_id, "frames": f"frames/{clip.clip_id}.json"}
        for clip in clips
    ]
    out.json("metadata.json", {"media_type": "video", "info": {"by": "sam3ray"}})
    out.json("samples.json", {"samples": samples})


def _detection(labels: ClipLabels, item: ObjectAnnotation) -> dict[str, Any]:
    x, y, width, height = xywh(item)
    return {
        "_cls": "Detection",
        "label": item.prompt,
        "bounding_box": [x / labels.width, y / labels.height, width / labels.width, height / labels.height],
        "mask": {"$binary": {"base64": packed(crop_of(item, labels.height, labels.width).pixels), "subType": "00"}},
        "confidence": round(float(item.score), 6),
        "index": item.object_id,
        "track_score": round(float(item.track_score), 6),
    }


def packed(pixels: np.ndarray) -> str:
    """An array as FiftyOne stores it: NumPy's own file, deflated, in base64."""
    data = io.BytesIO()
    np.save(data, pixels, allow_pickle=False)
    return base64.b64encode(zlib.compress(data.getvalue())).decode("ascii")
