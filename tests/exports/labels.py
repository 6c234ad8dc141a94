"""A run with everything that formats stumble over: holes, parts, thin lines, overlaps, gaps, late starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sam3ray.annotations import AnnotationWriter, FrameAnnotations, ObjectAnnotation
from sam3ray.manifest import Clip
from sam3ray.masks import encode_masks
from sam3ray.store import RunStore

HEIGHT, WIDTH, FRAMES = 96, 128, 6
PROMPTS = ("ring", "two words", "absent")
FINGERPRINT = {"schema_version": 1, "model": {"checkpoint": "embedded"}}


def mask_of(object_id: int, frame: int) -> np.ndarray | None:
    """1 is a ring with a lone pixel in its hole, drifting. 2 is two bars, one a pixel wide, from frame 1 on, gone on
    frame 3. 1203 is a block over part of the ring, on frame 2 alone."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    if object_id == 1:
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        distance = np.hypot(y - 40, x - 40 - frame)
        mask |= (distance < 20) & (distance > 9)
        mask[40, 40 + frame] = True
    elif object_id == 2 and frame >= 1 and frame != 3:
        mask[70 : 75 + frame, 60:90] = True
        mask[80:95, 5] = True
    elif object_id == 1203 and frame == 2:
        mask[30:60, 30:50] = True
    return mask if mask.any() else None


def annotations() -> list[FrameAnnotations]:
    frames = []
    for frame in range(FRAMES):
        items = []
        for object_id, prompt, score in ((1, "ring", 0.9), (2, "two words", 0.6), (1203, "ring", 0.75)):
            mask = mask_of(object_id, frame)
            if mask is not None:
                found = encode_masks(mask[None])[0]
                box = tuple(float(v) for v in found.bbox)
                items.append(ObjectAnnotation(object_id, prompt, score, 0.5 + frame / 20, box, found.area, found.rle))  # type: ignore[arg-type]
        frames.append(FrameAnnotations(frame, frame * 512, frame / 25, HEIGHT, WIDTH, tuple(items)))
    return frames


def make_run(
    folder: Path,
    clip_ids: tuple[str, ...] = ("a-clip", "empty"),
    uris: Mapping[str, str] | None = None,
) -> RunStore:
    """A finished run; the clip "empty" has no objects."""
    store = RunStore(str(folder / "run"))
    clips = [Clip(clip_id, (uris or {}).get(clip_id, f"/videos/{clip_id}.mp4"), PROMPTS) for clip_id in clip_ids]
    store.create_or_open(FINGERPRINT, {"manifest": "clips.csv", "output": str(folder / "run")}, clips)
    for clip in clips:
        path = folder / f"{clip.clip_id}.parquet"
        facts = {"uri": clip.uri, "source_fps": 25.0, "time_base": "1/12800", "height": HEIGHT, "width": WIDTH}
        with AnnotationWriter(path, clip.clip_id, {"fingerprint": FINGERPRINT, "clip": facts}) as writer:
            for frame in annotations():
                objects = () if clip.clip_id == "empty" else frame.objects
                writer.write(FrameAnnotations(frame.frame_index, frame.pts, frame.time_s, HEIGHT, WIDTH, objects))
            writer.finish(seconds=1.0)
        assert store.commit(clip.clip_id, path)
    return store
