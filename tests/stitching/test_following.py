"""How long a window goes on for the objects that it ends without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from sam3ray.stitching import Following
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.values.cutting import MOST_FOLLOWED, Cut

CUT = Cut(0, 0, 20, 24, 38)
SEEN = 8


@dataclass
class Tracked:
    object_id: int
    empty_frames: int


def followed(seen: Mapping[int, set[int]], known: Mapping[int, int] | None = None) -> tuple[Following, int]:
    """Objects that are seen on some frames, and known from some frame on: with the number of frames worked on."""
    following, last = Following(CUT), {}
    for position in range(1000):
        here = [each for each in seen if position >= (known or {}).get(each, 0)]
        last |= {each: position for each in here if position in seen[each]}
        following.after(position, [Tracked(each, position - last.get(each, -1)) for each in here])
        if not following.needs_more:
            return following, position + 1
    pytest.fail("it never ends")


def test_a_window_whose_objects_stay_goes_no_further_than_its_run_out() -> None:
    following, worked = followed({1: set(range(1000)), 2: set(range(5, 1000))})
    assert worked == CUT.end
    assert following.until == CUT.until + SEEN


def test_a_window_goes_on_until_a_hidden_object_has_been_seen_again() -> None:
    back = set(range(20)) | {90} | set(range(94, 1000))
    following, worked = followed({1: set(range(1000)), 2: back})
    assert worked == following.until == 94 + SEEN - 1


@pytest.mark.parametrize("last", [23, 10])
def test_an_object_that_does_not_come_back_is_given_up(last: int) -> None:
    following, worked = followed({1: set(range(last + 1))})
    assert worked == following.until == last + MOST_FOLLOWED + 1


def test_an_object_that_flickers_is_given_up_too() -> None:
    following, worked = followed({1: {*range(20), *range(60, 1000, 60)}})
    assert worked == following.until == CUT.end + MOST_FOLLOWED


def test_what_is_new_behind_the_window_or_long_gone_is_not_waited_for() -> None:
    cut = Cut(0, 0, 300, 304, 318)
    following, tracked = Following(cut), {}
    for position in range(cut.end):
        tracked = {1: 0, 2: position, 3: max(0, position - cut.until)}
        following.after(position, [Tracked(each, empty) for each, empty in tracked.items() if each < 3])
    assert not following.needs_more
    assert following.until == cut.until + SEEN


def test_masks_are_kept_as_far_as_objects_are_followed() -> None:
    following, worked = followed({1: set(range(1000))})
    for position in range(CUT.until, worked):
        item = ObjectAnnotation(1, "star", 0.9, 0.9, (0.0, 0.0, 1.0, 1.0), 1, f"{position}")
        following.take(position, FrameAnnotations(position, position, position / 10, 4, 4, (item,)))
    assert following.found == {1: {position: f"{position}" for position in range(CUT.until, CUT.until + SEEN)}}
