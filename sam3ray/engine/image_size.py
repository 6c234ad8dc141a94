"""Adapts a checkpoint to another image size: changes every part of its configuration that depends on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import Sam3VideoConfig, Sam3VideoProcessor


def resize(config: Sam3VideoConfig, side: int) -> None:
    """Sets the side of the square that frames are scaled to, in place.

    Raises:
        ValueError: it is no multiple of the patch.
    """
    detector: Any = config.detector_config
    patch = detector.vision_config.backbone_config.patch_size
    if side % patch:
        nearest = max(1, round(side / patch)) * patch
        raise ValueError(
            f"model.image_size is {side}; allowed: a multiple of {patch}, the checkpoint's patch, such as {nearest}"
        )
    config.image_size = side
    config.low_res_mask_size = 4 * side // patch


def fit(processor: Sam3VideoProcessor, side: int) -> None:
    """Makes a checkpoint's processor scale frames to this side, in place."""
    for each in (processor.image_processor, processor.video_processor):
        each.size = type(each.size)(height=side, width=side)
    processor.target_size = side
