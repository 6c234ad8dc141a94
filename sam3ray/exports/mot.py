"""MOT: boxes as text, frames and corners from 1. `gt/gt.txt` is ground truth, `det/results.txt` has scores."""

from __future__ import annotations

from collections.abc import Sequence

from sam3ray.exports._folder import Folder
from sam3ray.exports._labels import ClipLabels, Written
from sam3ray.exports._losses import Losses
from sam3ray.exports.coco import xywh


def write_clip(labels: ClipLabels, out: Folder) -> Losses:
    truth, results = [], []
    for place, frame in enumerate(labels.frames, 1):
        for item in labels.objects.get(frame, ()):
            x, y, width, height = xywh(item)
            box = f"{place},{item.object_id},{x + 1},{y + 1},{width},{height}"
            truth.append(f"{box},1,{labels.categories[item.prompt]},1\n")
            results.append(f"{box},{item.score:.6f},-1,-1,-1\n")
    out.text(f"{labels.clip_id}/gt/gt.txt", "".join(truth))
    out.text(f"{labels.clip_id}/gt/labels.txt", "".join(f"{name}\n" for name in labels.categories))
    out.text(f"{labels.clip_id}/det/results.txt", "".join(results))
    out.text(f"{labels.clip_id}/seqinfo.ini", seqinfo(labels))
    return Losses(masks=len(truth), track_scores=len(truth), times=len(labels.frames))


def write_dataset(clips: Sequence[Written], out: Folder) -> None:
    out.text("seqmaps.txt", "name\n" + "".join(f"{clip.clip_id}\n" for clip in clips))


def seqinfo(labels: ClipLabels) -> str:
    lines = [
        "[Sequence]",
        f"name={labels.clip_id}",
        "imDir=img1",
        f"frameRate={round(labels.fps or 0) or 1}",
        f"seqLength={len(labels.frames)}",
        f"imWidth={labels.width}",
        f"imHeight={labels.height}",
        "imExt=.jpg",
    ]
    return "\n".join(lines) + "\n"
