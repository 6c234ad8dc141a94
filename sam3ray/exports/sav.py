"""SA-V: `<clip_id>_auto.json`, a mask of every object on every exported frame, empty if the object is not visible."""

from __future__ import annotations

import numpy as np

from sam3ray.exports._folder import Folder
from sam3ray.exports._keyframes import stretches
from sam3ray.exports._labels import ClipLabels
from sam3ray.exports._losses import Losses
from sam3ray.masks import encode_masks

_SMALL, _MEDIUM = 32**2, 96**2


def write_clip(labels: ClipLabels, out: Folder) -> Losses:
    tracks = labels.tracks
    size = [labels.height, labels.width]
    empty = encode_masks(np.zeros((1, labels.height, labels.width), bool))[0].rle
    areas = [float(np.mean([item.area for item in track.values()])) for track in tracks.values()]
    places = [[labels.place[frame] for frame in track] for track in tracks.values()]
    count = len(labels.frames)
    pixels = labels.height * labels.width
    rows = sum(map(len, tracks.values()))
    out.json(
        f"{labels.clip_id}_auto.json",
        {
            "video_id": labels.clip_id,
            "video_duration": (labels.frames[-1] + 1) / labels.fps if labels.frames and labels.fps else float(count),
            "video_frame_count": float(labels.frames[-1] + 1) if labels.frames else 0.0,
            "video_height": float(labels.height),
            "video_width": float(labels.width),
            "video_resolution": float(pixels),
            "video_environment": "",
            "video_split": "",
            "masklet": [
                [{"size": size, "counts": track[frame].rle if frame in track else empty} for track in tracks.values()]
                for frame in labels.frames
            ],
            "masklet_id": [object_id - 1 for object_id in tracks],
            "masklet_size_rel": [area / pixels for area in areas],
            "masklet_size_abs": areas,
            "masklet_size_bucket": [_bucket(area) for area in areas],
            "masklet_visibility_changes": [_changes(seen, count) for seen in places],
            "masklet_first_appeared_frame": [float(seen[0]) for seen in places],
            "masklet_frame_count": [count] * len(tracks),
            "masklet_edited_frame_count": [0] * len(tracks),
            "masklet_type": ["auto"] * len(tracks),
            "masklet_stability_score": [None] * len(tracks),
            "masklet_num": len(tracks),
            "masklet_label": [next(iter(track.values())).prompt for track in tracks.values()],
            "frame_index": list(labels.frames),
        },
    )
    return Losses(scores=rows, track_scores=rows)


def _bucket(area: float) -> str:
    return "small" if area < _SMALL else "medium" if area < _MEDIUM else "large"


def _changes(seen: list[int], count: int) -> int:
    """How often the object disappears or reappears after its first appearance."""
    runs = stretches(seen)
    return 2 * (len(runs) - 1) + (runs[-1][1] < count - 1)
