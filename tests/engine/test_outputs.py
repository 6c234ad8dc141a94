"""Final masks: the same pixels as resizing every mask whole, at the cost of the objects alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ray.engine import outputs
from sam3ray.engine.outputs import FrameResult, final_masks
from sam3ray.masks import decode_rle, encode_masks
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.video import FrameStamp


def result(masks: torch.Tensor, scores, prompts=None) -> FrameResult:
    n = len(masks)
    return FrameResult(
        stamp=FrameStamp(3, 1536, 0.12),
        object_ids=[10 + k for k in range(n)],
        prompts=["red"] * n,
        groups=prompts or [0] * n,
        scores=[0.9] * n,
        track_scores=np.array(scores, dtype=np.float32),
        masks=masks,
    )


def by_definition(masks, scores, prompts, height, width) -> np.ndarray:
    """Resize all, threshold, and give each pixel to the best object of its prompt."""
    binary = (F.interpolate(masks[:, None].float(), (height, width), mode="bilinear")[:, 0] > 0).numpy()
    out = binary.copy()
    for k in range(len(masks)):
        for other in range(len(masks)):
            better = (-scores[other], other) < (-scores[k], k)
            if prompts[other] == prompts[k] and better:
                out[k] &= ~binary[other]
    return out


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.sampled_from([(37, 51), (120, 80), (14, 14), (9, 200), (1, 1), (5, 4)]),
)
def test_masks_are_those_of_the_definition(seed, n, size):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 1, 5, 5, generator=generator) - 0.4
    masks = F.interpolate(coarse, (14, 14), mode="bicubic")[:, 0]
    # Values as hole filling leaves them meet halfway at exactly zero.
    masks = torch.where(masks.abs() < 0.2, 0.1 * masks.sign(), masks)
    scores = torch.randint(1, 4, (n,), generator=generator).float().div(4).tolist()
    prompts = torch.randint(2, (n,), generator=generator).tolist()
    expected = by_definition(masks, scores, prompts, *size)

    def encode_on_device(*of):
        return encode_masks(outputs._pixels(*of))

    for path in (outputs._encode_on_host, encode_on_device):
        encoded = path(result(masks, scores, prompts), range(n), *size)
        for mask, rle in zip(expected, encoded, strict=True):
            if rle is None:
                assert not mask.any()
                continue
            assert np.array_equal(decode_rle(rle.rle, *size), mask)
            assert rle.area == mask.sum()
            if rle.area:
                y, x = np.nonzero(mask)
                assert rle.bbox == (x.min(), y.min(), x.max() + 1, y.max() + 1)


def finished(masks: FrameResult, shown: list[int], height: int = 16, width: int = 16) -> FrameAnnotations:
    return final_masks(masks.stamp, [(masks, shown)], height, width)[0]


def test_a_frame_that_shows_nothing_has_its_empty_tensor_on_the_models_device():
    device, stamp = torch.device("meta"), FrameStamp(3, 1536, 0.12)
    nobody = result(torch.empty(0, 1, 1), [])  # as a frame without objects leaves the loop, on the host
    for parts in ([], [(nobody, [])]):
        frame, pixels = final_masks(stamp, parts, 16, 24, "tensor", device)
        assert not frame.objects
        assert pixels.device == device
        assert (pixels.shape, pixels.dtype) == ((0, 16, 24), torch.bool)


def test_hidden_objects_take_no_pixels():
    masks = torch.full((2, 8, 8), 1.0)
    both = finished(result(masks, [0.5, 0.9]), [0, 1])
    assert [each.object_id for each in both.objects] == [11], "the worse one has no pixels left"
    (shown,) = finished(result(masks, [0.5, 0.9]), [0]).objects
    assert (shown.object_id, shown.area) == (10, 256)


def test_nothing_to_show():
    empty = finished(result(torch.full((2, 8, 8), -1.0), [0.5, 0.9]), [0, 1])
    assert empty.objects == ()
    assert finished(result(torch.empty(0, 1, 1), []), []).objects == ()


def test_rows_carry_frame_and_phrase():
    masks = torch.full((2, 8, 8), -1.0)
    masks[0, :4], masks[1, 4:] = 1.0, 1.0
    frame = finished(replace(result(masks, [0.5, 0.75], [1, 0]), prompts=["blue", "red"]), [0, 1], 16, 12)
    assert (frame.frame_index, frame.pts, frame.time_s, frame.height, frame.width) == (3, 1536, 0.12, 16, 12)
    assert [(o.object_id, o.prompt, o.score, o.track_score) for o in frame.objects] == [
        (10, "blue", 0.9, 0.5),
        (11, "red", 0.9, 0.75),
    ]
    assert frame.objects[0].bbox == (0.0, 0.0, 12.0, 8.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_any_dtype_of_logits(dtype):
    masks = torch.full((1, 8, 8), -1.0, dtype=dtype)
    masks[0, 2:6, 2:6] = 1.0
    assert finished(result(masks, [0.5]), [0]).objects[0].area == 64
