"""Decides which of two overlapping objects gives way: recent occlusion, shrinking, exclusive pixels.

Follows `_suppress_overlapping_based_on_recent_occlusion` and `_suppress_object_pw_area_shrinkage` of the code
published with the weights. Only objects of one prompt compete.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sam3ray.engine.transfer import indices

NO_OBJECT_LOGIT = -10.0
SURE_LOGIT = 10.0  # the score with which memories are encoded, in place of the mask's area
NEVER = -1
ALWAYS = 2**62  # later than any frame
SHRINK_THRESHOLD = 0.3


def recently_occluded(ious: np.ndarray, last_occluded: np.ndarray, prompts: np.ndarray, threshold: float) -> np.ndarray:
    """Finds objects that give way to another one with which they nearly coincide.

    Args:
        ious: (n, n) mask IoU of the objects.
        last_occluded: (n,) last frame on which each was empty or gave way; NEVER, or ALWAYS for one being removed.
        prompts: (n,) which prompt each came from.
        threshold: minimum IoU for two objects to coincide; 0 turns the rule off.

    Returns:
        (n,) bool: of a coinciding pair the more recently occluded, provided that the other has been occluded too.
    """
    n = len(last_occluded)
    if threshold <= 0 or n < 2:
        return np.zeros(n, dtype=bool)
    pairs = (ious >= threshold) & (prompts[:, None] == prompts[None, :]) & ~np.eye(n, dtype=bool)
    later = last_occluded[:, None] > last_occluded[None, :]
    return (pairs & later & (last_occluded[None, :] > NEVER)).any(axis=1)


def suppress_shrunk(
    masks: torch.Tensor, groups: Sequence[Sequence[int]], lone: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Removes masks that lose most of their area to better ones. Changes `masks` in place.

    In each group every pixel goes to the highest logit; a mask left with under 30% of its pixels is clamped to -10.
    The overlaps of the others stay.

    Args:
        masks: (n, h, w) logits.
        groups: indices of the objects that compete with each other; each object in one group.
        lone: whether the rule also applies to a group of one, whose mask cannot shrink but may be empty.

    Returns:
        The masks, and (n,) bool: which ones have foreground left.
    """
    before = (masks > 0).flatten(1).sum(1).float()
    after = torch.zeros_like(before)
    limit = torch.full_like(before, float("inf"))
    for group in groups:
        index = indices(group, masks.device)
        if len(group) == 1:
            after[index] = before[index]
            if not lone:
                continue
        else:
            best, owner = (masks if len(group) == len(masks) else masks[index]).max(dim=0)
            after[index] = _won(owner, best > 0, len(group))
        kept = after[index] / before[index].clamp(min=1) >= SHRINK_THRESHOLD
        limit[index] = torch.where(kept, float("inf"), NO_OBJECT_LOGIT)
    torch.minimum(masks, limit.to(masks.dtype).view(-1, 1, 1), out=masks)
    return masks, (before > 0) & (limit > 0)


def _won(owner: torch.Tensor, counts: torch.Tensor, n: int) -> torch.Tensor:
    """(n,) float32: pixels (h, w) that each of n objects owns, of those that count."""
    return (_added if owner.device.type == "cpu" else _compared)(owner, counts, n)


def _added(owner: torch.Tensor, counts: torch.Tensor, n: int) -> torch.Tensor:
    return torch.zeros(n).scatter_add_(0, owner.flatten(), counts.flatten().float())


def _compared(owner: torch.Tensor, counts: torch.Tensor, n: int) -> torch.Tensor:
    """The same for a GPU, where a million additions to a few numbers would wait for each other."""
    each = torch.arange(n, device=owner.device)[:, None, None]
    return ((owner == each) & counts).flatten(1).sum(1).float()
