"""Trains the tracker on the frozen trunk: prompts on the first frame, then frame after frame by memory.

Scores and masks are trained independently: the mask of an object considered absent is trained, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3ray.shapes import COLOURS, SHAPES

from .prompts import KINDS
from .samples import Track, draw_track
from .schedule import SIZE_PENALTY, Run
from .unroll import VISIBLE, FrameOutput, Known, spatial, token_share, unroll

LIMITS = ((0.05, 1), (0.12, 3), (0.25, 6), (1.01, 18))  # up to this share of the stage, frames per clip at most
#: Batches in turn: clips, frames of each, and how many of those run without gradients, as far as the limit allows.
#: Masks are learnt from many objects on few frames, patience from few objects on many.
BATCHES = ((6, 3, 0), (4, 12, 7), (4, 6, 0), (6, 3, 0), (4, 12, 7), (12, 1, 0), (4, 6, 0), (3, 18, 12))
SHARES = (0.55, 0.17, 0.13, 0.08, 0.07)  # of KINDS
AGAIN = 0.5  # share of the batches of three frames and more that get a second mask in the middle
NAMED = 0.25  # weight of the names of colours and shapes that features, memories and pointers must keep
TAUGHT = 0.25  # up to this share of the stage, memories are told whether the object is there


@dataclass
class Batch:
    tracks: list[Track]
    blind: int


class Helpers(nn.Module):
    """Modules that training needs in addition to the model. They predict how much of each token of the fused frame
    belongs to the object, and the names of colours and shapes from the features, the memory and the pointer.
    """

    def __init__(self, width: int, memory: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 1)
        self.top, self.memory, self.pointer = (nn.Linear(w, len(COLOURS) + len(SHAPES)) for w in (width, memory, width))


def draw_batch(index: int, *, size: int, objects: int, first: int) -> Batch:
    """Draws the batch of a step. Depends only on its arguments."""
    clips, frames, blind = BATCHES[index % len(BATCHES)]
    return Batch([draw_track(first + 50 * (16 * index + i), size, frames, objects) for i in range(clips)], blind)


def adopt_neck(model: Any, pixels: Tensor) -> None:
    """Starts the tracker's neck from the detector's. Each level is rescaled to a standard deviation of 1 over `pixels`
    (B, 3, S, S), because at the detector's scale attention would be saturated from the start.
    """
    model.tracker_neck.load_state_dict(model.detector_model.vision_encoder.neck.state_dict())
    with torch.no_grad():
        backbone = model.detector_model.vision_encoder.backbone
        hidden = spatial(model, backbone(pixels.to(model.device)).last_hidden_state)
        for layer in model.tracker_neck.fpn_layers[:-1]:
            scale = layer(hidden).std()
            layer.proj2.weight.div_(scale)
            layer.proj2.bias.div_(scale)


def train_tracker(run: Run) -> None:
    """Trains the whole tracker with its neck, on the detector's backbone."""
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
        # From a mask given on a single frame, only its pointer can be learnt.
        shares = torch.tensor(SHARES if frames > 1 else (0.0, *SHARES[1:]))
        kind = KINDS[int(torch.multinomial(shares, 1, generator=generator))]
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            outputs = unroll(
                model, batch.tracks, frames, kind, generator,
                teach=run.progress < TAUGHT, blind=min(batch.blind, frames - 1), again=_again(frames, generator),
            )  # fmt: skip
        run.step(tracking_losses(outputs, run.helpers))


def _again(frames: int, generator: torch.Generator) -> frozenset[int]:
    """Frames on which masks are given again: up to three between the first and the last, more in longer clips, or
    none.
    """
    if frames < 3 or float(torch.rand(1, generator=generator)) >= AGAIN:
        return frozenset()
    return frozenset(torch.randint(1, frames - 1, (1 + frames // 6,), generator=generator).tolist())


def tracking_losses(outputs: list[FrameOutput], helpers: Helpers) -> dict[str, Tensor]:
    logits = torch.cat([o.logits for o in outputs]).flatten(1)
    truth = torch.cat([F.avg_pool2d(o.masks.float()[None], 2)[0] for o in outputs]).flatten(1)
    scores, ious = torch.cat([o.scores for o in outputs]), torch.cat([o.ious for o in outputs])
    there = torch.cat([o.masks.flatten(1).sum(1) >= VISIBLE for o in outputs])
    seen = there.nonzero()[:, 0]
    losses = {"object": F.binary_cross_entropy_with_logits(scores, there.float())}
    # Nothing normalises memories. Without a penalty they grow until attention saturates and colours and places are
    # lost.
    losses["size"] = SIZE_PENALTY * torch.stack([o.size for o in outputs]).mean()
    if len(seen):
        logits, truth = logits[seen], truth[seen]
        # If a small object is lost to a neighbour, the mean over the frame hardly changes, and dice has no slope.
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
    fused = [(o.fused, token_share(o.masks, o.fused.shape[1]), o.matched) for o in outputs if o.fused is not None]
    if fused:
        guess = torch.cat([helpers.dense(tokens.float())[..., 0] for tokens, _, _ in fused])  # (n, g * g)
        share = torch.cat([share for _, share, _ in fused])
        losses["dense"] = 2 * F.binary_cross_entropy_with_logits(guess, share)
    known = [o.known for o in outputs if o.known is not None]
    if known:
        # An object's last place nearly always tells where it is, until it meets another one. Then only its look tells,
        # which the features, the memory and the pointer have forgotten by then, unless training makes them keep it.
        losses["top"] = NAMED * _named(helpers.top, known, "top", "names")
        losses["memory"] = NAMED * _named(helpers.memory, known, "memory", "names")
        losses["pointer"] = NAMED * _named(helpers.pointer, known, "pointer", "name")
    if fused and fused[0][2]:
        # A token should attend to the same object as its own. Without this loss, tokens attend to where the object was.
        matched = torch.stack([torch.stack(layers) for _, _, layers in fused]).clamp(1e-3, 1 - 1e-3)
        target = torch.stack([share for _, share, _ in fused])[:, None].expand_as(matched)
        losses["match"] = 2 * F.binary_cross_entropy(matched, target)
    return losses


def _named(head: nn.Module, known: list[Known], feature: str, names: str) -> Tensor:
    """Cross entropy of the colours and shapes that `head` predicts from a feature, where there is something to name."""
    guess = head(torch.cat([getattr(k, feature).float().flatten(0, -2) for k in known]))
    truth = torch.cat([getattr(k, names).flatten(0, -2) for k in known])
    named = truth[:, 0] >= 0
    colour, shape = guess[named].split((len(COLOURS), len(SHAPES)), -1)
    wrong = F.cross_entropy(colour, truth[named, 0], reduction="sum")
    wrong = wrong + F.cross_entropy(shape, truth[named, 1], reduction="sum")
    return wrong / named.sum().clamp(min=1)
