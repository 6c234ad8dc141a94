"""How well two outlines agree: the measure F of Perazzi et al. 2016."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from rlemasklib import RLEMask

Mask = NDArray[np.bool_]


def boundary(a: RLEMask, b: RLEMask, share: float = 0.008) -> float:
    """F measure of the outlines of two masks of one size, 0..1; points closer than `share` of the frame's diagonal
    agree. Only the part of the frame that holds the two is looked at."""
    reach = max(int(np.ceil(share * np.hypot(*a.shape))), 1)
    if not a.area() or not b.area():
        return 0.0
    x, y, w, h = (a | b).bbox().astype(int)
    height, width = a.shape
    left, top = max(x - reach, 0), max(y - reach, 0)
    right, bottom = min(x + w + reach, width), min(y + h + reach, height)
    crop = np.array([left, top, right - left, bottom - top], np.uint32)
    edge_a, edge_b = _outline(a.crop(crop)), _outline(b.crop(crop))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    near_a = cv2.dilate(edge_a.astype(np.uint8), disk) > 0
    near_b = cv2.dilate(edge_b.astype(np.uint8), disk) > 0
    precision = (edge_b & near_a).sum() / edge_b.sum()
    recall = (edge_a & near_b).sum() / edge_a.sum()
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _outline(mask: RLEMask) -> Mask:
    pixels = mask.to_array(order="C")
    box = np.ones((3, 3), np.uint8)
    inner = cv2.erode(pixels, box, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return (pixels > 0) & (inner == 0)
