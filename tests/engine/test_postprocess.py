"""Mask clean-up: the published rules, whatever the device and without optional packages."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from sam3ray.engine.postprocess import _small_on_device, _small_on_host, fill_holes, intersections, ious, nms


def masks_of(draw_shape=(3, 9, 11)):
    return arrays(bool, draw_shape, elements=st.booleans())


def small_by_definition(masks: np.ndarray, limits: list[int]) -> np.ndarray:
    out = np.zeros_like(masks)
    for i, mask in enumerate(masks):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        for label in range(1, count + 1):
            if (labels == label).sum() <= limits[i]:
                out[i] |= labels == label
    return out


@settings(max_examples=60, deadline=None)
@given(masks_of(), st.lists(st.integers(0, 16), min_size=3, max_size=3))
def test_small_components_are_those_of_the_definition_on_both_paths(masks, limits):
    expected = small_by_definition(masks, limits)
    tensor, limit = torch.from_numpy(masks), torch.tensor(limits)
    assert np.array_equal(_small_on_host(tensor, limit).numpy(), expected)
    assert np.array_equal(_small_on_device(tensor, limit, 16).numpy(), expected)


@pytest.mark.parametrize("shape", ["spiral", "line", "comb"])
def test_long_thin_components_are_measured_to_their_end(shape):
    """The device path looks 15 steps far: a component that is longer must count as large, not as its nearest part."""
    mask = np.zeros((20, 40), dtype=bool)
    if shape == "line":
        mask[3, 2:36] = True
    elif shape == "comb":
        mask[5, :] = True
        mask[5:18, ::2] = True
    else:
        mask[2, 2:30] = mask[2:15, 29] = mask[14, 8:30] = mask[6:15, 8] = True
    mask[18, 1:17] = True  # 16 pixels: small
    both = np.stack([mask, mask[:, ::-1]])
    expected = small_by_definition(both, [16, 16])
    assert expected[0, 18, 1:17].all() or shape == "comb"
    limits = torch.tensor([16, 16])
    assert np.array_equal(_small_on_host(torch.from_numpy(both.copy()), limits).numpy(), expected)
    assert np.array_equal(_small_on_device(torch.from_numpy(both.copy()), limits, 16).numpy(), expected)


def test_holes_are_closed_and_specks_dropped():
    masks = torch.full((2, 20, 20), -3.0)
    masks[0, 2:12, 2:12] = 5.0
    masks[0, 5:7, 5:7] = -1.0  # a hole of 4 pixels
    masks[0, 16, 16:18] = 2.0  # a speck of 2
    masks[1, 4, 4:7] = 2.0  # an object of 3 pixels is all there is: it stays
    filled = fill_holes(masks, 16)
    assert torch.all(filled[0, 5:7, 5:7] == torch.tensor(0.1))
    assert torch.all(filled[0, 16, 16:18] == torch.tensor(-0.1))
    assert torch.all(filled[1] == masks[1])
    assert torch.equal(fill_holes(masks, 0), masks)


def test_diagonal_neighbours_are_one_component():
    masks = torch.full((1, 8, 8), -1.0)
    masks[0, :4, :4] = 1.0
    masks[0, 4, 4] = 1.0  # touches the block's corner
    masks[0, 7, 7] = 1.0
    filled = fill_holes(masks, 3)
    assert filled[0, 4, 4] > 0
    assert filled[0, 7, 7] < 0


def test_transformers_skips_all_of_it_without_its_optional_package():
    """If this fails, upstream has mended it."""
    from transformers.models.sam3_video import modeling_sam3_video as modeling

    saved, modeling.cv_utils_kernel = modeling.cv_utils_kernel, False
    try:
        masks = torch.full((1, 1, 20, 20), -3.0)
        masks[0, 0, 2:12, 2:12] = 5.0
        masks[0, 0, 5, 5] = -1.0
        assert torch.equal(modeling.fill_holes_in_mask_scores(masks, 16), masks), "the hole is left open"
        assert fill_holes(masks[0], 16)[0, 5, 5] > 0
        twins = torch.ones(2, 4, 4)
        scores = torch.tensor([0.9, 0.8])
        assert modeling.nms_masks(scores, twins, 0.5, 0.1).tolist() == [True, True], "the duplicate survives"
        assert nms(np.ones((2, 2)), scores.numpy(), 0.1).tolist() == [True, False]
    finally:
        modeling.cv_utils_kernel = saved


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_nms_keeps_a_best_set(n, seed, threshold):
    rng = np.random.default_rng(seed)
    overlap = rng.random((n, n))
    overlap = np.maximum(overlap, overlap.T)
    np.fill_diagonal(overlap, 1)
    scores = rng.choice([0.5, 0.6, 0.7, 0.9], n)
    keep = nms(overlap, scores, threshold)
    kept = np.flatnonzero(keep)
    assert len(kept)
    rank = {int(i): r for r, i in enumerate(sorted(range(n), key=lambda i: (-scores[i], i)))}
    for i in kept:
        assert all(overlap[i, k] <= threshold for k in kept if k != i)
    for i in np.flatnonzero(~keep):
        assert any(overlap[i, k] > threshold and rank[int(k)] < rank[int(i)] for k in kept)


@settings(max_examples=50, deadline=None)
@given(masks_of((3, 5, 6)), masks_of((4, 5, 6)))
def test_ious_are_exactly_those_of_transformers(a, b):
    from transformers.models.sam3_video.modeling_sam3_video import mask_iou

    first, second = torch.from_numpy(a), torch.from_numpy(b)
    shared = intersections(first, second).numpy()
    assert np.array_equal(
        ious(shared, a.sum((1, 2)).astype(np.float32), b.sum((1, 2)).astype(np.float32)),
        mask_iou(first, second).numpy(),
    )
