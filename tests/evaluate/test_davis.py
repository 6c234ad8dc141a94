"""J and F: TrackEval's numbers, from cut-out runs instead of whole frames."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ray.evaluate._davis import SeenFrame, j_and_f, outline_f
from sam3ray.masks import MaskRuns, encode_masks, iou_matrix

HEIGHT, WIDTH = 64, 100
rectangles = st.tuples(st.integers(0, 63), st.integers(0, 99), st.integers(1, 64), st.integers(1, 100))
masks = st.lists(rectangles, min_size=1, max_size=3)
ids = st.dictionaries(st.integers(1, 3), masks, max_size=3)


def drawn(parts):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for y, x, h, w in parts:
        mask[y : y + h, x : x + w] ^= True
    return MaskRuns.of_mask(mask)


def frame(asked, predicted, ignored=()):
    asked, predicted = ({k: m for k, p in of.items() if (m := drawn(p)).area} for of in (asked, predicted))
    ious = iou_matrix([*asked.values()], [*predicted.values()]) if asked and predicted else None
    ious = np.zeros((len(asked), len(predicted))) if ious is None else ious
    return SeenFrame(asked, {k: drawn([(0, 0, 9, 9)]) for k in ignored}, predicted, ious)


def coded_mask(mask):
    (encoded,) = encode_masks(mask.pixels()[None])
    return {"size": [HEIGHT, WIDTH], "counts": encoded.rle}


@pytest.fixture(scope="module")
def track_eval():
    """TrackEval's measure, which takes nothing from scikit-image but a disk."""
    metrics = pytest.importorskip("trackeval.metrics")
    disks = ModuleType("skimage.morphology")
    disks.disk = lambda r: np.hypot(*np.mgrid[-r : r + 1, -r : r + 1]) <= r

    def measure(frames):
        sides = []
        for side in ("asked", "given"):
            numbers = {}
            tracks = [[numbers.setdefault(k, len(numbers)) for k in getattr(f, side)] for f in frames]
            coded = [[coded_mask(m) for m in getattr(f, side).values()] for f in frames]
            sides.append((len(numbers), tracks, coded))
        (gts, gt_ids, gt_dets), (trackers, tracker_ids, tracker_dets) = sides
        found = metrics.JAndF().eval_sequence(
            {
                "num_timesteps": len(frames), "num_gt_ids": gts, "num_tracker_ids": trackers, "gt_ids": gt_ids,
                "tracker_ids": tracker_ids, "gt_dets": gt_dets, "tracker_dets": tracker_dets,
            }
        )  # fmt: skip
        return found["J-Mean"], found["F-Mean"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "skimage", ModuleType("skimage"))
        patch.setitem(sys.modules, "skimage.morphology", disks)
        yield measure


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(frame, ids, ids), min_size=1, max_size=4).filter(lambda fs: any(f.asked for f in fs)))
def test_whole_tracks_measure_what_track_eval_says(track_eval, frames):
    # Two partners of the same J may be chosen either way, and differ in F.
    assert np.mean([j for j, _ in j_and_f(frames)]) == pytest.approx(track_eval(frames)[0])


@settings(max_examples=60, deadline=None)
@given(masks, masks)
def test_outlines_measure_what_track_eval_says(track_eval, first, second):
    one = frame({1: first}, {1: second})
    if one.asked and one.given:
        assert outline_f(one.asked[1], one.given[1]) == pytest.approx(track_eval([one])[1])


def test_an_object_that_left_is_right_where_nothing_is_put_out_and_wrong_where_something_is():
    square, gone = {1: [(5, 5, 20, 20)]}, {}
    assert j_and_f([frame(square, square), frame(gone, gone)]) == [(1, 1)]
    assert j_and_f([frame(square, square), frame(gone, square)]) == [(0.5, 0.5)]


def test_frames_on_which_an_object_is_hardly_seen_are_left_out():
    square = {1: [(5, 5, 20, 20)]}
    for output in ({}, square):
        assert j_and_f([frame(square, square), frame({}, output, ignored=[1])]) == [(1, 1)]
