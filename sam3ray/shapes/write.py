"""Writes drawn clips: an H.264 video with its ground truth in the annotation schema; and the demo's clips.

A clip's truth is one Parquet file, written under a temporary name and then renamed. If the process dies, it exists
completely or not at all, and the next call draws the clip again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from sam3ray.masks import encode_masks
from sam3ray.store.annotation_file import AnnotationWriter
from sam3ray.values.annotations import TRUTH_SCHEMA, FrameAnnotations, ObjectAnnotation
from sam3ray.video import VideoWriter

from .draw import DrawnFrame, draw_clip
from .scene import GENERATOR_VERSION, ClipSpec, make_scene
from .words import COLOURS, SHAPES, matches, parse, phrases

_IDS_PER_PROMPT = 100  # the true id of object k for the p-th phrase is 100 p + k: unique across phrases


def annotate(
    spec: ClipSpec,
    prompts: Sequence[str],
    labels: dict[int, str] | None = None,
    frames: Iterator[DrawnFrame] | None = None,
) -> Iterator[FrameAnnotations]:
    """The true annotations of a clip for some phrases of the vocabulary, frame by frame.

    `visibility` is the object's visible share. An object of several phrases appears once for each. `labels` adds
    objects of visual prompts: object id in the clip -> label.

    Raises:
        ValueError: a phrase is not in the vocabulary (`sam3ray.shapes.parse`), but contains one of its words.
    """
    wanted: list[tuple[int, str, set[int]]] = []
    things = make_scene(spec).objects
    for position, prompt in enumerate(prompts):
        asked = parse(prompt)
        if asked is None and set(prompt.split()) & {*COLOURS, *SHAPES} and len(prompt.split()) < 2:
            raise ValueError(f"{prompt!r} is not a phrase of the drawn clips; see sam3ray.shapes.phrases")
        hits = {t.object_id for t in things if asked is not None and t.label and matches(*asked, t.label)}
        wanted.append((_IDS_PER_PROMPT * position, prompt, hits))
    for object_id, label in (labels or {}).items():
        wanted.append((_IDS_PER_PROMPT * len(wanted), label, {object_id}))
    time_base = Fraction(1, 90_000)
    for frame in frames if frames is not None else draw_clip(spec):
        present = [t.object_id for t in things if (frame.ids == t.object_id).any()]
        masks = np.stack([frame.mask(k) for k in present]) if present else np.zeros((0, *frame.ids.shape), bool)
        encoded = dict(zip(present, encode_masks(masks), strict=True))
        objects = tuple(
            ObjectAnnotation(
                object_id=first + k,
                prompt=prompt,
                score=1.0,
                track_score=1.0,
                bbox=tuple(float(v) for v in encoded[k].bbox),  # type: ignore[arg-type]
                area=encoded[k].area,
                rle=encoded[k].rle,
                visibility=frame.visible[k],
            )
            for first, prompt, hits in wanted
            for k in sorted(hits & encoded.keys())
        )
        pts = round(frame.index / spec.fps / time_base)
        yield FrameAnnotations(frame.index, pts, frame.index / spec.fps, spec.height, spec.width, objects)


def write_clip(
    spec: ClipSpec,
    video_path: str | os.PathLike[str],
    truth_path: str | os.PathLike[str] | None = None,
    prompts: Sequence[str] | None = None,
    labels: dict[int, str] | None = None,
) -> None:
    """Draws a clip into an MP4 file, and its truth into an annotation file. Existing files are replaced.

    `prompts` are the phrases of the truth (default: "colour shape" of the clip's objects). They are stored in the
    truth's metadata, so that an evaluation knows phrases without an object.
    """
    asked = list(prompts) if prompts is not None else clip_phrases(spec)
    video = Path(video_path)
    truth = Path(truth_path) if truth_path is not None else video.with_name(video.name + ".truth")
    partial_video, partial_truth = _partial(video), _partial(truth)
    rate = Fraction(spec.fps).limit_denominator(1001)
    facts = {
        "uri": str(video), "fps": spec.fps, "time_base": "1/90000", "prompts": [*asked, *(labels or {}).values()],
        "generator_version": GENERATOR_VERSION, "seed": spec.seed,
    }  # fmt: skip
    drawn: list[DrawnFrame] = []

    def tee() -> Iterator[DrawnFrame]:
        for frame in draw_clip(spec):
            drawn[:] = [frame]
            yield frame

    with (
        AnnotationWriter(partial_truth, truth.stem, {"clip": facts}, TRUTH_SCHEMA) as writer,
        VideoWriter(partial_video, spec.width, spec.height, Fraction(1, 90_000), rate) as encoder,
    ):
        for annotations in annotate(spec, asked, labels, tee()):
            writer.write(annotations)
            encoder.write(drawn[0].image, annotations.pts)
        writer.finish()
    os.replace(partial_video, video)
    if truth_path is None:
        partial_truth.unlink()
    else:
        os.replace(partial_truth, truth)


def clip_phrases(spec: ClipSpec) -> list[str]:
    """The usual phrase of each (colour, shape) in the clip, in the order of the objects."""
    return list(dict.fromkeys(phrases(*t.label)[0] for t in make_scene(spec).objects if t.label))


def _partial(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


# ---- the demo ---------------------------------------------------------------------------------------------------

#: (seed, width, height, frames, look, kind of prompt); the seeds are used nowhere else.
_DEMO = (
    (500_001, 640, 360, 60, "mixed", "each"),
    (500_002, 640, 360, 60, "mixed", "each"),
    (500_003, 480, 360, 48, "mixed", "absent"),
    (500_004, 640, 360, 72, "mixed", "shape"),
    (500_005, 1280, 720, 48, "plain", "each"),
    (500_006, 640, 360, 60, "mixed", "click"),
)


def demo_clips(folder: str | os.PathLike[str], n: int = len(_DEMO)) -> list[dict[str, Any]]:
    """Draws the demo's clips that do not exist yet, with their truth under `folder/truth/annotations`.

    Returns:
        Manifest rows: clip_id, uri, prompts and, for the last clip, visual_prompts (JSON of a click on one object).
    """
    place = Path(folder)
    rows = []
    for seed, width, height, frames, look, kind in _DEMO[:n]:
        spec = ClipSpec(seed=seed, width=width, height=height, frames=frames, objects=(3, 5), look=look)
        clip_id = f"shapes-{seed % 1000:03d}"
        video, truth = place / f"{clip_id}.mp4", place / "truth" / "annotations" / f"{clip_id}.parquet"
        prompts = clip_phrases(spec)
        row: dict[str, Any] = {"clip_id": clip_id, "uri": str(video)}
        labels = None
        if kind == "absent":
            prompts = [*prompts[:2], next(c for c in ("red star", "blue square") if c not in clip_phrases(spec))]
        elif kind == "shape":
            prompts = sorted({p.split()[1] for p in prompts})[:2]
        elif kind == "click":
            object_id, x, y = _clickable(spec)
            clicked = next(t.label for t in make_scene(spec).objects if t.object_id == object_id)
            labels = {object_id: "clicked object"}
            prompts = [p for p in prompts if clicked is None or p != phrases(*clicked)[0]][:2]
            row["visual_prompts"] = json.dumps(
                [
                    {
                        "points": [[x, y]],
                        "labels": [1],
                        "frame": 0,
                        "units": "pixels",
                        "object_id": 1,
                        "label": "clicked object",
                    }
                ]
            )
        row["prompts"] = prompts
        if not (video.exists() and truth.exists()):
            write_clip(spec, video, truth, prompts, labels)
        rows.append(row)
    return rows


def _clickable(spec: ClipSpec) -> tuple[int, float, float]:
    """The largest object of the first frame and a point well inside it, in pixels."""
    import cv2

    frame = next(draw_clip(spec))
    object_id = int(np.bincount(frame.ids[frame.ids > 0]).argmax())
    depth = cv2.distanceTransform(frame.mask(object_id).astype(np.uint8), cv2.DIST_L2, 3)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return object_id, float(x), float(y)
