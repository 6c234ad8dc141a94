"""cgF1: counts made by hand, and the properties that its definition promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ray.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.evaluate import Tolerance, evaluate, merge
from sam3ray.evaluate._concept import Concept, score_concepts
from sam3ray.masks import encode_masks


def block(object_id, x, width=10, prompt="thing", score=1.0, visibility=None):
    mask = np.zeros((1, 40, 60), bool)
    mask[0, 5:15, x : x + width] = True
    found = encode_masks(mask)[0]
    bbox = tuple(map(float, found.bbox))
    return ObjectAnnotation(object_id, prompt, score, 1.0, bbox, found.area, found.rle, visibility)


def clip(*frames):
    return [FrameAnnotations(t, t, t / 10, 40, 60, tuple(found)) for t, found in enumerate(frames)]


TRUE = clip([block(1, 0), block(2, 40)], [block(1, 0), block(2, 40)])


def concept(predicted, truth=TRUE, prompts=("thing",), **tolerance):
    return evaluate(predicted, truth, prompts, Tolerance(**tolerance)).comparisons[0].concept


def test_masklets_are_matched_by_the_iou_of_their_tubes():
    # 10 of 10 columns on the first frame, 5 of 10 on the second: 150 / 200 = .75, which holds up to that threshold.
    half = clip([block(7, 0), block(8, 40)], [block(7, 5, 5), block(8, 40)])
    assert concept(half) == Concept(2, 2, (2, 2, 2, 2, 2, 2, 1, 1, 1, 1))


def test_an_object_that_changes_its_id_is_half_a_masklet_twice():
    broken = clip([block(7, 0), block(8, 40)], [block(9, 0), block(8, 40)])
    assert concept(broken) == Concept(2, 3, (2, *[1] * 9))


def test_objects_that_are_hardly_seen_are_asked_for_and_regions_are_not():
    faint = clip([block(1, 0, visibility=0.01), block(2, 40, visibility=0.0)])
    assert concept(clip([block(1, 0)]), faint) == Concept(1, 1, (1,) * 10)


def test_what_the_model_was_not_sure_of_is_left_out():
    unsure = clip(*[[block(1, 0, score=0.4), block(2, 40)]] * 2)
    assert concept(unsure).predicted == 1
    assert concept(unsure, min_score=0.0).predicted == 2


def test_cgf1_is_f1_where_the_phrase_is_times_the_correlation_of_yes_and_no():
    pairs = [
        Concept(2, 3, (2,) * 10),  # found, and one too many
        Concept(2, 0, (0,) * 10),  # missed
        Concept(0, 1, (0,) * 10),  # a ghost
        *[Concept(0, 0, (0,) * 10)] * 5,
    ]
    scores = score_concepts(pairs)
    assert scores.pmf1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert scores.il_mcc == pytest.approx((1 * 5 - 1 * 1) / (2 * 2 * 6 * 6) ** 0.5)
    assert scores.cgf1 == pytest.approx(scores.pmf1 * scores.il_mcc)


def test_without_an_absent_phrase_there_is_no_correlation():
    report = evaluate(TRUE, TRUE, ["thing"])
    assert (report.overall.pmf1, report.overall.il_mcc, report.overall.cgf1) == (1, None, None)
    both = merge([report, evaluate(TRUE, TRUE, ["ghost"], clip_id="other")])
    assert both.overall.cgf1 == 1
    assert score_concepts([Concept(1, 1, (1,) * 10), Concept(0, 1, (0,) * 10)]).cgf1 == 0  # it always says yes


def test_phota_asks_for_everything():
    faint = clip(*[[block(1, 0, visibility=0.1), block(2, 40)]] * 2)
    found = evaluate(clip(*[[block(2, 40)]] * 2), faint, ["thing"]).overall
    assert found.hota == 1
    assert found.phota == pytest.approx(0.5**0.5)  # half of the boxes are found, all of them with the right id


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)).map(
            lambda v: Concept(v[0], v[1], tuple(min(v) if k < 5 else 0 for k in range(10)))
        ),
        max_size=8,
    )
)
def test_figures_stay_in_bounds_and_do_not_depend_on_the_order(pairs):
    scores = score_concepts(pairs)
    assert scores == score_concepts(pairs[::-1])
    assert scores.pmf1 is None or 0 <= scores.pmf1 <= 1
    assert scores.il_mcc is None or -1 <= scores.il_mcc <= 1
