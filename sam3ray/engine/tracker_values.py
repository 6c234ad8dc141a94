"""The tracker's inputs and outputs, and how masks prompted on one frame share its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from sam3ray.engine.stored import Stored
from sam3ray.engine.transfer import indices


@dataclass(frozen=True, eq=False)
class TrackedMasks:
    """N objects on one frame.

    Attributes:
        masks: (N, h, h) logits at low resolution (4 x the patch grid).
        score_logits: (N,) > 0 where the tracker believes that the object is there.
        iou_scores: (N,) the model's estimate of the mask's IoU, 0..1.
    """

    masks: Stored
    score_logits: Stored
    iou_scores: Stored

    @classmethod
    def joined(cls, parts: Sequence[TrackedMasks], order: Sequence[int] | None = None) -> Self:
        """Joins several, optionally in an order (see `in_order`)."""
        columns = ([getattr(part, each.name) for part in parts] for each in fields(cls))
        return cls(*(in_order(column, order) for column in columns))

    def of(self, places: Sequence[int]) -> Self:
        """Selects the objects at these places."""
        at = indices(list(places), self.masks.device)
        return type(self)(*(getattr(self, each.name)[at] for each in fields(self)))


def in_order(parts: Sequence[Tensor], order: Sequence[int] | None = None) -> Tensor:
    """Joins parts whose objects are those of `order`, and puts object i at place i."""
    joined = parts[0] if len(parts) == 1 else torch.cat(list(parts))
    if order is None or list(order) == list(range(len(order))):
        return joined
    return joined[indices(sorted(range(len(order)), key=order.__getitem__), joined.device)]


@dataclass(frozen=True, eq=False)
class Clicks:
    """All clicks so far on one object of one frame.

    Attributes:
        points: (n, 2) float32, (x, y) in pixels of the model's image; a box is its two corners.
        labels: (n,) int32: 1 on the object, 0 off it, 2 top left and 3 bottom right of a box.
        earlier: (h, h) mask logits of an earlier round on this frame, or None.
    """

    points: Tensor
    labels: Tensor
    earlier: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Prompted(TrackedMasks):
    """Objects that were prompted on a frame, before their memory is encoded.

    `memory_logits` (N, S, S) are the masks at the model's image size.
    """

    memory_logits: Tensor


def non_overlapping_masks(masks: Tensor, groups: Sequence[int] | None) -> Tensor:
    """(N, H, W) bool: takes from every mask what a later one of its group covers."""
    apart = masks.clone()
    covered: dict[int, Tensor] = {}
    for i in range(len(masks) - 1, -1, -1):
        group = 0 if groups is None else groups[i]
        if group in covered:
            apart[i] &= ~covered[group]
            covered[group] = covered[group] | masks[i]
        else:
            covered[group] = masks[i]
    return apart


def non_overlapping_logits(logits: Tensor, groups: Sequence[int] | None) -> Tensor:
    """(N, H, W): leaves every pixel to the highest logit of its group; the others fall to <= -10."""
    if len(logits) < 2:
        return logits
    members: dict[int, list[int]] = {}
    for i in range(len(logits)):
        members.setdefault(0 if groups is None else groups[i], []).append(i)
    out = logits.clone()
    for places in members.values():
        if len(places) > 1:
            rows = indices(places, logits.device)
            group = logits[rows]
            own = torch.arange(len(places), device=logits.device)[:, None, None]
            out[rows] = torch.where(group.argmax(dim=0, keepdim=True) == own, group, group.clamp(max=-10.0))
    return out
