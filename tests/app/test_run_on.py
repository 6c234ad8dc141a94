"""A run with another prompt on a later frame goes on from there, and gives the rows of the whole run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sam3ray
from sam3ray.app._attempt import Attempt
from sam3ray.app._order import Order
from sam3ray.app._results import Result
from sam3ray.app._resuming import States
from sam3ray.config import TrackingConfig, VideoConfig
from sam3ray.engine.session import Session
from sam3ray.shapes import ClipSpec, write_clip
from sam3ray.values.clip import Clip
from sam3ray.values.prompts import BoxPrompt, PointPrompt

SPEC = ClipSpec(seed=6, frames=16, width=160, height=90, objects=(2, 3))
TRACKING = TrackingConfig(hotstart_delay=4, hotstart_unmatch_thresh=3, hotstart_dup_thresh=3, frame_batch=2)
LATE = 11  # the frame of the correction


@pytest.fixture(scope="module")
def model() -> sam3ray.Model:
    return sam3ray.load("embedded", device="cpu", tracking=TRACKING)


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
        if found.kept:
            assert before is not None
            result.take_over(before, found.kept)
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
    for n in range(3):
        states.begin(f"empty {n}")
    assert not list(Path(tmp_path).iterdir())
