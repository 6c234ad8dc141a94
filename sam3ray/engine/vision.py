"""What the tracker sees of one frame, made from the vision backbone's output.

One checkpoint serves the detector and the tracker: they share the backbone and have a neck each.
The backbone's output goes through `Sam3VideoModel.tracker_neck` here; for clicks, boxes and masks
the detector and its neck are never run.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers import Sam3VideoModel


@dataclass(frozen=True, eq=False)
class FrameFeatures:
    """The tracker's features of one frame; g is the side of the patch grid, C the hidden size.

    Attributes:
        fine: (1, C/8, 4g, 4g) and
        middle: (1, C/4, 2g, 2g), both already projected for the mask decoder.
        top: (1, g*g, C), the features that memories are attached to.
        position: (1, g*g, C), sine positions of `top`, the same for every frame.
    """

    fine: Tensor
    middle: Tensor
    top: Tensor
    position: Tensor


def backbone_features(model: Sam3VideoModel, pixel_values: Tensor) -> Tensor:
    """The shared backbone alone: (B, 3, S, S) -> (B, g*g, width of the backbone)."""
    return model.detector_model.vision_encoder.backbone(pixel_values).last_hidden_state


def tracker_features(model: Sam3VideoModel, hidden: Tensor) -> list[FrameFeatures]:
    """Backbone output (B, g*g, width) -> the tracker's features, one per frame.

    Same numbers as `Sam3VideoModel.get_vision_features_for_tracker`, without the neck's last
    level, which that method computes and throws away.
    """
    height, width = model.tracker_model.prompt_encoder.image_embedding_size
    spatial = hidden.view(hidden.shape[0], height, width, -1).permute(0, 3, 1, 2)
    neck, decoder = model.tracker_neck, model.tracker_model.mask_decoder
    fine, middle, top = (layer(spatial) for layer in neck.fpn_layers[:-1])
    position = neck.position_encoding(top[:1].shape, top.device, top.dtype).flatten(2).transpose(1, 2)
    fine, middle = decoder.conv_s0(fine), decoder.conv_s1(middle)
    top = top.flatten(2).transpose(1, 2)
    return [
        FrameFeatures(fine=fine[i : i + 1], middle=middle[i : i + 1], top=top[i : i + 1], position=position)
        for i in range(hidden.shape[0])
    ]
