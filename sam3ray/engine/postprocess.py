"""Cleans up masks by the published rules, without optional kernels: NMS, holes, specks, overlaps.

Results do not depend on the device. Components are 8-connected on both sides, as in the code published with the
weights (`sam3/perflib/connected_components.py`: scikit-image's default, full connectivity).
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from sam3ray.engine.capture import Captured

HOLE_LOGIT = 0.1
SPRINKLE_LOGIT = -0.1
DESCRIPTION = "mask NMS, hole filling, sprinkle removal: built in (8-connected)"


def nms(ious: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression; equal scores go by index.

    Args:
        ious: (n, n) pairwise IoU.
        scores: (n,)
        threshold: a detection is dropped if its IoU with a better kept one is above.

    Returns:
        (n,) bool, True where kept.
    """
    keep = np.ones(len(scores), dtype=bool)
    above = ious > threshold
    for best in np.argsort(-scores, kind="stable"):
        if keep[best]:
            dropped = above[best].copy()
            dropped[best] = False
            keep &= ~dropped
    return keep


def intersections(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pixels shared by each pair of masks: bool (n, h, w) and (m, h, w) -> float32 (n, m), exact below 2**24."""
    with torch.autocast(a.device.type, enabled=False):  # under which counts would be bfloat16
        return a.flatten(1).float() @ b.flatten(1).float().T


def ious(shared: np.ndarray, areas_a: np.ndarray, areas_b: np.ndarray) -> np.ndarray:
    """IoU (n, m) float32 from intersections (n, m) and areas (n,), (m,); two empty masks have IoU 0."""
    union = areas_a[:, None] + areas_b[None, :] - shared
    return shared.astype(np.float32) / np.maximum(union, 1).astype(np.float32)


def fill_holes(masks: torch.Tensor, max_area: int) -> torch.Tensor:
    """Fills small holes, then removes small specks.

    Background components of at most `max_area` pixels become +0.1; then foreground components of at most
    min(max_area, half of the mask's area) become -0.1, so that a tiny object survives.

    Args:
        masks: (n, h, w) logits; foreground is > 0.
        max_area: pixels; 0 changes nothing.

    Returns:
        (n, h, w), the input itself if there is nothing to do.
    """
    if max_area <= 0 or masks.numel() == 0:
        return masks
    if masks.device.type == "cpu":
        return _filled(masks, max_area)
    return _filling(max_area)(masks)[0]


@lru_cache(maxsize=4)
def _filling(max_area: int) -> Captured:
    return Captured("hole filling", lambda masks: (_filled(masks, max_area),), rows=(0,))


def _filled(masks: torch.Tensor, max_area: int) -> torch.Tensor:
    holes = _small_components(masks <= 0, torch.full((len(masks),), max_area, device=masks.device), max_area)
    masks = torch.where(holes, HOLE_LOGIT, masks)
    foreground = masks > 0
    limits = (foreground.flatten(1).sum(1) // 2).clamp(max=max_area)
    return torch.where(_small_components(foreground, limits, max_area), SPRINKLE_LOGIT, masks)


def _small_components(masks: torch.Tensor, limits: torch.Tensor, max_area: int) -> torch.Tensor:
    """Marks components of at most `limits` (n,) pixels in masks (n, h, w) bool. No limit is above max_area."""
    if masks.device.type == "cpu":
        return _small_on_host(masks, limits)
    return _small_on_device(masks, limits, max_area)


def _small_on_host(masks: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """Labels the whole batch at once, as one tall image with an empty row between two masks."""
    n, height, width = masks.shape
    tall = np.zeros((n, height + 1, width), dtype=np.uint8)
    tall[:, :height] = masks.numpy()
    _, labels, stats, _ = cv2.connectedComponentsWithStats(tall.reshape(-1, width), connectivity=8)
    owner = stats[:, cv2.CC_STAT_TOP] // (height + 1)
    small = stats[:, cv2.CC_STAT_AREA] <= limits.numpy()[owner]
    small[0] = False  # the label of everything outside the masks
    if not small.any():
        return torch.zeros_like(masks)
    return torch.from_numpy(small[labels].reshape(n, height + 1, width)[:, :height].copy())


def _small_on_device(masks: torch.Tensor, limits: torch.Tensor, max_area: int) -> torch.Tensor:
    """A fixed amount of work, without waiting for the device.

    Each pixel takes the highest index within max_area - 1 steps inside its component. A component of at most max_area
    pixels then has a single index; if neighbours still differ, the component is larger.
    """
    n, height, width = masks.shape
    pixels = height * width
    inside = masks.unsqueeze(1)
    index = torch.arange(1, pixels + 1, device=masks.device, dtype=torch.float32).view(1, 1, height, width)
    labels = torch.where(inside, index, 0.0)
    for _ in range(max(1, max_area - 1)):
        labels = torch.where(inside, F.max_pool2d(labels, 3, 1, 1), 0.0)
    lowest = -F.max_pool2d(torch.where(inside, -labels, -float(pixels + 1)), 3, 1, 1)
    highest = F.max_pool2d(labels, 3, 1, 1)
    torn = inside & ((lowest != labels) | (highest != labels))
    slots = labels.view(n, pixels).long()
    counts = torch.zeros((n, pixels + 1), device=masks.device, dtype=torch.float32)
    # A component with more than one index is larger than any limit.
    weight = torch.where(torn, float(max_area + 1), 1.0).view(n, pixels)
    counts.scatter_add_(1, slots, weight)
    sizes = counts.gather(1, slots).view(n, height, width)
    return masks & (sizes <= limits.view(n, 1, 1))
