"""Windows cover a clip once, share what they must, and depend on its length alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3ray.values.cutting import MOST_FOLLOWED, Cut, cuts


def test_a_clip_is_cut_where_the_rules_allow_it():
    assert cuts(4000, 1800, 16, 15, 16) == (
        Cut(0, 0, 1792, 1808, 1822, 1928),
        Cut(1, 1792, 3600, 3616, 3630, 3736),
        Cut(2, 3600, 4000, 4000, 4000, 4000),
    )


def test_two_hours_are_as_many_windows_as_asked_for():
    assert len(cuts(216_000, 1800, 16, 15, 16)) == 120


def test_what_fits_into_one_window_is_not_cut():
    assert cuts(0, 60, 8, 15, 16) == cuts(1, 60, 8, 15, 16) == cuts(60, 60, 8, 15, 1) == ()


def test_a_rest_shorter_than_the_overlap_belongs_to_the_window_before_it():
    assert cuts(67, 60, 8, 15, 1) == ()
    assert [each.stop for each in cuts(68, 60, 8, 15, 1)] == [60, 68]
    assert [each.stop for each in cuts(127, 60, 8, 15, 1)] == [60, 127]


def test_without_hotstart_nothing_is_run_out():
    assert [each.end - each.until for each in cuts(130, 60, 8, 0, 1)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("num_frames is -1", (-1, 60, 8, 15, 16)),
        ("frames is 0", (10, 0, 0, 15, 16)),
        ("overlap is 31; it must be at most half of frames", (100, 60, 31, 15, 16)),
        ("multiple_of is 0", (100, 60, 8, 15, 0)),
    ],
)
def test_impossible_numbers_are_named(name, numbers):
    with pytest.raises(ValueError, match=name):
        cuts(*numbers)


@given(
    num_frames=st.integers(0, 3000),
    frames=st.integers(1, 400),
    share=st.floats(0, 0.5),
    hotstart_delay=st.integers(0, 40),
    multiple_of=st.integers(1, 64),
)
def test_windows_cover_a_clip_once(num_frames, frames, share, hotstart_delay, multiple_of):
    overlap = int(frames * share)
    found = cuts(num_frames, frames, overlap, hotstart_delay, multiple_of)
    assert len(found) != 1
    if not found:
        return
    assert [each.index for each in found] == list(range(len(found)))
    assert [each.start for each in found] == [0, *(each.stop for each in found[:-1])]
    assert found[-1].stop == found[-1].until == found[-1].end == num_frames
    for each in found:
        assert each.start % multiple_of == 0
        assert each.until == min(each.stop + overlap, num_frames)
        assert each.until <= each.end <= num_frames
    for each, following in pairwise(found):
        assert each.reach == min(each.until + MOST_FOLLOWED, following.until)
    assert found[-1].reach == num_frames
    # Whatever becomes known of the clip's end, all but the last two windows stay.
    longer = cuts(num_frames + 777, frames, overlap, hotstart_delay, multiple_of)
    assert [(e.start, e.stop) for e in longer[: len(found) - 2]] == [(e.start, e.stop) for e in found[:-2]]
