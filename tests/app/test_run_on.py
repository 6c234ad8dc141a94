"""A run with another prompt on a later frame goes on from there, and gives the rows of the whole run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

import sam3ray
from sam3ray.app import _resuming
from sam3ray.app._attempt import Attempt
from sam3ray.app._order import Order
from sam3ray.app._results import Result
from sam3ray.app._resuming import States
from sam3ray.config import ModelConfig, TrackingConfig, VideoConfig
from sam3ray.engine.session import Session
from sam3ray.shapes import ClipSpec, write_clip
from sam3ray.values.clip import Clip
from sam3ray.values.prompts import BoxPrompt, PointPrompt
from sam3ray.video import VideoCache

SPEC = ClipSpec(seed=6, frames=16, width=160, height=90, objects=(2, 3))
TRACKING = TrackingConfig(hotstart_delay=4, hotstart_unmatch_thresh=3, hotstart_dup_thresh=3, frame_batch=2)
LATE = 11  # the frame of the correction


@pytest.fixture(autouse=True)
def states_at_any_time(monkeypatch):
    """A state is kept whenever enough frames have passed, however long the one before took."""
    monkeypatch.setattr(_resuming, "_MOST_TIME", float("inf"))


@pytest.fixture(scope="module")
def model() -> sam3ray.Model:
    return sam3ray.Model(ModelConfig(checkpoint="embedded", device="cpu", image_size=64), TRACKING)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, model: sam3ray.Model) -> Order:
    path = tmp_path_factory.mktemp("on") / "clip.mp4"
    write_clip(SPEC, path)
    box = BoxPrompt((20.0, 20.0, 60.0, 60.0), 0, 1, "mine")
    return Order(
        "first", str(path), Clip("clip", str(path)), VideoConfig(), ("circle", "star"), (box,),
        last=SPEC.frames - 1, tracking=model.tracking,
    )  # fmt: skip


def carried_out(model: Any, order: Order, states: States | None, before: Result | None = None) -> Result:
    result = Result(order, "clip", {})
    for found in Attempt(model, order, states).run():
        for each in found.kept:
            assert before is not None
            result.take_over(before, each)
        result.add(found.frames)
    return result


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_only_frames_from_the_correction_on_are_computed_again(model, first, way, tmp_path, monkeypatch):
    seen: list[int] = []
    step = Session.step
    monkeypatch.setattr(Session, "step", lambda self, frame: (seen.append(frame.index), step(self, frame))[1])
    at = LATE if way == "forward" else SPEC.frames - 1 - LATE
    states = States(tmp_path)
    start = 0 if way == "forward" else SPEC.frames - 1
    begun = replace(first, way=way, visual=(replace(first.visual[0], frame_index=start),))
    before = carried_out(model, begun, states)
    assert len(seen) == SPEC.frames
    found = max(each.object_id for each in before.frames[at].objects)  # by a phrase
    assert found > 1
    # A new object, which moves the ids of phrases up, and a click on what does not belong to a found one.
    new = BoxPrompt((90.0, 30.0, 130.0, 70.0), at, 2, "another")
    wrong = PointPrompt(((5.0, 5.0),), (False,), at, found + 1)
    order = replace(begun, id="second", goes_on="first", visual=(*begun.visual, new), refinements=(wrong,))
    seen.clear()
    after = carried_out(model, order, states, before)
    again = set(seen)
    assert at in again
    assert len(again) <= SPEC.frames - 8
    whole = carried_out(model, order, None)
    assert after.frames == whole.frames
    assert after.frames.keys() == before.frames.keys()
    if way == "backward":
        return
    # And once more, from the run that went on.
    third = replace(order, id="third", goes_on="second", refinements=(replace(wrong, points=((7.0, 9.0),)),))
    seen.clear()
    last = carried_out(model, third, states, after)
    assert len(set(seen)) <= SPEC.frames - 8
    assert last.frames == carried_out(model, third, None).frames


def test_a_video_of_a_store_that_was_fetched_again_is_the_same(model, first, tmp_path):
    store = fsspec.filesystem("memory")
    data = Path(first.path).read_bytes()
    store.pipe({f"/run on/{n}.mp4": data for n in range(2)})
    cache = VideoCache(tmp_path / "cache", len(data) + 1)
    (tmp_path / "states").mkdir()
    states = States(tmp_path / "states")
    with cache.open("memory://run on/0.mp4") as path:
        before = carried_out(model, order := replace(first, path=str(path)), states)
    with cache.open("memory://run on/1.mp4"):
        assert not path.exists()
    new = BoxPrompt((90.0, 30.0, 130.0, 70.0), LATE, 2, "another")
    with cache.open("memory://run on/0.mp4") as again:
        order = replace(order, id="second", goes_on="first", path=str(again), visual=(*first.visual, new))
        after = carried_out(model, order, states, before)
        assert after.kept
        assert after.frames == carried_out(model, order, None).frames
    store.rm("/run on", recursive=True)


@pytest.mark.parametrize(
    "change",
    [
        {"phrases": ("star",)},
        {"tracking": TRACKING.model_copy(update={"hotstart_delay": 5})},
        {"last": SPEC.frames - 2},
        {"visual": ()},
        {"visual": (BoxPrompt((20.0, 20.0, 60.0, 60.0), 0, 1, "other name"),)},
    ],
)
def test_what_changes_earlier_frames_runs_from_the_beginning(model, first, change, tmp_path):
    states = States(tmp_path)
    attempt = Attempt(model, first, states)
    for found in attempt.run():
        attempt.is_stopped |= found.done == 8
    other = Attempt(model, replace(first, id="other", goes_on="first", **change), states).run()
    assert next(other).done == 1
    other.close()


def test_a_stopped_run_goes_on_where_it_stopped_and_old_states_are_deleted(model, first, tmp_path):
    states = States(tmp_path)
    attempt, before = Attempt(model, first, states), Result(first, "clip", {})
    for found in attempt.run():
        before.add(found.frames)
        attempt.is_stopped |= found.done == 10
    assert list(tmp_path.iterdir())
    order = replace(first, id="rest", goes_on="first")
    rest = carried_out(model, order, states, before)
    assert rest.frames == carried_out(model, first, None).frames
    for path in tmp_path.iterdir():
        path.write_bytes(b"damaged")
    again = carried_out(model, replace(order, id="again", goes_on="rest"), states, rest)  # from the beginning
    assert again.frames == rest.frames
    for n in range(6):
        states.begin(f"empty {n}")
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.parametrize(("way", "start", "at"), [("forward", 0, 0), ("forward", 0, 2), ("both", 8, 8), ("both", 8, 3)])
def test_a_correction_on_the_frame_where_an_object_is_found_leaves_the_ids_as_they_are(model, first, way, start, at):
    begun = replace(first, way=way, start=start, visual=())
    before = carried_out(model, begun, None)
    found = before.frames[at].objects[-1]
    x0, y0, x1, y1 = found.bbox
    inside = PointPrompt((((x0 + x1) / 2, (y0 + y1) / 2),), (True,), at, found.object_id)
    outside = PointPrompt(((158.0, 88.0),), (False,), at, found.object_id)
    after = carried_out(model, replace(begun, refinements=(inside, outside)), None)
    (corrected,) = (each for each in after.frames[at].objects if each.object_id == found.object_id)
    assert corrected.prompt == found.prompt
    assert corrected.score == 1.0
    assert corrected.rle != found.rle
    assert {(o.object_id, o.prompt) for frame in after.frames.values() for o in frame.objects} <= {
        (o.object_id, o.prompt) for frame in before.frames.values() for o in frame.objects
    }


MIDDLE = 8


def test_a_correction_on_a_later_frame_of_both_ways_computes_only_what_follows(model, first, tmp_path, monkeypatch):
    seen: list[int] = []
    step = Session.step
    monkeypatch.setattr(Session, "step", lambda self, frame: (seen.append(frame.index), step(self, frame))[1])
    states = States(tmp_path)
    begun = replace(first, way="both", start=MIDDLE, visual=())
    before = carried_out(model, begun, states)
    assert sorted(seen) == sorted([*range(SPEC.frames), *range(MIDDLE + 1)])
    found = max(each.object_id for each in before.frames[LATE].objects)
    wrong = PointPrompt(((5.0, 5.0),), (False,), LATE, found)
    later = replace(begun, id="later", goes_on="first", refinements=(wrong,))
    seen.clear()
    ahead = carried_out(model, later, states, before)
    assert LATE in seen
    assert min(seen) > MIDDLE - 4  # what was found on the way back, and before the correction, stays
    assert ahead.frames == carried_out(model, later, None).frames
    # And a correction on the way back, of the run that went on: nothing ahead of the start is computed again.
    early = PointPrompt(((150.0, 85.0),), (False,), 3, found)
    third = replace(later, id="third", goes_on="later", refinements=(wrong, early))
    seen.clear()
    back = carried_out(model, third, states, ahead)
    assert 3 in seen
    assert max(seen) < MIDDLE
    assert back.frames == carried_out(model, third, None).frames
    assert back.frames.keys() == before.frames.keys()


@pytest.mark.parametrize("at", [3, LATE])
def test_a_new_object_in_a_run_both_ways_goes_both_ways_and_the_rest_stays(model, first, at, tmp_path):
    states = States(tmp_path)
    begun = replace(first, way="both", start=MIDDLE, visual=(replace(first.visual[0], frame_index=MIDDLE),))
    before = carried_out(model, begun, states)
    new = BoxPrompt(before.frames[at].objects[-1].bbox, at, 2, "another")
    order = replace(begun, id="second", goes_on="first", visual=(*begun.visual, new))
    after = carried_out(model, order, states, before)
    assert after.frames == carried_out(model, order, None).frames
    assert {1, 2} <= {each.object_id for frame in after.frames.values() for each in frame.objects}
    moved = replace(order, id="third", goes_on="second", visual=(begun.visual[0], replace(new, frame_index=LATE + 2)))
    assert carried_out(model, moved, states, after).frames == carried_out(model, moved, None).frames


def test_a_run_both_ways_that_was_stopped_goes_on(model, first, tmp_path):
    states = States(tmp_path)
    begun = replace(first, way="both", start=MIDDLE)
    whole = carried_out(model, begun, None)
    before: Result | None = None
    for n, stop_at in enumerate((12, 22, 28)):  # on the way ahead, on the way back of one's own, and of what is found
        order = replace(begun, id=f"part {n}", goes_on=f"part {n - 1}")
        attempt, part = Attempt(model, order, states), Result(order, "clip", {})
        for found in attempt.run():
            for each in found.kept:
                assert before is not None
                part.take_over(before, each)
            part.add(found.frames)
            attempt.is_stopped |= found.done >= stop_at
        before = part
    rest = replace(begun, id="rest", goes_on="part 2")
    assert carried_out(model, rest, states, before).frames == whole.frames


def test_corrections_of_a_run_both_ways_start_where_it_did():
    point = PointPrompt(((5.0, 5.0),), (False,), 3, 1)
    before = Order("a", "x.mp4", Clip("x", "x.mp4"), VideoConfig(), ("star",), last=9, start=4, way="both")
    now = replace(before, id="b", start=7)
    assert not now.corrects(before, was_ended=False)  # one wants to start elsewhere
    assert now.corrects(before, was_ended=True)
    assert replace(now, refinements=(point,)).corrects(before, was_ended=False)
    assert not replace(now, refinements=(point,), phrases=("circle",)).corrects(before, was_ended=False)
    assert not replace(now, refinements=(point,), way="forward").corrects(before, was_ended=False)
