"""Runs against pixels: what is measured on cut-out runs is what the whole frames say."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rlemasklib import RLEMask

from sam3ray.evaluate._boundary import boundary


def of_whole_frames(a, b):
    """F by distances between all outline pixels of two frames: the definition, nothing cut out."""
    reach = max(int(np.ceil(0.008 * np.hypot(*a.shape))), 1)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)) > 0
    edges = [outline(a), outline(b)]
    shares = []
    for one, other in (edges, edges[::-1]):
        near = 0
        for y, x in np.argwhere(one):
            offsets = np.argwhere(other) - (y, x)
            close = offsets[(np.abs(offsets) <= reach).all(1)] + reach
            near += bool(disk[close[:, 0], close[:, 1]].any())
        shares.append(near / one.sum())
    return 2 * shares[0] * shares[1] / max(sum(shares), 1e-9)


def outline(mask):
    wide = np.pad(mask, 1)
    shifted = [
        wide[1 + dy : 1 + dy + len(mask), 1 + dx : 1 + dx + mask.shape[1]] for dy in (-1, 0, 1) for dx in (-1, 0, 1)
    ]
    return mask & ~np.logical_and.reduce(shifted)


rectangles = st.tuples(st.integers(0, 56), st.integers(0, 90), st.integers(1, 40), st.integers(1, 60))


def drawn(parts):
    mask = np.zeros((64, 100), bool)
    for y, x, h, w in parts:
        mask[y : y + h, x : x + w] ^= True
    return mask


@settings(max_examples=60, deadline=None)
@given(st.lists(rectangles, min_size=1, max_size=3), st.lists(rectangles, min_size=1, max_size=3))
def test_f_is_that_of_the_whole_frames(first, second):
    a, b = drawn(first), drawn(second)
    found = boundary(RLEMask.from_array(a), RLEMask.from_array(b))
    assert found == (pytest.approx(of_whole_frames(a, b)) if a.any() and b.any() else 0)


def test_masks_that_touch_no_pixel_agree_on_none():
    empty, full = RLEMask.from_array(drawn([])), RLEMask.from_array(drawn([(0, 0, 64, 100)]))
    assert boundary(empty, full) == boundary(full, empty) == 0
    assert boundary(full, full) == 1
