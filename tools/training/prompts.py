"""Makes prompts from true masks, like those of users and detectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("mask", "click", "box", "two clicks", "click off")


def as_detected(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Changes true masks into what a detector might give: sometimes coarse, or slightly too large, too small or
    shifted.
    """
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
    """Points (N, n, 2) as x, y in pixels of the model's image, and their labels; labels 2 and 3 mark a box's
    corners.
    """
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
    """The mask without its border, or the whole mask if nothing would be left."""
    eroded = -F.max_pool2d(-F.pad(mask.float()[None, None], (1, 1, 1, 1)), 3, 1)[0, 0] > 0
    return eroded if eroded.any() else mask


def _ring(mask: Tensor) -> Tensor:
    """Pixels outside the object, at some distance from it."""
    far = F.max_pool2d(mask.float()[None, None], 17, 1, 8)[0, 0] > 0
    near = F.max_pool2d(mask.float()[None, None], 5, 1, 2)[0, 0] > 0
    ring = far & ~near
    return ring if ring.any() else ~mask if (~mask).any() else mask
