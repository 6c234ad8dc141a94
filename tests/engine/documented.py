"""transformers' own tracker, used as its documentation shows: what our engine is compared with."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import torch
from transformers import (
    Sam2VideoVideoProcessor,
    Sam3TrackerVideoModel,
    Sam3TrackerVideoProcessor,
    Sam3VideoProcessor,
)
from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor

from sam3ray.video import Frame
from tests.engine.tiny import IMAGE, tiny_model


@functools.lru_cache(maxsize=4)
def standalone(seed: int = 0, presence: float = 0.0) -> Sam3TrackerVideoModel:
    """The tracker of `tiny_model` with a vision encoder of its own, loaded from the same files."""
    with tempfile.TemporaryDirectory() as folder:
        tiny_model(seed, presence).save_pretrained(folder)
        return Sam3TrackerVideoModel.from_pretrained(folder).eval()


@functools.lru_cache(maxsize=1)
def tracker_processor() -> Sam3TrackerVideoProcessor:
    size = {"height": IMAGE, "width": IMAGE}
    return Sam3TrackerVideoProcessor(
        image_processor=Sam3ImageProcessor(size=size),
        video_processor=Sam2VideoVideoProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        target_size=IMAGE,
    )


@functools.lru_cache(maxsize=1)
def trained() -> tuple[Sam3TrackerVideoModel, Sam3TrackerVideoProcessor]:
    """The checkpoint in the package, as transformers loads it for visual prompts."""
    folder = str(resources.files("sam3ray") / "embedded")
    model = Sam3TrackerVideoModel.from_pretrained(folder, dtype=torch.float32).eval()
    parts = Sam3VideoProcessor.from_pretrained(folder)
    processor = Sam3TrackerVideoProcessor(
        image_processor=parts.image_processor, video_processor=parts.video_processor, target_size=model.image_size
    )
    return model, processor


@dataclass
class Shown:
    """Masks (objects, height, width), bool, and scores (objects,) of one frame."""

    masks: np.ndarray
    scores: np.ndarray


class Session:
    """A session of transformers' tracker over a whole clip."""

    def __init__(
        self,
        frames: Sequence[Frame],
        model: Sam3TrackerVideoModel | None = None,
        processor: Sam3TrackerVideoProcessor | None = None,
    ) -> None:
        self.model = model or standalone()
        self.processor = processor or tracker_processor()
        self.session = self.processor.init_video_session(video=[frame.image for frame in frames])

    def add(self, frame: int, objects: Sequence[int], **inputs: Any) -> None:
        ids = list(objects)  # the processor keeps the list, and the model empties it
        self.processor.add_inputs_to_inference_session(self.session, frame_idx=frame, obj_ids=ids, **inputs)

    def segment(self, frame: int, reverse: bool = False) -> Shown:
        return self._shown(self.model(self.session, frame_idx=frame, reverse=reverse))

    def propagate(self, **options: Any) -> dict[int, Shown]:
        outputs = self.model.propagate_in_video_iterator(self.session, **options)
        return {output.frame_idx: self._shown(output) for output in outputs}

    def _shown(self, output: Any) -> Shown:
        size = [[self.session.video_height, self.session.video_width]]
        masks = self.processor.post_process_masks([output.pred_masks], original_sizes=size, binarize=False)[0]
        scores = torch.as_tensor(output.object_score_logits).flatten().sigmoid().numpy()
        return Shown((masks > 0).reshape(-1, *masks.shape[-2:]).numpy(), scores)


def worst_iou(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """The lowest IoU of pairs of masks; two empty ones agree."""
    worst = 1.0
    for first, second in pairs:
        union = np.logical_or(first, second).sum()
        if union:
            worst = min(worst, float(np.logical_and(first, second).sum() / union))
    return worst
