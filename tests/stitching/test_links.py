"""Who is who across windows: rules that hold whatever the windows say."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3ray.masks import encode_masks
from sam3ray.stitching import Links, Track, Window, link_windows, merge
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.values.cutting import Cut, cuts

SIDE = 24
PHRASES = ("star", "circle")


def item(
    object_id: int, x: int, y: int = 0, prompt: str = "star", score: float = 0.9, size: int = 6
) -> ObjectAnnotation:
    pixels = np.zeros((1, SIDE, SIDE), bool)
    pixels[0, y : y + size, x : x + size] = True
    (mask,) = encode_masks(pixels)
    return ObjectAnnotation(object_id, prompt, score, 0.5, tuple(map(float, mask.bbox)), mask.area, mask.rle)  # type: ignore[arg-type]


def frames(cut: Cut, rows: dict[int, list[ObjectAnnotation]], stop: int | None = None) -> list[FrameAnnotations]:
    return [
        FrameAnnotations(p, p, p / 10, SIDE, SIDE, tuple(sorted(rows.get(p, []), key=lambda o: o.object_id)))
        for p in range(cut.start, cut.until if stop is None else stop)
    ]


def window(cut: Cut, rows: dict[int, list[ObjectAnnotation]], stop: int | None = None) -> Window:
    """A window whose rows end at `stop`, by default with its overlap."""
    return Window(cut, frames(cut, rows, stop))


def ids(windows: Sequence[Window], links: Links) -> list[list[int]]:
    return [[each.object_id for each in frame.objects] for frame in merge(windows, links)]


FIRST, SECOND, THIRD = cuts(24, 8, 4, 1, 1)


@dataclass
class Says:
    """A probe that says what it is told."""

    table: dict[tuple[tuple[int, int], tuple[int, int]], float]
    asked: list[tuple[tuple[int, int], ...]]

    def knows(self, window: int, object_id: int) -> bool:
        return True

    def scores(self, lost: Sequence[tuple[int, int]], track: Track) -> list[float]:
        self.asked.append((track.key, *lost))
        return [self.table.get((each, track.key), 0.0) for each in lost]


def says(*told: tuple[tuple[int, int], tuple[int, int], float]) -> Says:
    return Says({(lost, birth): score for lost, birth, score in told}, [])


def test_an_object_seen_in_both_windows_keeps_its_id_and_its_score() -> None:
    one = window(FIRST, {p: [item(3, 2), item(5, 12)] for p in range(12)})
    two = window(SECOND, {p: [item(1, 12, score=0.7), item(2, 3, score=0.8)] for p in range(8, 20)})
    links = link_windows([one, two])
    merged = list(merge([one, two], links))
    assert [[(o.object_id, o.score, o.bbox[0]) for o in f.objects] for f in (merged[0], merged[11], merged[12])] == [
        [(1, 0.9, 2), (2, 0.9, 12)],
        [(1, 0.9, 2), (2, 0.9, 12)],
        [(1, 0.9, 3), (2, 0.9, 12)],
    ]
    assert [(j.track, j.to_track, j.by) for j in links.joints] == [(5, 1, "overlap"), (3, 2, "overlap")]
    assert [f.frame_index for f in merged] == list(range(20))


def test_masks_of_one_phrase_alone_are_compared_and_a_phrase_keeps_its_own_ids() -> None:
    one = window(FIRST, {p: [item(1, 2, prompt="circle")] for p in range(12)})
    two = window(SECOND, {p: [item(1, 2)] for p in range(8, 20)})
    assert ids([one, two], link_windows([one, two]))[11:13] == [[1], [2]]
    # On one frame ids go by the place of the phrase.
    both = window(FIRST, {p: [item(1, 2), item(2, 12, prompt="circle")] for p in range(12)})
    first = next(iter(merge([both], link_windows([both], prompts=("circle", "star")))))
    assert [(o.object_id, o.prompt) for o in first.objects] == [(1, "circle"), (2, "star")]


@pytest.mark.parametrize(
    ("shift", "shared", "kept"),
    [(0, 1, False), (0, 2, True), (1, 4, True), (3, 4, True), (4, 4, False)],  # IoU 1, 1, .71, .33, .2
)
def test_an_object_needs_two_shared_frames_and_enough_overlap(shift: int, shared: int, kept: bool) -> None:
    one = window(FIRST, {p: [item(1, 2)] for p in range(8 + shared)})
    two = window(SECOND, {p: [item(1, 2 + shift)] for p in range(8, 20)})
    links = link_windows([one, two])
    assert (ids([one, two], links)[15] == [1]) is kept
    assert len(links.joints) == kept


LONG_FIRST, LONG_SECOND = cuts(60, 30, 4, 1, 1)


@pytest.mark.parametrize(
    ("ran_on", "continues"),
    [
        ({}, (1, 1)),  # the overlap alone
        ({1: (14, range(34, 60))}, (1, 1)),  # it is object 1 that moves
        ({1: (2, range(34, 60)), 2: (14, range(34, 60))}, (2, 1)),  # in the overlap it was mistaken for object 1
        ({1: (2, range(34, 35)), 2: (14, range(34, 35))}, (1, 1)),  # too little to tell
        ({1: (2, range(50, 60)), 2: (14, range(50, 60))}, (2, 1)),  # however much later
    ],
)
def test_the_last_rows_of_the_earlier_window_say_how_the_later_one_goes_on(
    ran_on: dict[int, tuple[int, range]], continues: tuple[int, int]
) -> None:
    moved = {p: item(1, 2 if p < 34 else 14) for p in range(32, 60)}
    rows = {p: [item(1, 2), item(2, 14)] for p in range(33)} | {33: [item(1, 2)]}
    for each, (x, positions) in ran_on.items():
        for p in positions:
            rows.setdefault(p, []).append(item(each, x))
    one, two = window(LONG_FIRST, rows, 60), window(LONG_SECOND, both(moved))
    (joint,) = link_windows([one, two]).joints
    assert (joint.track, joint.to_track) == continues
    assert link_windows([window(LONG_FIRST, rows), two]).joints[0].track == 1


def test_the_clip_shows_the_earlier_window_up_to_its_last_row() -> None:
    # Object 2 hides before the overlap and comes back behind it: the earlier window still knows it, the later does not.
    one = window(LONG_FIRST, {p: [item(1, 2), *([item(2, 14)] if p < 28 or p >= 40 else [])] for p in range(50)}, 50)
    two = window(LONG_SECOND, {p: [item(1, 2), *([item(7, 15)] if p >= 40 else [])] for p in range(30, 60)})
    links = link_windows([one, two])
    assert links.windows == ((0, 50), (30, 60))
    merged = list(merge([one, two], links))
    assert [f.frame_index for f in merged] == list(range(60))
    assert [[(o.object_id, o.bbox[0]) for o in merged[p].objects] for p in (35, 40, 49, 50)] == [
        [(1, 2)],
        [(1, 2), (2, 14)],
        [(1, 2), (2, 14)],
        [(1, 2), (2, 15)],
    ]


def test_a_track_that_hides_before_the_last_rows_is_matched_where_it_was_seen() -> None:
    # Of two that agree with object 1, the later one goes on; object 2 is matched by the overlap alone.
    rows = {p: [item(1, 2), *([item(2, 14)] if p < 34 else [])] for p in range(60)}
    later = {p: [item(3 if p < 40 else 4, 2), *([item(5, 14)] if p < 34 else [])] for p in range(30, 60)}
    links = link_windows([window(LONG_FIRST, rows, 60), window(LONG_SECOND, later)])
    assert {joint.track: joint.to_track for joint in links.joints} == {1: 4, 2: 5}


def test_of_two_that_may_be_it_the_pairs_with_the_largest_sum_are() -> None:
    # The middle one has .33 with both; the right one has .33 with the second alone.
    one = window(FIRST, {p: [item(1, 0), item(2, 6)] for p in range(12)})
    two = window(SECOND, {p: [item(1, 9), item(2, 3)] for p in range(8, 20)})
    links = link_windows([one, two])
    assert [(joint.track, joint.to_track) for joint in links.joints] == [(2, 1), (1, 2)]


def test_a_lost_object_is_found_again_by_what_it_remembers_in_a_much_later_window() -> None:
    one = window(FIRST, {p: [item(1, 2), item(2, 12)] for p in range(6)} | {p: [item(2, 12)] for p in range(6, 12)})
    two = window(SECOND, {p: [item(1, 12)] for p in range(8, 20)})
    three = window(THIRD, {p: [item(1, 12)] for p in range(16, 24)} | {22: [item(1, 12), item(2, 0, y=12)]})
    windows = [one, two, three]
    probe = says(((0, 1), (2, 2), 0.6))
    links = link_windows(windows, probe)
    assert ids(windows, links)[22] == [1, 2]
    assert links.joints[-1].by == "memory"
    assert ids(windows, link_windows(windows, probe, relink_after_s=1.6))[22] == [2, 3]
    assert ids(windows, link_windows(windows, says(((0, 1), (2, 2), 0.39))))[22] == [2, 3]
    assert ids(windows, link_windows(windows))[22] == [2, 3]
    assert probe.asked == [((2, 2), (0, 1))]  # whoever is still there is not asked about


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ([((0, 1), (1, 1), 0.9), ((0, 2), (1, 1), 0.7)], [1]),  # better by enough
        ([((0, 1), (1, 1), 0.9), ((0, 2), (1, 1), 0.86)], [3]),  # it may be either
        ([((0, 1), (1, 1), 0.9), ((0, 1), (1, 2), 0.86)], [3, 4]),  # either of two may be it
        ([((0, 1), (1, 1), 0.9), ((0, 2), (1, 2), 0.9)], [1, 2]),
    ],
)
def test_a_lost_object_is_found_again_only_where_nothing_else_comes_near(told: list[Any], found: list[int]) -> None:
    born = 2 if len(found) == 2 or any(birth == (1, 2) for _, birth, _ in told) else 1
    one = window(FIRST, {p: [item(1, 2), item(2, 12)] for p in range(6)})
    two = window(SECOND, {p: [item(1, 0, y=12), item(2, 12, y=12)][:born] for p in range(14, 20)})
    assert ids([one, two], link_windows([one, two], says(*told)))[15] == found


def test_of_two_births_that_follow_each_other_the_first_is_the_lost_object() -> None:
    one = window(FIRST, {p: [item(1, 2)] for p in range(6)})
    probe = says(((0, 1), (1, 1), 0.9), ((0, 1), (1, 2), 0.95))
    for later, found in ((30, [1, 2]), (21, [2, 3])):  # at about the same time, either may be it
        rows = {p: [item(1, 2)] for p in range(13, 15)} | {p: [item(2, 2)] for p in range(later, 40)}
        windows = [one, window(Cut(1, 8, 40, 40, 40, 40), rows)]
        merged = ids(windows, link_windows(windows, probe))
        assert merged[13] + merged[later] == found


def test_a_lost_object_that_comes_back_just_before_its_window_ends_is_compared_when_more_is_seen() -> None:
    one = window(FIRST, both(stays(FIRST, 2), {p: item(2, 12) for p in range(6)}))
    # By itself it would be too faint on its first frame.
    two = window(SECOND, both(stays(SECOND, 2), {18: item(2, 12, score=0.6), 19: item(2, 12)}))
    three = window(THIRD, both(stays(THIRD, 2), {p: item(2, 12) for p in range(18, 24)}))
    windows = [one, two, three]
    probed: list[list[int]] = []

    class Sees(Says):
        def scores(self, lost: Sequence[tuple[int, int]], track: Track) -> list[float]:
            probed.append(list(track.probed))
            return [0.9 * (len(track.probed) > 1) for _ in lost]

    links = link_windows(windows, Sees({}, []), rules=Admits())
    assert len(probed[0]) == 1
    assert len(probed[1]) == 2
    assert [frame[1:] for frame in ids(windows, links)] == [[2]] * 6 + [[]] * 12 + [[2]] * 6
    assert [(j.window, j.track, j.to_window, j.to_track) for j in links.joints if j.by == "memory"] == [(0, 2, 1, 2)]
    assert not links.hidden


def test_objects_seen_apart_on_shared_frames_are_never_one() -> None:
    one = window(FIRST, {p: [item(1, 2)] for p in range(10)})
    two = window(SECOND, {p: [item(1, 14)] for p in range(8, 20)})
    probe = says(((0, 1), (1, 1), 1.0))
    assert ids([one, two], link_windows([one, two], probe))[12] == [2]
    assert probe.asked == []


def test_objects_that_only_the_overlap_shows_leave_no_gap_in_the_ids() -> None:
    one = window(FIRST, {p: [item(1, 2)] for p in range(12)})
    two = window(SECOND, {8: [item(1, 16)], 9: [item(1, 16)], 13: [item(2, 12)]})
    links = link_windows([one, two])
    assert ids([one, two], links)[8:14] == [[1], [1], [1], [1], [], [2]]


def test_at_most_64_lost_objects_of_a_phrase_are_compared_those_seen_last_first() -> None:
    rows = {p: [item(p + 1, 2)] for p in range(70)}
    long, after = Cut(0, 0, 70, 74, 74, 74), Cut(1, 70, 90, 90, 90, 90)
    probe = says()
    windows = [window(long, rows), window(after, {80: [item(1, 12)]})]
    link_windows(windows, probe)
    ((birth, *lost),) = probe.asked
    assert birth == (1, 1)
    assert lost == [(0, n) for n in range(70, 6, -1)]


# ---- objects that the clip in one piece would not have had ----------------------------------------------------


@dataclass(frozen=True)
class Admits:
    published: bool = True
    new_det_thresh: float = 0.7
    forget_after_frames: int | None = None


def stays(cut: Cut, x: int, prompt: str = "star", score: float = 0.9, since: int = 0) -> dict[int, ObjectAnnotation]:
    """One object. Frames count from the clip's first."""
    return {p: item(1, x, prompt=prompt, score=score) for p in range(max(cut.start, since), cut.until)}


