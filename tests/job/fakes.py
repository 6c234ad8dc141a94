"""Stands in for the model: draws boxes that depend on the frame's pixels alone, quickly."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sam3ray.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.masks import encode_masks
from sam3ray.video import Frame


class DrawnSegmenter:
    """One box per prompt and frame, whose place the frame's mean colour decides."""

    frame_s = 0.0  # seconds that a frame takes

    def __init__(self, model: ModelConfig, tracking: TrackingConfig) -> None:
        self.model_info: dict[str, Any] = {"checkpoint": "drawn"}
        self.stats: dict[str, Any] = {}
        self.rung = 0

    def set_memory_rung(self, rung: int) -> None:
        self.rung = rung

    def segment(
        self,
        frames: Iterable[Frame],
        height: int,
        width: int,
        prompts: Any = (),
        visual_prompts: Any = (),
        *,
        progress: Callable[[], None] | None = None,
        recorder: Any = None,
    ) -> Iterator[FrameAnnotations]:
        self.stats = {"dropped_objects": 1}
        begin = 0
        for kept in recorder.kept() if recorder is not None else ():
            recorder.took_up()
            for found in kept.frames(0):
                yield found
                begin += 1
            break
        for found in self._drawn(frames.read(begin) if begin else frames, begin, height, width, prompts):
            if recorder is not None:
                recorder.add(0, found)
            yield found
            if recorder is not None:
                recorder.at_rest(0, NoState)

    def _drawn(self, frames: Any, begin: int, height: int, width: int, prompts: Any) -> Iterator[FrameAnnotations]:
        for position, frame in enumerate(frames if isinstance(frames, Iterable) else frames.read(), begin):
            self.on_frame(position, frame)
            if self.frame_s:
                time.sleep(self.frame_s)
            objects = []
            for number, prompt in enumerate(prompts, start=1):
                x = int(frame.image[..., number % 3].mean()) * (width - 2) // 256
                y = (frame.index * number) % (height - 2)
                mask = np.zeros((1, height, width), bool)
                mask[0, y : y + 2 + number, x : x + 2 + number] = True
                (encoded,) = encode_masks(mask)
                xmin, ymin, xmax, ymax = (float(v) for v in encoded.bbox)
                objects.append(
                    ObjectAnnotation(number, prompt, 0.9, 0.8, (xmin, ymin, xmax, ymax), encoded.area, encoded.rle)
                )
            yield FrameAnnotations(frame.index, frame.pts, frame.time_s, height, width, tuple(objects))

    def on_frame(self, position: int, frame: Frame) -> None:
        """Where faults come in."""

    @property
    def stitching(self) -> Any:
        from tests.job.drawn_windows import DrawnWindows  # which draws with this class

        return DrawnWindows()


class NoState:
    """The state of a model that has none."""

    def write(self, path: Path, note: str) -> None:
        save_file({}, path, {"sam3ray.note": note})


class Slow(DrawnSegmenter):
    frame_s = 0.02


def once(flag: Path) -> bool:
    """True for exactly one caller, in whatever process, ever."""
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
