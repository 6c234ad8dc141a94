"""Trains the tracker on the frozen trunk: prompts on the first frame, then frame after frame by memory.

transformers runs tracking under `inference_mode`, object by object. Here the same submodules are unrolled over a few
frames, all objects of a batch at once, so that gradients pass through memories and pointers; a test holds the unroll
against the model's own outputs. Scores are taught apart from masks: the mask of an object that is believed absent is
trained, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import get_1d_sine_pe

from .samples import Track, draw_track
from .schedule import Run

LIMITS = ((0.05, 1), (0.12, 3), (0.25, 6), (1.01, 18))  # up to this share of the stage, frames per clip at most
#: Batches in turn: clips, frames of each, and how many of those run without gradients, as far as the limit allows.
#: Masks are learnt from many objects on few frames, patience from few objects on many.
BATCHES = ((6, 3, 0), (4, 12, 7), (4, 6, 0), (6, 3, 0), (4, 12, 7), (12, 1, 0), (4, 6, 0), (3, 18, 12))
KINDS = ("mask", "click", "box", "two clicks", "click off")
SHARES = (0.55, 0.17, 0.13, 0.08, 0.07)
AGAIN = 0.5  # share of the batches of three frames and more that get a second mask in the middle
TAUGHT = 0.25  # up to this share of the stage, memories are told whether the object is there
VISIBLE = 12  # pixels at 112 x 112 from which an object counts as there


@dataclass
class Batch:
    tracks: list[Track]
    blind: int


class Helpers(nn.Module):
    """What training needs beside the model: the share of each token of the fused frame that is the object's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 1)


def draw_batch(index: int, *, size: int, objects: int, first: int) -> Batch:
    """The batch of a step; a function of its arguments."""
    clips, frames, blind = BATCHES[index % len(BATCHES)]
    return Batch([draw_track(first + 50 * (16 * index + i), size, frames, objects) for i in range(clips)], blind)


def adopt_neck(model: Any, pixels: Tensor) -> None:
    """Starts the tracker's neck from the detector's, each level rescaled to a standard deviation of 1 over `pixels`
    (B, 3, S, S): at the detector's own scale attention over them is saturated from the start."""
    model.tracker_neck.load_state_dict(model.detector_model.vision_encoder.neck.state_dict())
    with torch.no_grad():
        backbone = model.detector_model.vision_encoder.backbone
        hidden = _spatial(model, backbone(pixels.to(model.device)).last_hidden_state)
        for layer in model.tracker_neck.fpn_layers[:-1]:
            scale = layer(hidden).std()
            layer.proj2.weight.div_(scale)
            layer.proj2.bias.div_(scale)


def train_tracker(run: Run) -> None:
    """Trains all of the tracker with its neck, the backbone being the detector's."""
    model = run.model
    model.requires_grad_(False)
    model.tracker_model.requires_grad_(True)
    model.tracker_neck.requires_grad_(True)
    size = model.tracker_model.config.image_size
    draw = partial(draw_batch, size=size, objects=3, first=run.options.seed)
    for batch in run.steps([*model.parameters(), *run.helpers.parameters()], draw):
        generator = torch.Generator().manual_seed(run.options.seed + run.count)
        limit = next(length for share, length in LIMITS if run.progress < share)
        frames = min(limit, batch.tracks[0].pixels.shape[0])
        # Of a mask given on a single frame there is nothing to learn but its pointer.
        shares = torch.tensor(SHARES if frames > 1 else (0.0, *SHARES[1:]))
        kind = KINDS[int(torch.multinomial(shares, 1, generator=generator))]
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            outputs = unroll(
                model, batch.tracks, frames, kind, generator,
                teach=run.progress < TAUGHT, blind=min(batch.blind, frames - 1), again=_again(frames, generator),
            )  # fmt: skip
        run.step(tracking_losses(outputs, run.helpers))