def faint(cut: Cut, sure: int = 99) -> dict[int, ObjectAnnotation]:
    """Another object, which begins below the threshold where nothing is tracked, and is sure from some frame on."""
    return {p: item(2, 16, score=0.6 if p < sure else 0.8) for p in range(cut.start, cut.until)}


def both(*rows: dict[int, ObjectAnnotation]) -> dict[int, list[ObjectAnnotation]]:
    return {p: [each[p] for each in rows if p in each] for p in {p for each in rows for p in each}}


@pytest.mark.parametrize(
    ("earlier", "sure", "admits", "first"),
    [
        ({}, 99, Admits(), 8),  # nothing was tracked: the clip in one piece would have it, too
        (stays(FIRST, 2), 99, Admits(), None),
        (stays(FIRST, 2), 15, Admits(), 15),
        (stays(FIRST, 2), 10, Admits(), 12),  # from the overlap on; that itself is the earlier window's
        (stays(FIRST, 2), 99, Admits(new_det_thresh=0.6), 8),
        (stays(FIRST, 2, since=8), 99, Admits(), 8),  # which came no earlier
        (stays(FIRST, 2, prompt="circle"), 99, Admits(), 8),
        (stays(FIRST, 2, prompt="circle"), 99, Admits(published=False), None),
        ({0: item(1, 2)}, 99, Admits(forget_after_frames=7), 8),
        ({0: item(1, 2)}, 99, Admits(forget_after_frames=8), None),
    ],
)
def test_an_object_that_began_faint_is_hidden_where_earlier_windows_had_objects(
    earlier: dict[int, ObjectAnnotation], sure: int, admits: Admits, first: int | None
) -> None:
    windows = [window(FIRST, both(earlier)), window(SECOND, both(faint(SECOND, sure)))]
    links = link_windows(windows, rules=admits)
    shown = {
        frame.frame_index: each
        for frame in merge(windows, Links.loads(links.dumps()))
        for each in frame.objects
        if each.bbox[0] == 16
    }
    expected = range(max(first, FIRST.until), SECOND.until) if first is not None else range(0)
    assert [*shown] == [*expected]
    assert {each.score for each in shown.values()} <= {0.8 if first is not None and links.hidden else 0.6}


