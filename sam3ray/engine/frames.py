"""Turns decoded frames into model inputs, bit for bit like the checkpoint's own video processor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sam3ray.engine.transfer import to_device
from sam3ray.video import Frame

if TYPE_CHECKING:
    from sam3ray.engine.checkpoint import Checkpoint


class Preprocessor:
    """Resizes, rescales and normalises frames on the model's device."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._processor = checkpoint.processor.video_processor
        self._device = checkpoint.device
        self._dtype = checkpoint.dtype

    def __call__(self, frame: Frame) -> torch.Tensor:
        """uint8 RGB (height, width, 3) -> (1, 3, size, size) on the device, in the model's dtype."""
        processor = self._processor
        image = torch.from_numpy(frame.image)
        if self._device.type == "cuda":
            image = to_device(image, self._device)
        image = image.permute(2, 0, 1).unsqueeze(0)
        if processor.do_resize:
            image = processor.resize(image=image, size=processor.size, resample=processor.resample)
        image = processor.rescale_and_normalize(
            image,
            processor.do_rescale,
            processor.rescale_factor,
            processor.do_normalize,
            # as tuples: the processor caches by these arguments
            tuple(processor.image_mean),
            tuple(processor.image_std),
        )
        return image.to(self._dtype)