def _again(frames: int, generator: torch.Generator) -> frozenset[int]:
    """Up to three frames between the first and the last, more of a longer clip, or none."""
    if frames < 3 or float(torch.rand(1, generator=generator)) >= AGAIN:
        return frozenset()
    return frozenset(torch.randint(1, frames - 1, (1 + frames // 6,), generator=generator).tolist())


@dataclass
class FrameOutput:
    """Of one frame: `logits` (N, h, h), `scores`, `ious` (N,), truth `masks` (N, S, S) bool; `fused` (N, g * g, C) is
    the frame with what is remembered, None where an object is prompted."""

    logits: Tensor
    scores: Tensor
    ious: Tensor
    masks: Tensor
    fused: Tensor | None


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

    `teach`: what is remembered is whether the object is really there, not whether it was seen. The first `blind`
    frames pass no gradients and are left out of the result: a way to learn from what the tracker itself makes of a
    longer clip, at a third of the cost. On the frames `again`, objects are given their masks once more, after they were
    looked for, as reconditioning does.
    """
    owner = torch.tensor([i for i, track in enumerate(tracks) for _ in track.masks], device=model.device)
    truth = torch.cat([track.masks[:, :frames] for track in tracks]).to(model.device)  # (N, T, S, S)
    pixels = torch.stack([track.pixels[:frames] for track in tracks]).to(model.device)
    following = _Following(model.tracker_model, kind, generator, teach, again)
    with torch.no_grad():
        if blind:
            features, position = frame_features(model, pixels[:, :blind], owner)
            for t in range(blind):
                following.step(features[t], position, truth[:, t])
    features, position = frame_features(model, pixels[:, blind:], owner)
    return [following.step(features[t - blind], position, truth[:, t]) for t in range(blind, frames)]


class _Following:
    """All objects of a batch on one frame after another, and what is remembered of them."""

    def __init__(self, module: Any, kind: str, generator: torch.Generator, teach: bool, again: frozenset[int]) -> None:
        self.module, self.kind, self.generator, self.teach, self.again = module, kind, generator, teach, again
        self.memories: list[Tensor] = []  # per frame (g * g, N, 64)
        self.pointers: list[Tensor] = []  # per frame (N, C)
        self._last: tuple[Features, Tensor, Tensor, Tensor] | None = None

    def step(self, features: Features, position: Tensor, truth: Tensor) -> FrameOutput:
        module, there = self.module, truth.flatten(1).sum(1) >= VISIBLE
        given = fused = None
        if self._last is not None:
            self._remember(*self._last)
            conditioning = [0, *(t for t in sorted(self.again) if 0 < t < len(self.memories))]
            fused = attend(module, features, position, self.memories, self.pointers, conditioning)
            logits, scores, ious, token = decode(module, fused, features)
            mask = upsample(logits, module.image_size)
        elif self.kind == "mask":
            given = _as_detected(truth, self.generator)
            logits, scores, ious, token = decode_mask_prompt(module, features, given)
            mask = torch.where(given, 10.0, -10.0)
        else:
            points, labels = clicks(truth, self.kind, self.generator)
            top = features.top + module.no_memory_embedding[0]
            logits, scores, ious, token = decode(module, top, features, points, labels)
            mask = _hard(upsample(logits, module.image_size))
        seen = there if self.teach or given is not None else scores.detach() > 0
        output = FrameOutput(logits.float(), scores.float(), ious.float(), truth, fused)
        if self._last is not None and len(self.memories) in self.again:
            given = _as_detected(truth, self.generator)
            pointed = decode_mask_prompt(module, features, given)[3]
            token = torch.where(there[:, None], pointed, token)
            mask = torch.where(there[:, None, None], torch.where(given, 10.0, -10.0), mask)
            seen = seen | there
        self._last = features, mask, token, seen
        return output

    def _remember(self, features: Features, mask: Tensor, token: Tensor, seen: Tensor) -> None:
        """Left until there is a next frame: it costs a third of a frame."""
        self.pointers.append(point(self.module, token, seen))
        self.memories.append(remember(self.module, features, mask, seen))


def frame_features(model: Any, pixels: Tensor, owner: Tensor) -> tuple[list[Features], Tensor]:
    """Features of each frame of `pixels` (B, T, 3, S, S), repeated for the objects of each clip, and the position
    encoding (g * g, 1, C) of the top level."""
    clips, frames = pixels.shape[:2]
    decoder, neck = model.tracker_model.mask_decoder, model.tracker_neck
    with torch.no_grad():
        hidden = model.detector_model.vision_encoder.backbone(pixels.flatten(0, 1)).last_hidden_state
        spatial = _spatial(model, hidden)
    levels = [layer(spatial) for layer in neck.fpn_layers[:-1]]
    levels = [decoder.conv_s0(levels[0]), decoder.conv_s1(levels[1]), levels[2].flatten(2).transpose(1, 2)]
    grid = spatial.shape[-2:]
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
) -> Tensor:
    """The frame fused with what is remembered of conditioning frames, of the frames just before and of all pointers."""
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
    fused = module.memory_attention(
        current_vision_features=features.top.transpose(0, 1),
        current_vision_position_embeddings=position,
        memory=torch.cat([*values, tokens]),
        memory_posision_embeddings=torch.cat([*(k.expand(-1, n, -1) for k in keys), places]),
        num_object_pointer_tokens=len(tokens),
    )
    return fused.transpose(0, 1).reshape(n, -1, width)


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
    """As the model does: the given mask (N, S, S) is the output, and the decoder makes a pointer from it."""
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
    """Memories (g * g, N, 64) of masks (N, S, S); an object not seen leaves an empty one."""
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


def _spatial(model: Any, hidden: Tensor) -> Tensor:
    height, width = model.tracker_model.prompt_encoder.image_embedding_size
    return hidden.float().view(len(hidden), height, width, -1).permute(0, 3, 1, 2)


def _hard(logits: Tensor) -> Tensor:
    return torch.where(logits.detach() > 0, 10.0, -10.0)


def _as_detected(masks: Tensor, generator: torch.Generator) -> Tensor:
    """True masks as a detector would give them: now and then coarse, or a little too large, small or off."""
    roll = float(torch.rand(1, generator=generator))
    if roll < 0.4:
        return masks
    coarse = F.avg_pool2d(masks[:, None].float(), 2)
    side = coarse.shape[-1]
    rough = torch.randn(len(masks), 1, side // 4, side // 4, generator=generator).to(masks.device)
    noise = F.interpolate(rough, size=(side, side), mode="bilinear")
    shifted = coarse + 0.25 * noise * (F.max_pool2d(coarse, 3, 1, 1) + F.max_pool2d(-coarse, 3, 1, 1))
    found = F.interpolate(shifted, size=masks.shape[-2:], mode="bilinear")[:, 0] > 0.5
    return torch.where(found.flatten(1).any(1)[:, None, None], found, masks)


def clicks(masks: Tensor, kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points (N, n, 2) as x, y in pixels of the model's image, and their labels; 2 and 3 are a box's corners."""
    points, labels = [], []
    for mask in masks.cpu():
        rows, columns = torch.nonzero(mask, as_tuple=True)
        inner = _inside(mask)
        if kind == "box":
            low = torch.stack([columns.min(), rows.min()]).float()
            high = torch.stack([columns.max() + 1, rows.max() + 1]).float()
            jitter = 0.06 * (high - low) * (2 * torch.rand(2, 2, generator=generator) - 1)
            points.append(torch.stack([low + jitter[0], high + jitter[1]]))
            labels.append([2, 3])
            continue
        picked = [_pick(inner, generator)]
        sign = [1]
        if kind == "two clicks":
            picked.append(_pick(mask, generator))
            sign.append(1)
        elif kind == "click off":
            picked.append(_pick(_ring(mask), generator))
            sign.append(0)
        points.append(torch.stack(picked))
        labels.append(sign)
    return torch.stack(points).to(masks.device), torch.tensor(labels, dtype=torch.int32).to(masks.device)


def _pick(mask: Tensor, generator: torch.Generator) -> Tensor:
    rows, columns = torch.nonzero(mask, as_tuple=True)
    at = int(torch.randint(len(rows), (1,), generator=generator))
    return torch.stack([columns[at], rows[at]]).float() + torch.rand(2, generator=generator)


def _inside(mask: Tensor) -> Tensor:
    """The mask without its border, or all of it where nothing would be left."""
    eroded = -F.max_pool2d(-F.pad(mask.float()[None, None], (1, 1, 1, 1)), 3, 1)[0, 0] > 0
    return eroded if eroded.any() else mask


def _ring(mask: Tensor) -> Tensor:
    """Pixels off the object, some way from it."""
    far = F.max_pool2d(mask.float()[None, None], 17, 1, 8)[0, 0] > 0
    near = F.max_pool2d(mask.float()[None, None], 5, 1, 2)[0, 0] > 0
    ring = far & ~near
    return ring if ring.any() else ~mask if (~mask).any() else mask


def tracking_losses(outputs: list[FrameOutput], helpers: Helpers) -> dict[str, Tensor]:
    logits = torch.cat([o.logits for o in outputs]).flatten(1)
    truth = torch.cat([F.avg_pool2d(o.masks.float()[None], 2)[0] for o in outputs]).flatten(1)
    scores, ious = torch.cat([o.scores for o in outputs]), torch.cat([o.ious for o in outputs])
    there = torch.cat([o.masks.flatten(1).sum(1) >= VISIBLE for o in outputs])
    seen = there.nonzero()[:, 0]
    losses = {"object": F.binary_cross_entropy_with_logits(scores, there.float())}
    if len(seen):
        logits, truth = logits[seen], truth[seen]
        # Of a small object that is lost to a neighbour, the mean over the frame says little, and dice has no slope.
        wrong = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        probability = logits.sigmoid()
        dice = 1 - (2 * (probability * truth).sum(1) + 1) / (probability.sum(1) + truth.sum(1) + 1)
        found, real = logits.detach() > 0, truth > 0.5
        iou = (found & real).sum(1) / (found | real).sum(1).clamp(min=1)
        losses |= {
            "mask": 8 * wrong.mean() + 0.15 * (wrong.sum(1) / truth.sum(1).clamp(min=64)).mean(),
            "dice": 2 * dice.mean(),
            "iou": 0.5 * (ious[seen] - iou).abs().mean(),
        }
    fused = [(o.fused, o.masks) for o in outputs if o.fused is not None]
    if fused:
        guess = torch.cat([helpers.dense(tokens.float())[..., 0] for tokens, _ in fused])  # (n, g * g)
        side = round(guess.shape[1] ** 0.5)
        share = torch.cat([F.adaptive_avg_pool2d(masks.float()[:, None], side).flatten(1) for _, masks in fused])
        losses["dense"] = 2 * F.binary_cross_entropy_with_logits(guess, share)
    return losses
