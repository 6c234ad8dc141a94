"""Evaluates a checkpoint on drawn clips not used for training, with transformers' pipeline or the engine.

Seeds 900,000 to 939,999 are reserved for this. Training starts at 10,000,000; the demo uses 500,001 to 500,999.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sam3ray.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.evaluate import Report, evaluate, merge
from sam3ray.masks import decode_rle, encode_masks
from sam3ray.shapes import COLOURS, SHAPES, ClipSpec, DrawnFrame, annotate, draw_clip, make_scene, phrases
from sam3ray.video import Frame

FIRST_SEED = 900_000
SIZES = ((320, 240), (426, 240), (240, 240))
WELL = 0.75  # an object with at least this J counts as followed well
KINDS = (
    "one prompt",
    "several prompts",
    "shape alone",
    "other look",
    "click",
    "two clicks",
    "click off",
    "box",
    "mask",
)


@dataclass(frozen=True)
class Case:
    """One clip with its prompts: phrases, or a prompt of this `kind` for an object to follow from frame 0."""

    spec: ClipSpec
    prompts: tuple[str, ...]
    kind: str

    @property
    def is_visual(self) -> bool:
        return not self.prompts


def cases(kind: str, clips: int, frames: int = 48, first: int = FIRST_SEED) -> list[Case]:
    """The clips of one line of the table, the same at each call. `first` changes their seeds."""
    found = []
    for i in range(clips):
        width, height = (1280, 720) if kind == "other look" and i % 2 else SIZES[i % len(SIZES)]
        spec = ClipSpec(
            first + 40 * KINDS.index(kind) + i,
            width,
            height,
            frames,
            objects=(2, 5),
            look="plain" if kind == "other look" else "mixed",
        )
        found.append(Case(spec, _asked(spec, kind), kind))
    return found


def _asked(spec: ClipSpec, kind: str) -> tuple[str, ...]:
    labels = list(dict.fromkeys(t.label for t in make_scene(spec).objects if t.label))
    rng = np.random.default_rng([spec.seed, 3])
    labels = [labels[i] for i in rng.permutation(len(labels))]
    if kind == "one prompt" or kind == "other look":
        return (phrases(*labels[0])[0],)
    if kind == "shape alone":
        return (labels[0][1],)
    if kind == "several prompts":
        others = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in labels]
        absent = others[int(rng.integers(len(others)))]
        return tuple(phrases(*label)[0] for label in [*labels[:2], absent])
    return ()


def run_case(case: Case, predict: Callable[[Case, list[DrawnFrame]], list[FrameAnnotations]]) -> tuple[Report, float]:
    """Compares one clip with the truth, and measures the prediction's seconds per frame."""
    drawn = list(draw_clip(case.spec))
    labels = {_followed(drawn[0]): "object"} if case.is_visual else None
    truth = list(annotate(case.spec, case.prompts, labels, iter(drawn)))
    start = time.perf_counter()
    predicted = predict(case, drawn)
    seconds = (time.perf_counter() - start) / len(drawn)
    prompts = list(case.prompts) or ["object"]
    return evaluate(predicted, truth, prompts, clip_id=str(case.spec.seed)), seconds


def table_line(kind: str, clips: int, predict: Any, frames: int = 48, first: int = FIRST_SEED) -> dict[str, Any]:
    """One line of the table, with the figures over all clips of a kind."""
    reports, seconds = zip(*(run_case(case, predict) for case in cases(kind, clips, frames, first)), strict=True)
    merged = merge(reports)
    total = merged.overall
    each = [j for comparison in merged.comparisons for j, _ in comparison.objects]
    line = {
        "prompts": kind,
        "clips": clips,
        "recall": total.recall,
        "precision": total.precision,
        "IoU": total.mean_iou,
        "J": total.j,
        "F": total.f,
        "objects": len(each),
        f"J >= {WELL}": sum(j >= WELL for j in each),
        "switches per 1,000": total.switches_per_1000,
        "HOTA": total.hota,
        "IDF1": total.idf1,
        "absent": total.absent_rate,
        "ms per frame": 1000 * float(np.median(seconds)),
    }
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in line.items()}


