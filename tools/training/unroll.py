"""The tracker over a few frames, differentiable.

transformers runs tracking under `inference_mode`, object by object. Here the same submodules are unrolled over a few
frames, with all objects of a batch at once, so that gradients pass through memories and pointers. Tests compare the
unroll with the model's own outputs and with the engine's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import get_1d_sine_pe

from .prompts import as_detected, clicks
from .samples import Track

VISIBLE = 12  # an object with at least this many pixels at 112 x 112 counts as present


@dataclass
class FrameOutput:
    """The output of one frame: `logits` (N, h,
    h), `scores`, `ious` (N,), truth `masks` (N, S, S) bool; `fused` (N, g * g, C) is
    the frame with what is remembered, None where an object is prompted. `matched` has for each layer of the attention
    to memory (N, g * g): how much of what each token looks at in memory is really the object's. `known`: what
    was kept of the frame before, None on the first. `size`: the mean square of the features, the memory and the pointer
    last made."""

    logits: Tensor
    scores: Tensor
    ious: Tensor
    masks: Tensor
    fused: Tensor | None
    matched: list[Tensor]
    known: Known | None
    size: Tensor


@dataclass
class Known:
    """What is kept of a frame, and what was on it: `top` (N, g * g, C) and `memory` (N, g * g, 64) with the indices of
    the colours and shapes at each token, `names` (N, g * g, 2); `pointer` (N, C) with those of the object,
    `name` (N, 2). -1 where there is nothing to know."""

    top: Tensor
    memory: Tensor
    names: Tensor
    pointer: Tensor
    name: Tensor


@dataclass
class Truth:
    """The truth of one frame: masks (N, S, S) bool of N objects, and names as in `Known`."""

    masks: Tensor
    names: Tensor
    name: Tensor


@dataclass
class Features:
    """One frame as each of N objects sees it: (N, C/8, 4g, 4g), (N, C/4, 2g, 2g), (N, g * g, C)."""

    fine: Tensor
    middle: Tensor
    top: Tensor


def unroll(
    model: Any,
    tracks: list[Track],
    frames: int,
    kind: str,
    generator: torch.Generator,
    teach: bool,
    blind: int = 0,
    again: frozenset[int] = frozenset(),
) -> list[FrameOutput]:
    """Follows every object of `tracks` from its prompt on frame 0.

    With `teach`, memories say whether the object is really there, not whether the tracker saw it. The first `blind`
    frames pass no gradients and are omitted from the result: so the tracker learns from its own results on a longer
    clip, at a third of the cost. On the frames `again`, objects get their true masks after they were looked for, as in
    reconditioning.
    """
    owner = torch.tensor([i for i, track in enumerate(tracks) for _ in track.masks], device=model.device)
    masks = torch.cat([track.masks[:, :frames] for track in tracks]).to(model.device)  # (N, T, S, S)
    pixels = torch.stack([track.pixels[:frames] for track in tracks]).to(model.device)
    names = torch.stack([track.seen[:frames].flatten(1, 2) for track in tracks]).to(model.device)[owner]
    name = torch.cat([track.names for track in tracks]).to(model.device)
    truth = [Truth(masks[:, t], names[:, t], name) for t in range(frames)]
    following = _Following(model.tracker_model, kind, generator, teach, again)
    with torch.no_grad():
        if blind:
            features, position = frame_features(model, pixels[:, :blind], owner)
            for t in range(blind):
                following.step(features[t], position, truth[t])
    features, position = frame_features(model, pixels[:, blind:], owner)
    return [following.step(features[t - blind], position, truth[t]) for t in range(blind, frames)]


class _Following:
    """Follows all objects of a batch frame by frame, and keeps their memories."""

    def __init__(self, module: Any, kind: str, generator: torch.Generator, teach: bool, again: frozenset[int]) -> None:
        self.module, self.kind, self.generator, self.teach, self.again = module, kind, generator, teach, again
        self.memories: list[Tensor] = []  # per frame (g * g, N, 64)
        self.pointers: list[Tensor] = []  # per frame (N, C)
        self.shares: list[Tensor] = []  # per frame (N, g * g): of each token, how much really was the object's
        # Left until there is a next frame: it costs a third of a frame.
        self._remember_last: Callable[[], Known] | None = None

    def step(self, features: Features, position: Tensor, truth: Truth) -> FrameOutput:
        module, masks = self.module, truth.masks
        there = masks.flatten(1).sum(1) >= VISIBLE
        given = fused = known = None
        matched: list[Tensor] = []
        size = features.top.square().mean()
        if self._remember_last is not None:
            known = self._remember_last()
            size = size + self.memories[-1].square().mean() + self.pointers[-1].square().mean()
            conditioning = [0, *(t for t in sorted(self.again) if 0 < t < len(self.memories))]
            fused, matched = attend(module, features, position, self.memories, self.pointers, conditioning, self.shares)
            logits, scores, ious, token = decode(module, fused, features)
            mask = upsample(logits, module.image_size)
        elif self.kind == "mask":
            given = as_detected(masks, self.generator)
            logits, scores, ious, token = decode_mask_prompt(module, features, given)
            mask = torch.where(given, 10.0, -10.0)
        else:
            points, labels = clicks(masks, self.kind, self.generator)
            top = features.top + module.no_memory_embedding[0]
            logits, scores, ious, token = decode(module, top, features, points, labels)
            mask = _hard(upsample(logits, module.image_size))
        seen = there if self.teach or given is not None else scores.detach() > 0
        output = FrameOutput(logits.float(), scores.float(), ious.float(), masks, fused, matched, known, size)
        if known is not None and len(self.memories) in self.again:
            given = as_detected(masks, self.generator)
            pointed = decode_mask_prompt(module, features, given)[3]
            token = torch.where(there[:, None], pointed, token)
            mask = torch.where(there[:, None, None], torch.where(given, 10.0, -10.0), mask)
            seen = seen | there
        self._remember_last = partial(self._remember, features, mask, token, seen, truth)
        return output

    def _remember(self, features: Features, mask: Tensor, token: Tensor, seen: Tensor, truth: Truth) -> Known:
        pointer = point(self.module, token, seen)
        memory = remember(self.module, features, mask, seen)
        self.pointers.append(pointer)
        self.memories.append(memory)
        self.shares.append(token_share(truth.masks, features.top.shape[1]))
        name = torch.where(seen[:, None], truth.name, -1)
        return Known(features.top, memory.transpose(0, 1), truth.names, pointer, name)


def frame_features(model: Any, pixels: Tensor, owner: Tensor) -> tuple[list[Features], Tensor]:
    """Features of each frame of `pixels` (B, T, 3, S, S), repeated for each clip's objects, and the position encoding
    (g * g, 1, C) of the top level.
    """
    clips, frames = pixels.shape[:2]
    decoder, neck = model.tracker_model.mask_decoder, model.tracker_neck
    with torch.no_grad():
        hidden = model.detector_model.vision_encoder.backbone(pixels.flatten(0, 1)).last_hidden_state
        image = spatial(model, hidden)
    levels = [layer(image) for layer in neck.fpn_layers[:-1]]
    levels = [decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]), levels[2].flatten(2).transpose(1, 2)]
    grid = image.shape[-2:]
    encoding = neck.position_encoding(torch.Size((1, neck.config.fpn_hidden_size, *grid)), hidden.device, torch.float32)
    per_frame = [level.float().view(clips, frames, *level.shape[1:]) for level in levels]
    return [Features(*(level[owner, t] for level in per_frame)) for t in range(frames)], encoding.flatten(2).permute(
        2, 0, 1
    )


def attend(
    module: Any,
    features: Features,
    position: Tensor,
    memories: list[Tensor],
    pointers: list[Tensor],
    conditioning: list[int],
    shares: list[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """The frame fused with the memories of conditioning frames and of the last frames, and with all pointers.

    Also returns, layer by layer, how much of what it attends to in memory really belongs to the object, by the
    memories' `shares` (known with eager attention).
    """
    t = len(memories)
    near = [s for s in range(max(t - module.num_maskmem + 1, 0), t) if s not in conditioning]
    # (frame, distance); a conditioning frame's distance is 0
    slots = [*((s, 0) for s in conditioning), *((s, t - s) for s in near)]
    spatial = module.memory_encoder.position_encoding(
        torch.Size((1, module.mem_dim, *module.backbone_feature_sizes[-1])), position.device, torch.float32
    )
    spatial = spatial.flatten(2).permute(2, 0, 1)
    values = [memories[s] for s, _ in slots]
    keys = [spatial + module.memory_temporal_positional_encoding[d - 1] for _, d in slots]
    order = [*conditioning, *(s for s in range(t - 1, -1, -1) if s not in conditioning)]
    n, width = pointers[0].shape
    distances = torch.tensor([t - s for s in order], dtype=torch.float32, device=position.device) / (
        module.config.max_object_pointers_in_encoder - 1
    )
    projected = module.temporal_positional_encoding_projection_layer(get_1d_sine_pe(distances, dim=width))
    splits = width // module.mem_dim
    tokens = torch.stack([pointers[s] for s in order]).reshape(-1, n, splits, module.mem_dim)
    tokens = tokens.permute(0, 2, 1, 3).flatten(0, 1)
    places = projected.unsqueeze(1).expand(-1, n, -1).repeat_interleave(splits, 0)
    layers = [layer.cross_attn_image for layer in module.memory_attention.layers]
    looks: list[Tensor | None] = []
    hooks = [layer.register_forward_hook(lambda _, __, result: looks.append(result[1])) for layer in layers]
    fused = module.memory_attention(
        current_vision_features=features.top.transpose(0, 1),
        current_vision_position_embeddings=position,
        memory=torch.cat([*values, tokens]),
        memory_posision_embeddings=torch.cat([*(k.expand(-1, n, -1) for k in keys), places]),
        num_object_pointer_tokens=len(tokens),
    )
    for hook in hooks:
        hook.remove()
    real = torch.cat([shares[s] for s, _ in slots], 1)  # (n, slots * g * g)
    matched = []
    for look in looks:
        if look is not None:
            weights = look.float().mean(1)[..., : real.shape[1]]  # mean over the heads; pointers have no place
            matched.append((weights * real[:, None]).sum(-1) / weights.sum(-1).clamp(min=1e-6))
    return fused.transpose(0, 1).reshape(n, -1, width), matched


def token_share(masks: Tensor, tokens: int) -> Tensor:
    """How much of each token (N, tokens) the masks (N, S, S) cover."""
    return F.adaptive_avg_pool2d(masks.float()[:, None], round(tokens**0.5)).flatten(1)


def decode(
    module: Any,
    top: Tensor,
    features: Features,
    points: Tensor | None = None,
    labels: Tensor | None = None,
    masks: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Raw mask logits (N, h, h), score logits (N,), IoU estimates (N,) and mask tokens (N, C)."""
    n, _, width = top.shape
    height, across = module.backbone_feature_sizes[-1]
    if points is None or labels is None:
        points, labels = top.new_zeros(n, 1, 2), -top.new_ones(n, 1, dtype=torch.int32)
    sparse, dense = module.prompt_encoder(points.unsqueeze(1), labels.unsqueeze(1), None, masks)
    logits, ious, tokens, scores = module.mask_decoder(
        image_embeddings=top.transpose(1, 2).reshape(n, width, height, across),
        image_positional_embeddings=module.get_image_wide_positional_embeddings().expand(n, -1, -1, -1),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
        high_resolution_features=[features.fine, features.middle],
    )
    return (
        logits[:, 0, 0].float(),
        scores[:, 0, 0].float(),
        ious[:, 0, 0].float(),
        tokens[:, 0, 0],
    )


