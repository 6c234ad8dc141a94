"""The detector's geometry encoder for boxes around examples, with the model's own layers, without waiting for a GPU.

transformers 5.23 (`Sam3GeometryEncoder`, models/sam3/modeling_sam3.py) pools bfloat16 features under boxes in float16
and encodes boxes in the model's dtype. Here, as in Meta's code, boxes and pooling stay in float32 until a layer takes
them. The numbers are the same in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align

from sam3ray.engine.transfer import to_device


def geometry_tokens(
    detector: Any,
    level: Tensor,
    positions: Tensor,
    boxes: Sequence[tuple[float, float, float, float]] = (),
    signs: Sequence[bool] = (),
) -> Tensor:
    """(frames, boxes + 1, C): a `Sam3Model`'s encoding of boxes on each frame, with the learned token last.

    Args:
        level: (frames, C, g, g), the coarse features.
        positions: (1, C, g, g)
        boxes: (centre x, centre y, width, height) as fractions of the frame.
        signs: for each box, whether it is around an instance.
    """
    encoder, frames = detector.geometry_encoder, len(level)
    token = encoder.cls_embed.weight.expand(frames, -1, -1)
    if boxes:
        token = torch.cat([_of_boxes(encoder, level, boxes, signs), token], 1)
    token = encoder.prompt_layer_norm(encoder.final_proj(token))
    features = level.flatten(2).transpose(1, 2)
    places = positions.expand(frames, -1, -1, -1).flatten(2).transpose(1, 2)
    for layer in encoder.layers:
        token = layer(prompt_feats=token, vision_feats=features, vision_pos_encoding=places, prompt_mask=None)
    return encoder.output_layer_norm(token)


def _of_boxes(
    encoder: Any, level: Tensor, boxes: Sequence[tuple[float, float, float, float]], signs: Sequence[bool]
) -> Tensor:
    """(frames, boxes, C): encodes each box by its coordinates, the features under it, its place and its sign."""
    frames, count, grid = len(level), len(boxes), level.shape[-1]
    dtype = encoder.boxes_direct_project.weight.dtype
    host = torch.tensor(boxes, dtype=torch.float32)
    centre, half = host[:, :2], host[:, 2:] / 2
    corners = torch.cat([centre - half, centre + half], 1) * grid
    frame_of = torch.arange(frames, dtype=torch.float32).repeat_interleave(count)[:, None]
    rois = to_device(torch.cat([frame_of, corners.repeat(frames, 1)], 1), level.device)
    given = to_device(host, level.device)
    kinds = to_device(torch.tensor(signs, dtype=torch.int64), level.device)

    normal = encoder.vision_layer_norm(level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    under = roi_align(normal.float(), rois, encoder.roi_size).to(dtype)
    pooled = encoder.boxes_pool_project(under).view(frames, count, -1)
    x, y, width, height = given.unbind(-1)
    east, south = encoder.position_encoding.encode_1d_positions(x, y)
    place = torch.cat((south, east, height[:, None], width[:, None]), 1)
    of_box = encoder.boxes_direct_project(given.to(dtype)) + pooled + encoder.boxes_pos_enc_project(place.to(dtype))
    return encoder.label_embed(kinds) + of_box
