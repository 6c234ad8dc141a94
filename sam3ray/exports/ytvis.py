"""YouTube-VIS, and SA-Co/VEval, which adds phrases to it.

`annotations/<clip_id>.json` is ground truth, `results/<clip_id>.json` a list of predictions. A track has one score,
that of its first detection. Ground truth of YouTube-VIS has run lengths as lists, which its evaluators require. Ground
truth of SA-Co and both kinds of results have compressed ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sam3ray.exports._folder import Folder
from sam3ray.exports._labels import IMAGE_STRIDE, ClipLabels
from sam3ray.exports._losses import Losses
from sam3ray.exports.coco import categories_of, xywh
from sam3ray.masks import rle_counts
from sam3ray.values.annotations import ObjectAnnotation


def write_clip(labels: ClipLabels, out: Folder) -> Losses:
    return _write(labels, out, saco=False)


def write_saco_clip(labels: ClipLabels, out: Folder) -> Losses:
    return _write(labels, out, saco=True)


def _write(labels: ClipLabels, out: Folder, *, saco: bool) -> Losses:
    video: dict[str, Any] = {
        "id": labels.number,
        "file_names": [labels.image_name(frame) for frame in labels.frames],
        "height": labels.height,
        "width": labels.width,
        "length": len(labels.frames),
    }
    if saco:
        video |= {"video_name": labels.clip_id, "fps": labels.fps}
    annotations, results = [], []
    for n, (object_id, track) in enumerate(labels.tracks.items(), 1):
        first = next(iter(track.values()))
        category = labels.categories[first.prompt]
        compressed = _per_frame(labels, track, _compressed)
        boxes = [xywh(track[frame]) if frame in track else None for frame in labels.frames]
        areas = [track[frame].area if frame in track else None for frame in labels.frames]
        annotation = {
            "id": (labels.number - 1) * IMAGE_STRIDE + n,
            "video_id": labels.number,
            "category_id": category,
            "iscrowd": 0,
            "height": labels.height,
            "width": labels.width,
            "length": len(labels.frames),
            "segmentations": compressed if saco else _per_frame(labels, track, _counted),
            "bboxes": boxes,
            "areas": areas,
            "track_id": object_id,
        }
        annotations.append(annotation | ({"noun_phrase": first.prompt} if saco else {}))
        results.append(
            {
                "video_id": labels.number,
                "category_id": category,
                "score": round(float(first.score), 6),
                "segmentations": compressed,
                "bboxes": boxes,
                "areas": areas,
            }
        )
    truth: dict[str, Any] = {
        "info": {"description": f"clip {labels.clip_id}"},
        "videos": [video],
        "annotations": annotations,
        "categories": categories_of(labels),
    }
    if saco:
        truth["video_np_pairs"] = _pairs(labels)
    out.json(f"annotations/{labels.clip_id}.json", truth)
    out.json(f"results/{labels.clip_id}.json", results)
    rows = sum(map(len, labels.tracks.values()))
    return Losses(track_scores=rows, scores=rows - len(labels.tracks), times=len(labels.frames))


def _pairs(labels: ClipLabels) -> list[dict[str, Any]]:
    """Every phrase of the clip, including those without an object."""
    counts = dict.fromkeys(labels.asked, 0)
    for track in labels.tracks.values():
        label = next(iter(track.values())).prompt
        counts[label] = counts.get(label, 0) + 1
    return [
        {
            "id": (labels.number - 1) * IMAGE_STRIDE + labels.categories[label],
            "video_id": labels.number,
            "category_id": labels.categories[label],
            "noun_phrase": label,
            "num_masklets": count,
        }
        for label, count in counts.items()
    ]


def _per_frame(labels: ClipLabels, track: Mapping[int, ObjectAnnotation], encode: Any) -> list[Any]:
    return [encode(track[frame], labels) if frame in track else None for frame in labels.frames]


def _compressed(item: ObjectAnnotation, labels: ClipLabels) -> dict[str, Any]:
    return {"size": [labels.height, labels.width], "counts": item.rle}


def _counted(item: ObjectAnnotation, labels: ClipLabels) -> dict[str, Any]:
    counts = rle_counts(item.rle, labels.height, labels.width).tolist()
    return {"size": [labels.height, labels.width], "counts": counts}
