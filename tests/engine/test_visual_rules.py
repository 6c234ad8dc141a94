"""Published rules for prompted objects: what Meta's predictor does and transformers does not."""

from __future__ import annotations

from typing import Any

import pytest

from sam3ray.engine.memory import ObjectMemory
from sam3ray.engine.tracker import Tracker
from sam3ray.prompts import PointPrompt
from tests.engine.documented import worst_iou
from tests.engine.prompted import LENGTH, WORKFLOWS, blob, mask_of, mask_prompt, on_frame, run, same_masks

pytestmark = pytest.mark.usefixtures("one_thread")
CLICK = WORKFLOWS["click"].prompts[0]
AWAY = PointPrompt(((90.0, 70.0),), (False,), 8, 1)


def watch(monkeypatch: pytest.MonkeyPatch) -> list[ObjectMemory]:
    """Every memory that is tracked from now on, in the order of last use."""
    kept: list[ObjectMemory] = []
    track = Tracker.track

    def tracked(self: Tracker, features: Any, frame: int, memories: Any, **options: Any) -> Any:
        kept.extend(memories)
        return track(self, features, frame, memories, **options)

    monkeypatch.setattr(Tracker, "track", tracked)
    return kept


def test_a_refinement_starts_from_the_mask_that_was_there(frames):
    """A lone negative click refines only because the earlier mask goes in with it."""
    plain, refined = run(frames, [CLICK], "published"), run(frames, [CLICK, AWAY], "published")
    assert same_masks(plain, refined, range(8))
    assert not same_masks(plain, refined, range(8, 9))


def test_rounds_on_one_frame_build_on_each_other(frames):
    clicks = [PointPrompt(((50.0, 40.0),), (True,), 0, 1), PointPrompt(((90.0, 70.0),), (False,), 0, 1)]
    rounds = run(frames[:2], clicks, "published")
    at_once = run(frames[:2], WORKFLOWS["negative click"].prompts, "published")
    assert not same_masks(rounds, at_once, range(1))


def test_a_refinement_is_a_conditioning_frame(frames, monkeypatch):
    kept = watch(monkeypatch)
    run(frames[:12], [CLICK, AWAY], "published")
    assert sorted(kept[-1].conditioning) == [0, 8]
    run(frames[:12], [CLICK, AWAY], "transformers")
    assert sorted(kept[-1].conditioning) == [0]


def test_throughout_changes_the_frames_before_the_refinement_too(frames):
    onward = run(frames, [CLICK, AWAY], "published")
    throughout = run(frames, [CLICK, AWAY], "published", refine="throughout")
    assert same_masks(onward, throughout, range(1))
    assert not same_masks(onward, throughout, range(1, 8))
    assert same_masks(onward, throughout, range(8, 9))


def test_masks_of_one_frame_exclude_each_other_and_the_later_wins(frames):
    first, second = blob(10, 10, 40, 50), blob(30, 40, 40, 50)
    result = run(frames[:1], [mask_prompt(first, 0, 1), mask_prompt(second, 0, 2)], "published")[0]
    assert worst_iou([(mask_of(result, 2), second), (mask_of(result, 1), first & ~second)]) > 0.9
    assert not (mask_of(result, 1) & mask_of(result, 2)).sum() > 40  # the border, after resizing


def test_no_more_than_sixteen_clicks_are_seen(frames):
    points = tuple((float(x), 40.0) for x in range(20, 100, 4))
    seen = points[:8] + points[-8:]
    many = PointPrompt(points, (True,) * len(points), 0, 1)
    few = PointPrompt(seen, (True,) * 16, 0, 1)
    assert same_masks(run(frames[:3], [many], "published"), run(frames[:3], [few], "published"), range(3))
    assert not same_masks(run(frames[:3], [many]), run(frames[:3], [few]), range(1))


def test_directions_agree_where_they_meet(frames):
    prompts = [on_frame(CLICK, 9)]
    both = run(frames, prompts, "published", direction="both")
    assert same_masks(both, run(frames, prompts, "published"), range(9, LENGTH))
    assert [result.frame_index for result in both] == list(range(LENGTH))
    assert all([each.object_id for each in result.objects] == [1] for result in both[:9])
