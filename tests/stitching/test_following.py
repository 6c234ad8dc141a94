"""How far a window runs on for the objects that it does not show at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from sam3ray.stitching import Following
from sam3ray.stitching._following import SEEN
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.values.cutting import MOST_FOLLOWED, Cut

CUT = Cut(0, 0, 20, 24, 38, 24 + MOST_FOLLOWED)


def stop(seen: Mapping[int, set[int]], cut: Cut = CUT) -> int | None:
    """Where the rows end that show each object on some frames."""
    following = Following(cut)
    for position in range(cut.start, cut.start + 1000):
        items = tuple(
            ObjectAnnotation(each, "star", 0.9, 0.9, (0.0, 0.0, 1.0, 1.0), 1, f"{each} at {position}")
            for each, positions in seen.items()
            if position in positions
        )
        was = following.stop
        following.take(position, FrameAnnotations(position, position, position / 10, 4, 4, items))
        assert was in (None, following.stop), "rows that come late change nothing"
    return following.stop


EVER = set(range(1000))


def test_a_window_whose_objects_stay_ends_when_it_has_shown_them() -> None:
    assert stop({1: EVER, 2: set(range(5, 1000))}) == CUT.until + SEEN
    assert stop({}) == CUT.until


def test_a_window_runs_on_until_a_hidden_object_is_shown_again() -> None:
    assert stop({1: EVER, 2: set(range(20)) | {90} | set(range(94, 1000))}) == 94 + SEEN - 1


@pytest.mark.parametrize("last", [23, 10])
def test_an_object_that_does_not_come_back_is_given_up(last: int) -> None:
    assert stop({1: set(range(last + 1))}) == last + MOST_FOLLOWED + 1


def test_an_object_that_flickers_is_given_up_too() -> None:
    assert stop({1: {*range(20), *range(60, 1000, 60)}}) == CUT.reach


def test_what_is_new_behind_the_overlap_or_long_gone_is_not_waited_for() -> None:
    cut = Cut(0, 0, 300, 304, 318, 424)
    assert stop({1: EVER, 2: {0}, 3: set(range(cut.until, cut.until + 2))}, cut) == cut.until + SEEN


@pytest.mark.parametrize("reach", [CUT.until, CUT.until + 1, CUT.until + 30])
def test_no_window_gives_rows_beyond_its_reach(reach: int) -> None:
    assert stop({1: set(range(20))}, replace(CUT, reach=reach)) == reach