def test_a_faint_object_that_an_earlier_window_had_is_shown() -> None:
    one = both(stays(FIRST, 2), {p: item(2, 16, score=0.6) for p in range(12)})
    windows = [window(FIRST, one), window(SECOND, both(faint(SECOND)))]
    assert ids(windows, link_windows(windows, rules=Admits()))[11:13] == [[1, 2], [2]]
    remembered = [window(FIRST, both(stays(FIRST, 2), {4: item(2, 16)})), windows[1]]
    links = link_windows(remembered, says(((0, 2), (1, 2), 0.9)), rules=Admits())
    assert ids(remembered, links)[12:14] == [[2], [2]]


def test_what_is_hidden_is_no_object_for_the_windows_after_it() -> None:
    windows = [
        window(FIRST, both(stays(FIRST, 2))),
        window(SECOND, both(faint(SECOND))),
        window(THIRD, both({p: item(2, 16) for p in range(16, 24)})),
    ]
    links = link_windows(windows, rules=Admits())
    assert ids(windows, links)[19:21] == [[], [2]]
    assert [(each.window, each.track, each.until) for each in links.hidden] == [(1, 2, SECOND.until)]


# ---- whatever the windows say --------------------------------------------------------------------------------


@st.composite
def clips(draw: st.DrawFn) -> tuple[list[Window], Says]:
    """Objects that come, go, and are missed by some windows, each window with ids of its own."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    length, size, overlap = draw(st.integers(10, 40)), draw(st.integers(4, 12)), draw(st.integers(0, 2))
    pieces = cuts(length, size, overlap, 1, 1) or (Cut(0, 0, length, length, length, length),)
    things = [
        (rng.choice(PHRASES), rng.randrange(SIDE - 6), 6 * n, rng.randrange(length), rng.randrange(1, length))
        for n in range(rng.randrange(1, 5))
    ]
    windows = []
    for cut in pieces:
        numbers, stop = rng.sample(range(1, 9), 8), rng.randint(cut.until, cut.reach)
        rows: dict[int, list[ObjectAnnotation]] = {}
        for n, (phrase, x, y, first, seen) in enumerate(things):
            for p in range(max(first, cut.start), min(first + seen, stop)):
                split = n + 4 * (rng.random() < 0.1)  # now and then another id
                taken = {each.object_id for each in rows.get(p, [])}
                if rng.random() < 0.8 and numbers[split] not in taken and not (split >= 4 and phrase != PHRASES[0]):
                    shifted = item(
                        numbers[split], min(max(x + rng.randrange(-2, 3), 0), SIDE - 6), min(y, SIDE - 6), phrase
                    )
                    rows.setdefault(p, []).append(shifted)
        windows.append(window(cut, _of_one_phrase(rows), stop))
    keys = [(w.cut.index, n) for w in windows for n in range(1, 9)]
    told = {(a, b): rng.random() for a in keys for b in keys if a[0] < b[0]}
    return windows, Says(told, [])


def _of_one_phrase(rows: dict[int, list[ObjectAnnotation]]) -> dict[int, list[ObjectAnnotation]]:
    phrase: dict[int, str] = {}
    for items in rows.values():
        for n, each in enumerate(items):
            items[n] = replace(each, prompt=phrase.setdefault(each.object_id, each.prompt))
    return rows


@settings(max_examples=60, deadline=None)
@given(clips(), st.randoms())
def test_ids_are_one_to_one_in_order_and_independent_of_the_order_of_completion(
    made: tuple[list[Window], Says], order: random.Random
) -> None:
    windows, probe = made
    links = link_windows(windows, probe, PHRASES)
    merged = list(merge(windows, links))
    assert [frame.frame_index for frame in merged] == list(range(windows[-1].cut.until))
    firsts: dict[int, int] = {}
    phrases: dict[int, str] = {}
    for frame in merged:
        here = [each.object_id for each in frame.objects]
        assert here == sorted(set(here))  # ascending, none twice
        for each in frame.objects:
            firsts.setdefault(each.object_id, frame.frame_index)
            assert phrases.setdefault(each.object_id, each.prompt) == each.prompt
    assert sorted(firsts) == list(range(1, len(firsts) + 1))
    assert all(firsts[a] <= firsts[b] for a, b in pairwise(sorted(firsts)))
    for cut in (each.cut for each in windows):  # a window's tracks are as many objects
        mine = [each.object_id for each in links.tracks if each.window == cut.index]
        assert len(set(mine)) == len(mine)
    # Masks are the windows' own, and where two overlap the earlier one's.
    shown = 0
    for each in windows:
        rows = list(each.frames)[max(shown - each.cut.start, 0) :]
        for ours, theirs in zip(merged[max(shown, each.cut.start) :], rows, strict=False):
            assert sorted(o.rle for o in ours.objects) == sorted(o.rle for o in theirs.objects)
        shown = each.cut.start + len(list(each.frames))
    shuffled = order.sample(windows, len(windows))
    assert link_windows(shuffled, probe, PHRASES) == links
    assert list(merge(shuffled, Links.loads(links.dumps()))) == merged


@settings(max_examples=30, deadline=None)
@given(clips())
def test_windows_that_follow_change_no_id_of_those_before_the_last(made: tuple[list[Window], Says]) -> None:
    # In the last one there may be objects of which the next shows more.
    windows, probe = made
    everything = link_windows(windows, probe, PHRASES)
    for count in range(2, len(windows)):
        some = link_windows(windows[:count], probe, PHRASES)
        one, other = ([each for each in links.tracks if each.window < count - 1] for links in (some, everything))
        assert one == other


def test_linking_and_merging_load_no_torch() -> None:
    code = "import sys; from sam3ray.stitching import Links, link_windows, merge; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


# ---- what is wrong is said -------------------------------------------------------------------------------------


def test_windows_that_do_not_fit_are_a_sentence() -> None:
    one = window(FIRST, {p: [item(1, 2)] for p in range(12)})
    two = window(SECOND, {p: [item(1, 2)] for p in range(8, 20)})
    with pytest.raises(ValueError, match=r"window 1 \(8 to 20\) does not follow"):
        link_windows([two])
    with pytest.raises(ValueError, match="window 0 has 11 frames; it should have 12 to 20"):
        link_windows([Window(FIRST, list(one.frames)[:11]), two])
    with pytest.raises(ValueError, match="window 0 has more than 20 frames; it should have 12 to 20"):
        link_windows([Window(FIRST, [*one.frames, *two.frames]), two])
    with pytest.raises(ValueError, match="window 2 has 7 frames; it should have 8"):
        link_windows([one, two, Window(THIRD, frames(THIRD, {})[:7])])
    changed = {0: [item(1, 2)], 1: [item(1, 2, prompt="circle")]}
    with pytest.raises(ValueError, match="object 1 is 'star' and 'circle'"):
        link_windows([window(FIRST, changed)])
    links = link_windows([one, two])
    with pytest.raises(ValueError, match="the links are of the windows"):
        list(merge([one], links))
    with pytest.raises(ValueError, match="do not name object 4 of window 1"):
        list(merge([one, window(SECOND, {15: [item(4, 2)]})], links))
    with pytest.raises(ValueError, match="window 1 has 3 frames; its links are of 12"):
        list(merge([one, Window(SECOND, list(two.frames)[:3])], links))
    with pytest.raises(ValueError, match="window 0 has more than 12 frames; its links are of 12"):
        list(merge([window(FIRST, {}, 13), two], links))


@pytest.mark.parametrize(
    "change",
    [
        lambda links: links[: len(links) // 2],
        lambda links: json.dumps(json.loads(links) | {"format": 1}),
        lambda links: json.dumps(json.loads(links) | {"more": 1}),
        lambda links: json.dumps(json.loads(links) | {"tracks": json.loads(links)["tracks"][:1] * 2}),
        lambda links: json.dumps(json.loads(links) | {"windows": []}),
        lambda links: links.replace('"object_id":1', '"object_id":0', 1),
        lambda links: links.replace('"score":0.9', '"score":NaN', 1),
        lambda links: "[]",
    ],
)
def test_damaged_links_are_a_sentence(change: Any) -> None:
    one = window(FIRST, {p: [item(1, 2), item(2, 12)] for p in range(12)})
    links = link_windows([one]).dumps()
    assert Links.loads(links).dumps() == links
    with pytest.raises(ValueError, match="the links of the windows"):
        Links.loads(change(links))
