"""Phrases from any frame and in any direction: order, ids and what comes from where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from sam3ray.annotations import FrameAnnotations
from sam3ray.config import TrackingConfig
from sam3ray.engine.detector import Proposals
from sam3ray.engine.engine import Engine
from sam3ray.engine.frames import Preprocessor
from sam3ray.failures import ClipError
from sam3ray.prompts import PointPrompt
from tests.engine.pipeline import HEIGHT, WIDTH, Found, ScriptedDetector, checkpoint, clip
from tests.engine.prompted import Clip
from tests.engine.tiny import backbone_features, tiny_model

LENGTH = 10
FRAMES = [replace(frame, index=2 * frame.index) for frame in clip(LENGTH)]  # of every second index

# On which frames the detector sees what. A thing is known by its score.
LIVES = {"always": range(100), "early": range(0, 7), "late": range(15, 100), "middle": range(8, 13)}
PLACES = {
    "always": Found((0.2, 0.2), 0.12, 0.91),
    "early": Found((0.2, 0.8), 0.12, 0.92),
    "late": Found((0.8, 0.2), 0.12, 0.93),
    "middle": Found((0.8, 0.8), 0.12, 0.94),
    "under": Found((0.22, 0.22), 0.03, 0.81),  # all of it lies under "always"
}
NAMES = {each.score: name for name, each in PLACES.items()}


class Seeing:
    """A detector that knows the frame by what the backbone makes of it, whichever way it comes."""

    def __init__(self, lives: dict[str, range]) -> None:
        model = tiny_model(0)
        preprocess = Preprocessor(checkpoint(model))
        self.size = model.low_res_mask_size
        self.lives = lives
        with torch.inference_mode():
            seen = [backbone_features(model, preprocess(frame))[0] for frame in FRAMES]
        self.known = [(frame.index, features) for frame, features in zip(FRAMES, seen, strict=True)]

    def propose(self, backbone: torch.Tensor, prompts: Sequence[str], first_position: int) -> list[Proposals]:
        return [self.on(each) for each in backbone]

    def on(self, features: torch.Tensor) -> Proposals:
        (index,) = [index for index, known in self.known if torch.equal(known, features)]
        found = [PLACES[name] for name, life in self.lives.items() if index in life]
        return ScriptedDetector(lambda frame, prompt: found, self.size)._frame(0, 1)


@pytest.fixture(autouse=True)
def still(objects_stay: None, one_thread: None) -> None:
    """Every object stays where it was when it was added."""


def run(
    way: Any, start: int | None = 10, first: int = 1, lives: dict[str, range] = LIVES, **options: Any
) -> tuple[list[FrameAnnotations], dict[int, set[str]]]:
    tracking = TrackingConfig(hotstart_delay=3, hotstart_unmatch_thresh=3, hotstart_dup_thresh=3)
    engine = Engine(checkpoint(tiny_model(0)), tracking, Seeing(lives))
    results = list(
        engine.annotate(
            Clip(FRAMES),
            HEIGHT,
            WIDTH,
            ["x"],
            start_frame=start,
            phrase_direction=way,
            first_object_id=first,
            **options,
        )
    )
    things: dict[int, set[str]] = {}
    for result in results:
        for each in result.objects:
            if each.prompt == "x":
                things.setdefault(each.object_id, set()).add(NAMES[round(each.score, 2)])
    return results, things


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize("start", [0, 10, 18])
def test_every_frame_once_in_order_and_every_id_one_thing(direction, start):
    results, things = run(direction, start)
    assert [result.frame_index for result in results] == list(range(0, 20, 2))
    assert all(len(names) == 1 for names in things.values())
    for result in results:
        ids = [each.object_id for each in result.objects]
        assert ids == sorted(set(ids))


def test_each_way_reaches_what_lies_on_it():
    reached = {way: [bool(result.objects) for result in run(way)[0]] for way in ("forward", "backward", "both")}
    assert reached["forward"] == [False] * 5 + [True] * 5
    assert reached["backward"] == [True] * 6 + [False] * 4
    assert reached["both"] == [True] * 10


def test_what_is_there_at_the_start_keeps_its_id_both_ways_and_others_do_not_share():
    _, things = run("both", first=7)
    assert things == {7: {"always"}, 8: {"middle"}, 9: {"early"}, 10: {"late"}}


def test_what_is_hidden_at_the_start_has_an_id_of_its_own_all_the_same():
    """A small detection under a better one shows no pixel; what is found later must not take its id."""
    lives = {"always": range(100), "under": range(100), "early": range(0, 7), "late": range(15, 100)}
    results, things = run("both", lives=lives)
    assert [each.object_id for each in results[5].objects] == [1]
    assert things == {1: {"always"}, 2: {"under"}, 3: {"early"}, 4: {"late"}}


def test_backward_without_a_start_begins_at_the_last_frame():
    results, things = run("backward", None)
    assert [bool(result.objects) for result in results] == [True] * LENGTH
    assert things == {1: {"always"}, 2: {"late"}, 3: {"middle"}, 4: {"early"}}


def test_ids_of_prompts_are_kept_out_of_both_ways():
    click = PointPrompt(((50.0, 40.0),), (True,), 4, 5, label="pointed")
    results, things = run("both", visual=[click], direction="both")
    assert things == {6: {"always"}, 7: {"middle"}, 8: {"early"}, 9: {"late"}}
    assert {each.object_id for result in results for each in result.objects if each.prompt == "pointed"} == {5}


def test_a_start_that_is_not_read_is_an_error():
    for direction in ("forward", "backward", "both"):
        for start in (5, 99):
            with pytest.raises(ClipError, match=f"frame {start}, where the phrases are to be looked for first"):
                run(direction, start=start)


def test_what_the_cap_leaves_out_is_counted_over_both_ways():
    tracking = TrackingConfig(hotstart_delay=0, max_num_objects=1)
    engine = Engine(checkpoint(tiny_model(0)), tracking, Seeing(LIVES))
    for direction, dropped in (("backward", 2), ("forward", 2), ("both", 4)):
        list(engine.annotate(Clip(FRAMES), HEIGHT, WIDTH, ["x"], start_frame=10, phrase_direction=direction))
        assert engine.tally.dropped == dropped
    click = PointPrompt(((50.0, 40.0),), (True,), 4, 5)
    list(engine.annotate(Clip(FRAMES), HEIGHT, WIDTH, (), [click]))
    assert engine.tally.dropped == 0, "those of a clip of clicks are not those of the clip before"
