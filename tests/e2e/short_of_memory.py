"""The embedded model with too little memory for some clips, until they are on a certain rung of the ladder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.segment import Segmenter

NEEDS = {"whole-ladder": 5, "half-way": 2, "easy": 0}  # the first rung that has memory enough
FAILS_AT = 3  # images; the next one is one too many
TRACKING: dict[str, Any] = {"object_batch": 16, "frame_batch": 4, "prompt_batch": 2}


@dataclass(frozen=True)
class ShortOfMemory:
    """A `make_segmenter`: the embedded model, whose backbone runs out of memory on too low a rung."""

    folder: str

    def __call__(self, model: ModelConfig, tracking: TrackingConfig) -> Segmenter:
        return _Short(self.folder, model, tracking)


class _Short(Segmenter):
    def __init__(self, folder: str, model: ModelConfig, tracking: TrackingConfig) -> None:
        super().__init__(model, tracking)
        self._folder = folder
        self._images_left = -1
        backbone = self._checkpoint.model.detector_model.vision_encoder.backbone
        backbone.register_forward_pre_hook(self._look)

    def segment(self, frames: Any, height: int, width: int, *arguments: Any, **options: Any) -> Iterator[Any]:
        clip = list(NEEDS)[(width - 128) // 16]
        self._images_left = FAILS_AT if self._rung < NEEDS[clip] else -1
        tracking = self._engine.tracking
        facts = {name: getattr(tracking, name) for name in (*TRACKING, "offload_state")}
        facts |= {"clip": clip, "rung": self._rung, "pid": os.getpid()}
        Path(self._folder, f"{time.time_ns()}.json").write_text(json.dumps(facts))
        return super().segment(frames, height, width, *arguments, **options)

    def _look(self, _: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if self._images_left < 0:
            return
        self._images_left -= len(arguments[0])
        if self._images_left < 0:
            self._images_left = 0
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
