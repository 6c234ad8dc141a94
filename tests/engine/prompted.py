"""Clips with clicks, boxes and masks, run by our engine, and how its results are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from sam3ray.config import TrackingConfig
from sam3ray.engine.checkpoint import Checkpoint
from sam3ray.engine.engine import Engine
from sam3ray.masks import decode_rle, encode_masks
from sam3ray.prompts import BoxPrompt, MaskPrompt, PointPrompt, VisualPrompt
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.video import Frame
from tests.engine.documented import Shown, worst_iou
from tests.engine.pipeline import HEIGHT, WIDTH, checkpoint
from tests.engine.tiny import tiny_model

LENGTH = 18
LAST = LENGTH - 1
MODELS = [(0, 0.0), (3, 1.0), (4, 1.0)]  # seed and presence: with these, objects are there, come and go


class Clip:
    """Frames in memory as a source that can be read again; remembers how many were asked for at once."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = list(frames)
        self.height, self.width = self.frames[0].image.shape[:2]
        self.largest_chunk = 0

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        if stop is not None:
            self.largest_chunk = max(self.largest_chunk, stop - start)
        return iter(self.frames[start:stop])


def run(
    source: Any,
    prompts: Sequence[VisualPrompt],
    rules: str = "transformers",
    model: tuple[int, float] | Checkpoint = MODELS[0],
    **options: Any,
) -> list[FrameAnnotations]:
    weights = model if isinstance(model, Checkpoint) else checkpoint(tiny_model(*model))
    engine = Engine(weights, TrackingConfig(rules=rules))
    clip = source if hasattr(source, "read") else Clip(source)
    return list(engine.annotate(clip, clip.height, clip.width, (), prompts, **options))


def mask_of(result: FrameAnnotations, object_id: int) -> np.ndarray:
    """The mask at the source's size; empty where the object is absent."""
    found = [each.rle for each in result.objects if each.object_id == object_id]
    if not found:
        return np.zeros((result.height, result.width), bool)
    return decode_rle(found[0], result.height, result.width)


def assert_same(ours: Sequence[FrameAnnotations], theirs: dict[int, Shown], ids: Sequence[int] = (1,)) -> None:
    """Every pixel, and the scores up to how a sigmoid rounds by position in a batch."""
    assert any(shown.masks.any() for shown in theirs.values())
    for position, shown in theirs.items():
        for row, object_id in enumerate(ids):
            np.testing.assert_array_equal(mask_of(ours[position], object_id), shown.masks[row], f"frame {position}")
            for each in ours[position].objects:
                if each.object_id == object_id:
                    assert each.track_score == pytest.approx(shown.scores[row], abs=2e-7)


def assert_alike(ours: Sequence[FrameAnnotations], theirs: Mapping[int, Shown], ids: Sequence[int] = (1,)) -> None:
    """IoU of 0.999 at least and the same scores, on every frame."""
    assert any(shown.masks.any() for shown in theirs.values())
    for position, shown in theirs.items():
        for row, object_id in enumerate(ids):
            pair = mask_of(ours[position], object_id), shown.masks[row]
            assert worst_iou([pair]) >= 0.999, f"object {object_id} on frame {position}"
            for each in ours[position].objects:
                if each.object_id == object_id:
                    assert each.track_score == pytest.approx(shown.scores[row], abs=1e-4)


def same_masks(
    first: Sequence[FrameAnnotations], second: Sequence[FrameAnnotations], frames: range, object_id: int = 1
) -> bool:
    return all(np.array_equal(mask_of(first[t], object_id), mask_of(second[t], object_id)) for t in frames)


def blob(top: int, left: int, height: int = 30, width: int = 40) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def mask_prompt(mask: np.ndarray, frame: int = 0, object_id: int = 1) -> MaskPrompt:
    return MaskPrompt(encode_masks(mask[None])[0].rle, *mask.shape, frame_index=frame, object_id=object_id)


def on_frame(prompt: VisualPrompt, frame: int, object_id: int = 1) -> VisualPrompt:
    return replace(prompt, frame_index=frame, object_id=object_id)


@dataclass
class Workflow:
    """One way to prompt, as ours and as transformers' documentation has it."""

    prompts: list[VisualPrompt]
    inputs: dict[str, Any]


def workflows(
    inside: Sequence[tuple[int, int]], outside: tuple[int, int], box: tuple[int, int, int, int], mask: np.ndarray
) -> dict[str, Workflow]:
    """Every way to prompt object 1 on frame 0.

    Args:
        inside: three points (x, y) on the object.
        outside: a point that is not on it.
        box: (xmin, ymin, xmax, ymax) around it.
        mask: (height, width), bool.
    """

    def clicks(*points: tuple[int, int], on: Sequence[int]) -> tuple[PointPrompt, dict[str, Any]]:
        prompt = PointPrompt(tuple((float(x), float(y)) for x, y in points), tuple(map(bool, on)), 0, 1)
        return prompt, {"input_points": [[list(map(list, points))]], "input_labels": [[list(on)]]}

    one, one_input = clicks(inside[0], on=[1])
    several, several_input = clicks(*inside, on=[1, 1, 1])
    negative, negative_input = clicks(inside[0], outside, on=[1, 0])
    away, _ = clicks(outside, on=[0])
    boxed = BoxPrompt(tuple(map(float, box)), 0, 1)  # type: ignore[arg-type]
    box_input = {"input_boxes": [[list(box)]]}
    return {
        "click": Workflow([one], one_input),
        "clicks": Workflow([several], several_input),
        "negative click": Workflow([negative], negative_input),
        "negative click in a round of its own": Workflow([one, away], negative_input),
        "box": Workflow([boxed], box_input),
        "box and clicks": Workflow([boxed, negative], box_input | negative_input),
        "mask": Workflow([mask_prompt(mask)], {"input_masks": mask}),
    }


WORKFLOWS = workflows([(50, 40), (60, 50), (70, 20)], (90, 70), (20, 10, 70, 60), blob(20, 30))
