"""Clips and annotation files for the store's tests."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sam3ray.annotations import AnnotationWriter, FileFacts, FrameAnnotations, ObjectAnnotation
from sam3ray.manifest import Clip
from sam3ray.masks import encode_masks

FINGERPRINT = {"schema_version": 1, "model": {"checkpoint": "embedded", "dtype": "float32"}, "prompts": ["red ball"]}
CONFIG = {"manifest": "clips.csv", "output": "out"}
HEIGHT, WIDTH = 48, 64


def clips(n: int) -> list[Clip]:
    return [
        Clip(f"clip-{i:03}", f"/videos/{i}.mp4", ("red ball", "blue box"), carried={"site": f"s{i % 3}"})
        for i in range(n)
    ]


def frames(seed: int, n: int, objects: int = 2) -> list[FrameAnnotations]:
    """Boxes of random size; none on every third frame."""
    rng = random.Random(seed)
    found = []
    for index in range(n):
        masks = np.zeros((objects, HEIGHT, WIDTH), dtype=bool)
        for mask in masks:
            y, x = rng.randrange(HEIGHT - 8), rng.randrange(WIDTH - 8)
            mask[y : y + rng.randrange(1, 9), x : x + rng.randrange(1, 9)] = True
        items = tuple(
            ObjectAnnotation(i + 1, ("red ball", "blue box")[i % 2], 0.5 + i / 10, rng.random(), e.bbox, e.area, e.rle)
            for i, e in enumerate(encode_masks(masks))
        )
        found.append(FrameAnnotations(index, index * 512, index / 25, HEIGHT, WIDTH, items if index % 3 else ()))
    return found


def write_clip(
    folder: str | os.PathLike[str],
    clip_id: str,
    seed: int = 0,
    n: int = 6,
    fingerprint: Mapping[str, object] = FINGERPRINT,
    model: Mapping[str, object] | None = None,
    **facts: object,
) -> tuple[Path, FileFacts]:
    """A finished annotation file on local disk."""
    path = Path(folder) / f"{clip_id}-{random.getrandbits(64):x}.parquet"
    metadata = {"fingerprint": fingerprint, "clip": {"uri": f"/videos/{clip_id}.mp4"}}
    metadata |= {"model": model or {}, "software": {}}
    writer = AnnotationWriter(path, clip_id, metadata)
    for frame in frames(seed, n):
        writer.write(frame)
    return path, writer.finish(**{"seconds": 1.5, "timings": {"decode": 0.5, "model": 1.0}, **facts})
