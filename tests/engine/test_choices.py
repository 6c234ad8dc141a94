"""Choices of speed: fewer frames looked at, fewer memories, smaller frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sam3ray.config import ModelConfig, TrackingConfig, config_from_text
from sam3ray.config._fingerprint import fingerprint
from sam3ray.engine.checkpoint import load_checkpoint
from sam3ray.engine.engine import Engine
from sam3ray.engine.memory import FrameEntry, ObjectMemory
from sam3ray.engine.policy import Policy
from sam3ray.engine.preflight import threshold_problem
from sam3ray.engine.session import Session
from sam3ray.failures import JobStopped, UserError
from sam3ray.masks import decode_rle
from sam3ray.model import Model
from sam3ray.prompts import ExemplarPrompt
from sam3ray.shapes import ClipSpec, draw_clip
from sam3ray.video import Frame
from tests.engine.pipeline import HEIGHT, WIDTH, Found, ScriptedDetector, checkpoint, clip
from tests.engine.tiny import small_model

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES = clip(40)
STAYS, BRIEF = Found((0.3, 0.3), 0.12, 0.9, 6.0), Found((0.3, 0.8), 0.1, 0.75, 6.0)


class Counting(ScriptedDetector):
    """Notes the frames on which it was asked."""

    looked: list[int]

    def propose(self, backbone: torch.Tensor, prompts: Any, first_position: int) -> Any:
        self.looked.append(first_position)
        return super().propose(backbone, prompts, first_position)


def script(frame: int, prompt: int) -> list[Found]:
    """One that stays, and one that is found on frame 6 alone."""
    return [STAYS, BRIEF] if frame == 6 else [STAYS]


def engine(**tracking: Any) -> Engine:
    values = {"hotstart_delay": 4, "hotstart_unmatch_thresh": 3, "hotstart_dup_thresh": 4, "object_batch": 1}
    detector = Counting(script, small_model(0).low_res_mask_size)
    detector.looked = []
    return Engine(checkpoint(small_model(0)), TrackingConfig(**(values | tracking)), detector)


def begun(one: Engine, policy: str = "whole", length: int | None = None) -> Session:
    session = Session(one, HEIGHT, WIDTH, Policy.named(policy), length=length)
    session.add("red")
    return session


@pytest.mark.usefixtures("objects_stay")
class TestDetectEvery:
    def test_phrases_are_looked_for_on_every_nth_frame_and_hotstart_counts_those(self):
        one = engine(detect_every=3)
        session = begun(one, length=len(FRAMES))
        shown = [each.shown for frame in FRAMES for each in session.step(frame)]
        shown += [each.shown for each in session.finish()]
        assert one.detector.looked == list(range(0, 40, 3))
        assert shown == [(1,)] * 40, "the other one was missed on three looks, within the four of its hotstart"
        assert session.buffer.delay == 4 * 3, "frames held back"

    def test_one_that_is_missed_between_looks_is_not_missed(self):
        session = begun(engine(detect_every=6), "live")
        results = [each for frame in FRAMES for each in session.step(frame)]
        assert results[6].tentative == {1, 2}
        assert [n for n, each in enumerate(results) if 2 in each.shown] == list(range(6, 24))
        assert [n for n, each in enumerate(results) if each.retracted] == [24], "the third look that misses it"

    def test_an_exemplar_is_looked_for_on_its_own_frame(self):
        one = engine(detect_every=4)
        session = begun(one, length=len(FRAMES))
        session.add(ExemplarPrompt(((1, 1, 9, 9),), frame_index=6, label="bolt"))
        rows = [each.annotations for frame in FRAMES for each in session.step(frame)]
        rows += [each.annotations for each in session.finish()]
        assert one.detector.looked[:4] == [0, 4, 6, 8]
        assert [any(o.prompt == "bolt" for o in row.objects) for row in rows] == [False] * 6 + [True] * 34


@pytest.mark.parametrize("tracking", [{"detect_every": 3}, {"memory_frames": 1, "rules": "transformers"}])
def test_a_saved_session_goes_on_with_them(tmp_path, tracking):
    def run(cuts: set[int]) -> list[Any]:
        rows, at = [], 0
        session = begun(engine(**tracking), "whole", 24)
        while at < 24:
            if at in cuts:
                cuts = cuts - {at}
                session.save(tmp_path / "state")
                session = Session(engine(**tracking), HEIGHT, WIDTH, length=24)
                session.load(tmp_path / "state")
                at = session.next_position
                continue
            rows += [each.annotations for each in session.step(FRAMES[at])]
            at += 1
        return rows + [each.annotations for each in session.finish()]

    assert run({5, 13}) == run(set())


class TestMemoryFrames:
    @pytest.mark.parametrize("rules", ["published", "transformers"])
    def test_so_many_frames_are_read_the_prompted_ones_as_one(self, rules):
        memory = ObjectMemory({0: FrameEntry(0, 0)}, {t: FrameEntry(t, t, True) for t in range(1, 20)})
        for asked, read in ((None, range(14, 20)), (3, (18, 19)), (1, ())):
            tracker = engine(rules=rules, memory_frames=asked).tracker((HEIGHT, WIDTH), None)
            found = tracker.read_rules.reads(memory, 20).memories
            assert sorted(row for row, _ in found) == [0, *read]
            assert all(age == 20 - row for row, age in found if row), "the nearest, each with its own age"

    def test_more_than_the_checkpoint_has_is_refused(self):
        sentence = "tracking.memory_frames is 9; allowed: 1 to 7, the checkpoint's own"
        with pytest.raises(ValueError, match=sentence):
            engine(memory_frames=9)
        small = threshold_problem(ModelConfig(checkpoint="embedded"), TrackingConfig(memory_frames=5))
        assert small == "tracking.memory_frames is 5; allowed: 1 to 4, the checkpoint's own"


class TestImageSize:
    def test_smaller_frames_are_seen_and_followed(self):
        spec = ClipSpec(seed=6, frames=6, width=320, height=180, objects=(2, 3))
        drawn = list(draw_clip(spec))
        frames = [Frame(f.index, f.index, f.index / 12, np.ascontiguousarray(f.image)) for f in drawn]
        model = Model(ModelConfig(checkpoint="embedded", device="cpu", image_size=96))
        assert model.model_info["image_size"] == 96
        (*_, last) = model.segment(iter(frames), 180, 320, ["red circle"])
        truth = np.isin(drawn[-1].ids, [1, 2])
        found = np.any([decode_rle(each.rle, 180, 320) for each in last.objects], axis=0)
        assert (found & truth).sum() / (found | truth).sum() > 0.7

    def test_a_size_that_is_no_multiple_of_the_patch(self):
        sentence = "model.image_size is 100; allowed: a multiple of 8, the checkpoint's patch, such as 96"
        config = ModelConfig(checkpoint="embedded", device="cpu", image_size=100)
        assert threshold_problem(config, TrackingConfig()) == sentence
        with pytest.raises(JobStopped, match=sentence):
            load_checkpoint(config)


@pytest.mark.parametrize(
    ("key", "value", "wrong"),
    [("tracking.detect_every", 3, 0), ("tracking.memory_frames", 2, 0), ("model.image_size", 672, 8)],
)
def test_each_is_in_the_fingerprint_and_checked(key: str, value: int, wrong: int, tmp_path: Path) -> None:
    text = f"{{manifest: {tmp_path}/m.csv, output: {tmp_path}/out}}"
    usual = fingerprint(config_from_text(text, "job.yaml"), [])
    chosen = fingerprint(config_from_text(text, "job.yaml", [f"{key}={value}"]), [])
    assert {name for name in usual if usual[name] != chosen[name]} == {key}
    with pytest.raises(UserError, match=f"{key} is {wrong}; allowed: a whole number from"):
        config_from_text(text, "job.yaml", [f"{key}={wrong}"])
