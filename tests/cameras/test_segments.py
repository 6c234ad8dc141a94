"""Which clip a frame belongs to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sam3ray.cameras._segments import Segments, began_at_of, clip_name

SIZE = (10, 20)


def test_a_clip_ends_after_its_seconds_and_the_model_goes_on():
    segments = Segments(10.0, 5.0)
    placed = [segments.place(n, 100.0 + n, 0.0, SIZE) for n in range(25)]
    assert [each.clip for each in placed] == [0] * 10 + [1] * 10 + [2] * 5
    assert [each.index for each in placed] == [*range(10), *range(10), *range(5)]
    assert {each.scene for each in placed} == {0}
    assert placed[13].time_s == 3.0


def test_a_gap_or_another_size_begins_a_clip_and_a_scene():
    segments = Segments(600.0, 5.0)
    first = segments.place(0, 0.0, 0.0, SIZE)
    late = segments.place(1, 4.9, 4.9, SIZE)
    gap = segments.place(2, 10.0, 10.0, SIZE)
    other = segments.place(3, 10.1, 10.1, (20, 10))
    back = segments.place(4, 9.0, 9.0, (20, 10))  # a file whose time goes back
    assert [(e.clip, e.scene) for e in (first, late, gap, other, back)] == [(0, 0), (0, 0), (1, 1), (2, 2), (3, 3)]


@given(st.lists(st.floats(0, 20), min_size=1, max_size=60))
def test_frames_of_a_clip_are_counted_without_a_gap(steps):
    segments, at, seen = Segments(30.0, 5.0), 0.0, {}
    for received, step in enumerate(steps):
        at += step
        placed = segments.place(received, at, at, SIZE)
        assert placed.index == seen.get(placed.clip, 0)
        assert 0 <= placed.time_s < 30.0 or placed.index == 0
        seen[placed.clip] = placed.index + 1
    assert sum(seen.values()) == len(steps)


def test_a_clip_is_named_by_its_start():
    name = clip_name(1_795_672_726.4, 12)
    assert name == "20261126T055846Z-0012"
    assert began_at_of(name).timestamp() == 1_795_672_726


def test_a_clock_that_is_set_does_not_cut_a_clip_but_names_the_next():
    segments = Segments(10.0, 5.0)
    placed = [
        segments.place(n, 100.0 + n, at, SIZE)
        for n, at in enumerate([0.0, 1.0, 0.9, 50e6, *[50e6 + n for n in range(9)]])
    ]
    assert {each.scene for each in placed} == {0}
    assert [each.clip for each in placed] == [0] * 10 + [1] * 3
    assert segments.began_at == 50e6 + 6
    assert [each.time_s for each in placed] == [*range(10), 0, 1, 2]