def decode_mask_prompt(module: Any, features: Features, given: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Handles a mask prompt as the model does: the mask (N, S, S) is the output, and the decoder makes a pointer from
    it.
    """
    earlier = module.mask_downsample(given.unsqueeze(1).float())
    earlier = F.interpolate(
        earlier.float(),
        size=module.prompt_encoder.mask_input_size,
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    return decode(module, features.top, features, masks=earlier)


def point(module: Any, token: Tensor, seen: Tensor) -> Tensor:
    """Object pointers (N, C)."""
    weight = seen[:, None].float()
    return weight * module.object_pointer_proj(token).float() + (1 - weight) * module.no_object_pointer


def remember(module: Any, features: Features, logits: Tensor, seen: Tensor) -> Tensor:
    """Memories (g * g, N, 64) of masks (N, S, S). An object that was not seen leaves an empty one."""
    n, _, width = features.top.shape
    logits = torch.where(seen[:, None, None], logits, torch.full_like(logits, -1024.0))
    side = 4 * module.prompt_encoder.mask_input_size[0]
    wide = F.interpolate(logits.unsqueeze(1).float(), size=(side, side), mode="bilinear", align_corners=False)
    shown = wide.sigmoid() * module.config.sigmoid_scale_for_mem_enc + module.config.sigmoid_bias_for_mem_enc
    image = features.top.transpose(1, 2).reshape(n, width, *module.backbone_feature_sizes[-1])
    encoded, _ = module.memory_encoder(image, shown)
    hidden = (1 - seen.float())[:, None, None, None] * module.occlusion_spatial_embedding_parameter[..., None, None]
    return (encoded.float() + hidden).flatten(2).permute(2, 0, 1)


def upsample(logits: Tensor, size: int) -> Tensor:
    return F.interpolate(logits.unsqueeze(1), size=(size, size), mode="bilinear", align_corners=False)[:, 0]


def spatial(model: Any, hidden: Tensor) -> Tensor:
    height, width = model.tracker_model.prompt_encoder.image_embedding_size
    return hidden.float().view(len(hidden), height, width, -1).permute(0, 3, 1, 2)


def _hard(logits: Tensor) -> Tensor:
    return torch.where(logits.detach() > 0, 10.0, -10.0)