def _followed(frame: DrawnFrame) -> int:
    """The object for visual prompts: the most visible one among the larger half on frame 0."""
    areas = {k: int(frame.mask(k).sum()) for k in frame.visible}
    large = sorted(areas, key=lambda k: -areas[k])[: max(1, (len(areas) + 1) // 2)]
    return max(large, key=lambda k: (frame.visible[k], areas[k]))


def _prompt(case: Case, frame: DrawnFrame) -> dict[str, Any]:
    """The prompt as points and labels, box, or mask, in pixels of the frame."""
    import cv2

    mask = frame.mask(_followed(frame))
    rows, columns = np.nonzero(mask)
    if case.kind == "mask":
        return {"mask": mask}
    if case.kind == "box":
        return {"box": [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]}
    rng = np.random.default_rng([case.spec.seed, 4])
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    inner = np.argwhere(depth >= 0.5 * depth.max())
    points = [inner[int(rng.integers(len(inner)))]]
    labels = [1]
    if case.kind == "two clicks":
        points.append(inner[int(rng.integers(len(inner)))])
        labels.append(1)
    if case.kind == "click off":
        away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
        ring = np.argwhere((away > 0.03 * mask.shape[0]) & (away < 0.1 * mask.shape[0]))
        points.append(ring[int(rng.integers(len(ring)))])
        labels.append(0)
    return {"points": [[float(x) + 0.5, float(y) + 0.5] for y, x in points], "labels": labels}


def through_transformers(folder: str, *, untrained_tracker: bool = False) -> Any:
    """Predictions by the unmodified `Sam3VideoModel` and `Sam3TrackerVideoModel`, float32."""
    from transformers import Sam3TrackerVideoModel, Sam3TrackerVideoProcessor, Sam3VideoModel, Sam3VideoProcessor

    model = Sam3VideoModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor = Sam3VideoProcessor.from_pretrained(folder)
    tracker = Sam3TrackerVideoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tracker_processor = Sam3TrackerVideoProcessor(processor.image_processor, processor.video_processor)
    if untrained_tracker:
        from .layout import initialise

        fresh = Sam3VideoModel(model.config)
        initialise(fresh, 0)
        model.tracker_model.load_state_dict(fresh.tracker_model.state_dict())

    def predict(case: Case, drawn: list[DrawnFrame]) -> list[FrameAnnotations]:
        video = [frame.image for frame in drawn]
        if case.is_visual:
            return list(_follow(tracker, tracker_processor, case, drawn, video))
        session = processor.init_video_session(video=video, dtype=torch.float32)
        processor.add_text_prompt(session, list(case.prompts))
        frames = []
        for output in model.propagate_in_video_iterator(session):
            found = processor.postprocess_outputs(session, output)
            of = {int(k): prompt for prompt, ids in found["prompt_to_obj_ids"].items() for k in ids}
            ids = [int(k) for k in found["object_ids"]]
            masks = found["masks"].numpy()
            frames.append(_frame(case.spec, output.frame_idx, ids, [of[k] for k in ids], masks))
        return frames

    return predict


def _follow(
    model: Any, processor: Any, case: Case, drawn: list[DrawnFrame], video: list[np.ndarray]
) -> Iterator[FrameAnnotations]:
    session = processor.init_video_session(video=video, dtype=torch.float32)
    prompt = _prompt(case, drawn[0])
    given: dict[str, Any] = {}
    if "mask" in prompt:
        given["input_masks"] = prompt["mask"]
    elif "box" in prompt:
        given["input_boxes"] = [[prompt["box"]]]
    else:
        given |= {"input_points": [[prompt["points"]]], "input_labels": [[prompt["labels"]]]}
    processor.add_inputs_to_inference_session(
        session, frame_idx=0, obj_ids=[1], original_size=(case.spec.height, case.spec.width), **given
    )
    model(session, frame_idx=0)
    for output in model.propagate_in_video_iterator(session, start_frame_idx=0):
        size = [[case.spec.height, case.spec.width]]
        masks = processor.post_process_masks([output.pred_masks], original_sizes=size, binarize=True)[0][:, 0].numpy()
        yield _frame(case.spec, output.frame_idx, [1], ["object"], masks)


def _frame(
    spec: ClipSpec, index: int, ids: Sequence[int], prompts: Sequence[str], masks: np.ndarray
) -> FrameAnnotations:
    encoded = encode_masks(masks)
    objects = [
        ObjectAnnotation(k + 1, prompt, 1.0, 1.0, tuple(float(v) for v in e.bbox), e.area, e.rle)  # type: ignore[arg-type]
        for k, prompt, e in zip(ids, prompts, encoded, strict=True)
        if e.area
    ]
    return FrameAnnotations(index, index, index / spec.fps, spec.height, spec.width, tuple(objects))


class _Drawn:
    """Drawn frames in the form in which the engine reads a clip's frames."""

    def __init__(self, spec: ClipSpec, drawn: list[DrawnFrame]) -> None:
        self.height, self.width = spec.height, spec.width
        self._frames = [Frame(f.index, f.index, f.index / spec.fps, np.ascontiguousarray(f.image)) for f in drawn]

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        return iter(self._frames[start:stop])


def through_engine(folder: str) -> Any:
    """Predictions by `sam3ray.segment.Segmenter`, float32."""
    from sam3ray.config import ModelConfig
    from sam3ray.prompts import BoxPrompt, MaskPrompt, PointPrompt
    from sam3ray.segment import Segmenter

    segmenter = Segmenter(ModelConfig(checkpoint=folder, dtype="float32", device="cpu"))

    def predict(case: Case, drawn: list[DrawnFrame]) -> list[FrameAnnotations]:
        source, spec = _Drawn(case.spec, drawn), case.spec
        pointed: list[Any] = []
        if case.is_visual:
            prompt = _prompt(case, drawn[0])
            if "mask" in prompt:
                rle = encode_masks(prompt["mask"][None])[0].rle
                pointed = [MaskPrompt(rle, spec.height, spec.width, 0, 1, "object")]
            elif "box" in prompt:
                pointed = [BoxPrompt(tuple(map(float, prompt["box"])), 0, 1, "object")]  # type: ignore[arg-type]
            else:
                points = tuple((x, y) for x, y in prompt["points"])
                pointed = [PointPrompt(points, tuple(bool(v) for v in prompt["labels"]), 0, 1, "object")]
        return list(segmenter.segment(source, spec.height, spec.width, case.prompts, pointed))

    return predict


def sheet(predict: Any, picked: Sequence[Case], moments: Sequence[int] = (4, 20, 44)) -> np.ndarray:
    """A contact sheet, uint8 (H, W, 3), with one clip per row, and outlines and numbers of the objects found."""
    import cv2

    rows = []
    for case in picked:
        case = replace(case, spec=replace(case.spec, width=320, height=240))
        drawn = list(draw_clip(case.spec))
        predicted = {f.frame_index: f for f in predict(case, drawn)}
        cells = []
        for t in moments:
            cell = drawn[t].image.copy()
            for item in predicted[t].objects:
                mask = decode_rle(item.rle, 240, 320).astype(np.uint8)
                outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                cv2.drawContours(cell, outlines, -1, (255, 255, 255), 2)
                cv2.drawContours(cell, outlines, -1, (0, 0, 0), 1)
                place = (int(item.bbox[0]), max(int(item.bbox[1]), 10))
                cv2.putText(cell, f"{item.object_id} {item.prompt}", place, 0, 0.4, (0, 0, 0), 3)
                cv2.putText(cell, f"{item.object_id} {item.prompt}", place, 0, 0.4, (255, 255, 255), 1)
            text = ", ".join(case.prompts) or case.kind
            cv2.putText(cell, text, (4, 234), 0, 0.4, (0, 0, 0), 3)
            cv2.putText(cell, text, (4, 234), 0, 0.4, (255, 255, 0), 1)
            cells.append(cell)
        rows.append(np.concatenate(cells, axis=1))
    return np.concatenate(rows)
