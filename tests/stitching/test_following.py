"""How long a window goes on for the objects that it ends without."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from sam3ray.stitching import Following
from sam3ray.stitching._following import SEEN
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.values.cutting import MOST_FOLLOWED, Cut

CUT = Cut(0, 0, 20, 24, 38)
HELD = CUT.end - CUT.until  # rows that hotstart holds back


def followed(seen: Mapping[int, set[int]], cut: Cut = CUT) -> Following:
    """Objects that rows show on some frames."""
    following = Following(cut)
    for position in range(cut.start, cut.start + 1000):
        items = tuple(
            ObjectAnnotation(each, "star", 0.9, 0.9, (0.0, 0.0, 1.0, 1.0), 1, f"{each} at {position}")
            for each, positions in seen.items()
            if position in positions
        )
        was = following.until
        following.take(position, FrameAnnotations(position, position, position / 10, 4, 4, items))
        assert was in (None, following.until), "rows that come late change nothing"
    return following


EVER = set(range(1000))


def test_a_window_whose_objects_stay_goes_on_until_it_has_shown_them() -> None:
    following = followed({1: EVER, 2: set(range(5, 1000))})
    assert following.until == CUT.until + SEEN + HELD
    assert followed({}).until == CUT.end


def test_a_window_goes_on_until_a_hidden_object_is_shown_again() -> None:
    back = set(range(20)) | {90} | set(range(94, 1000))
    following = followed({1: EVER, 2: back})
    assert following.until == 94 + SEEN - 1 + HELD
    assert sorted(following.found[2]) == [90, *range(94, following.until)], "those held back, too"


@pytest.mark.parametrize("last", [23, 10])
def test_an_object_that_does_not_come_back_is_given_up(last: int) -> None:
    assert followed({1: set(range(last + 1))}).until == last + MOST_FOLLOWED + 1 + HELD


def test_an_object_that_flickers_is_given_up_too() -> None:
    following = followed({1: {*range(20), *range(60, 1000, 60)}})
    assert following.until == CUT.end + MOST_FOLLOWED


def test_what_is_new_behind_the_window_or_long_gone_is_not_waited_for() -> None:
    cut = Cut(0, 0, 300, 304, 318)
    seen = {1: EVER, 2: {0}, 3: set(range(cut.until, cut.until + 2))}
    following = followed(seen, cut)
    assert following.until == cut.until + SEEN + HELD
    assert set(following.found) == {1, 3}


def test_masks_are_kept_as_far_as_the_window_works() -> None:
    following = followed({1: EVER})
    assert following.until == CUT.until + SEEN + HELD
    assert following.found == {1: {at: f"1 at {at}" for at in range(CUT.until, following.until)}}
