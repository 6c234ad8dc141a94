"""Run lengths against pycocotools, the reference, and against hostile strings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from sam3ray import masks as m

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=3, max_dims=3, max_side=23))


def blobs(seed: int, n: int, height: int, width: int) -> np.ndarray:
    """Masks with long runs, holes, and runs that cross columns, as those of real objects."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    out = np.zeros((n, height, width), dtype=bool)
    for mask in out:
        for _ in range(rng.integers(0, 5)):
            cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(1, max(height, width) / 2)
            mask ^= (y - cy) ** 2 + (x - cx) ** 2 < r * r
    return out


def reference(mask: np.ndarray) -> tuple[str, int, tuple[int, ...]]:
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    ys, xs = np.nonzero(mask)
    box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0)
    return rle["counts"].decode(), int(coco.area(rle)), tuple(int(v) for v in box)


def check(batch: np.ndarray, encoded: list[m.EncodedMask]) -> None:
    assert [(e.rle, e.area, e.bbox) for e in encoded] == [reference(mask) for mask in batch]


@settings(deadline=None)
@given(MASKS)
def test_host_encoder_equals_pycocotools(batch):
    check(batch, m.encode_masks(batch))
    check(batch, m.encode_masks(np.asfortranarray(batch)))
    check(batch, m.encode_masks(batch.view(np.uint8) * 7))
    check(batch[:, ::-1, ::-1], m.encode_masks(batch[:, ::-1, ::-1]))


@settings(deadline=None)
@given(MASKS)
def test_device_encoder_equals_pycocotools(batch):
    torch = pytest.importorskip("torch")
    check(batch, m._encode_on_device(torch.from_numpy(batch)))
    turned = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 2, 1))).transpose(1, 2)
    check(batch, m._encode_on_device(turned.to(torch.uint8)))


def test_both_encoders_on_object_like_masks(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(m, "_DEVICE_CHUNK", 3 * 301 * 177)  # several chunks
    batch = blobs(0, 11, 301, 177)
    batch[3], batch[4] = False, True
    check(batch, m.encode_masks(batch))
    check(batch, m._encode_on_device(torch.from_numpy(batch)))


@settings(deadline=None)
@given(MASKS)
def test_decoding_gives_the_mask_its_area_and_its_box(batch):
    for mask in batch:
        rle, area, box = reference(mask)
        height, width = mask.shape
        decoded = m.decode_rle(rle, height, width)
        assert decoded.dtype == bool
        assert decoded.flags.c_contiguous
        assert np.array_equal(decoded, mask)
        assert m.rle_area(rle, height, width) == area
        assert m.rle_bbox(rle, height, width) == box


def test_no_masks():
    assert m.encode_masks(np.zeros((0, 4, 5), dtype=bool)) == []
    torch = pytest.importorskip("torch")
    assert m._encode_on_device(torch.zeros((0, 4, 5), dtype=torch.bool)) == []


@pytest.mark.parametrize("bad", [np.zeros((4, 5), bool), np.zeros((1, 0, 5), bool), np.zeros((1, 4, 5), np.float32)])
def test_wrong_arrays_are_refused(bad):
    with pytest.raises(ValueError, match="must"):
        m.encode_masks(bad)


@pytest.mark.parametrize(
    "rle",
    [
        "",
        "P",
        "0P",
        "D1 ",
        "D1\u00e9",
        "D1\x00",
        "ooooooooooooooooooooo0",
        "F",
        "T10",
        "B",
        "L",
        "!" * 9,
        "oooooo0" * 3,
    ],
)
def test_malformed_strings_are_refused(rle):
    with pytest.raises(ValueError, match="height 4 and width 5"):
        m.decode_rle(rle, 4, 5)


def test_size_must_match_and_be_sane():
    (one,) = m.encode_masks(np.ones((1, 4, 5), bool))
    assert m.decode_rle(one.rle, 5, 4).all()  # 20 pixels either way: the string alone cannot tell
    for height, width in [(4, 4), (5, 5), (0, 5), (-4, -5), (2**20, 2**20)]:
        with pytest.raises(ValueError):
            m.decode_rle(one.rle, height, width)


@settings(deadline=None)
@given(st.text(alphabet=[chr(c) for c in range(46, 114)], max_size=30), st.integers(1, 40), st.integers(1, 40))
def test_any_string_is_refused_or_decodes_as_pycocotools_does(rle, height, width):
    try:
        decoded = m.decode_rle(rle, height, width)
    except ValueError:
        return
    assert np.array_equal(decoded, coco.decode({"size": [height, width], "counts": rle.encode()}))


@settings(deadline=None)
@given(MASKS, st.data())
def test_one_malformed_string_among_many_spoils_no_other(batch, data):
    height, width = batch.shape[1:]
    texts = [e.rle for e in m.encode_masks(batch)]
    at = data.draw(st.integers(0, len(texts)))
    texts.insert(at, data.draw(st.sampled_from(["", "P", "~", "0" * 7 + "P", "o" * 30])))
    joined = np.frombuffer("".join(texts).encode(), dtype=np.uint8)
    offsets = np.concatenate(([0], np.cumsum([len(t) for t in texts])))
    counts, run_offsets, valid = m.read_runs(joined, offsets, np.full(len(texts), height * width))
    assert valid.tolist() == [i != at for i in range(len(texts))]
    for i, text in enumerate(texts):
        if i != at:
            assert counts[run_offsets[i] : run_offsets[i + 1]].tolist() == m.rle_counts(text, height, width).tolist()


@settings(deadline=None)
@given(hnp.arrays(np.bool_, st.tuples(st.integers(2, 5), st.integers(1, 19), st.integers(1, 19))), st.data())
def test_runs_measure_and_compare_as_pixels_do(batch, data):
    first, *others = [m.MaskRuns.of_mask(mask) for mask in batch]
    for mask, runs in zip(batch, (first, *others), strict=True):
        rle, area, box = reference(mask)
        assert (runs.area, runs.bbox, runs.shape) == (area, box, mask.shape)
        assert runs.encoded() == m.EncodedMask(rle, area, box)
        again = m.read_rle(rle, *mask.shape)
        assert np.array_equal(again.starts, runs.starts)
        assert np.array_equal(again.ends, runs.ends)
        assert np.array_equal(runs.pixels(), mask)
    x0, y0 = data.draw(st.integers(0, batch.shape[2] - 1)), data.draw(st.integers(0, batch.shape[1] - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, batch.shape[2])), data.draw(st.integers(y0 + 1, batch.shape[1]))
    assert np.array_equal(first.crop(x0, y0, x1, y1), batch[0][y0:y1, x0:x1])
    assert first.common(others).tolist() == [int((batch[0] & mask).sum()) for mask in batch[1:]]
    expected = [[(a & b).sum() / max(1, (a | b).sum()) for b in batch] for a in batch]
    assert np.allclose(m.iou_matrix([first, *others], [first, *others]), expected)


@settings(deadline=None)
@given(MASKS, st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.integers(0, 2))
def test_a_crop_is_encoded_as_the_mask_it_stands_for(batch, top, left, below, right):
    for crop in batch:
        mask = np.pad(crop, ((top, below), (left, right)))
        check(mask[None], [m.encode_crop(crop, top, left, *mask.shape)])


def test_background_runs_of_no_length_join_their_neighbours():
    runs = m.MaskRuns.of_counts(np.array([2, 3, 0, 2, 1, 0, 4]), 3, 4)
    assert (runs.starts.tolist(), runs.ends.tolist(), runs.area) == ([2], [7], 5)
