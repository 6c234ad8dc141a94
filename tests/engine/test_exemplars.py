"""Exemplars: what boxes say to the detector is what `Sam3Model` makes of them, and what a session does with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.ghost import Event, Ghost, build, not_there
from benchmarks.ghost import frames as frames_of_ghost
from sam3ray.annotations import FrameAnnotations
from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.engine.concepts import Concept, Sought
from sam3ray.engine.detector import Detector, Proposals
from sam3ray.engine.engine import Engine
from sam3ray.engine.frames import Preprocessor
from sam3ray.engine.header import StateError
from sam3ray.engine.lookahead import LookAhead
from sam3ray.engine.policy import Policy
from sam3ray.engine.propagation import Propagation
from sam3ray.engine.rules import Rules
from sam3ray.engine.session import Session
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.vision import TrackerNeck
from sam3ray.failures import ClipError, UserError
from sam3ray.masks import decode_rle
from sam3ray.model import Model
from sam3ray.prompts import ExemplarPrompt, VisualPrompt
from sam3ray.shapes import draw_clip, make_scene
from sam3ray.video import Frame
from tests.engine.pipeline import HEIGHT, WIDTH, Found, checkpoint, clip, processor
from tests.engine.prompted import WORKFLOWS, Clip, on_frame
from tests.engine.tiny import NARROW, backbone_features, small_model, tiny_config, tiny_model
from tools.training.evaluation import cases

pytestmark = pytest.mark.usefixtures("one_thread")

CLICK = on_frame(WORKFLOWS["click"].prompts[0], 2, 30)
BOXES = ((0.3, 0.4, 0.25, 0.2), (0.7, 0.6, 0.1, 0.35))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("text", ["visual", "red"])
@torch.inference_mode()
def test_the_detector_says_what_sam3_model_says_of_boxes(text, count):
    model = tiny_model(0)
    one = checkpoint(model)
    pixels = Preprocessor(one)(clip(1)[0])
    tokens = processor().tokenizer(text, return_tensors="pt", padding="max_length", max_length=32)
    signs = (True, False)[:count]
    theirs = model.detector_model(
        pixel_values=pixels,
        input_ids=tokens["input_ids"],
        attention_mask=tokens["attention_mask"],
        input_boxes=torch.tensor([BOXES[:count]]),
        input_boxes_labels=torch.tensor([[int(sign) for sign in signs]]),
    )
    sought = Sought("x", text, BOXES[:count], signs, 0)
    (ours,) = Detector(one).propose(backbone_features(model, pixels), ["blue", sought, "green"])
    probs = theirs.pred_logits.sigmoid() * theirs.presence_logits.sigmoid()
    torch.testing.assert_close(ours.probs[1], probs[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.masks_of([0, 1, 2])[1], theirs.pred_masks[0], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(ours.masks_of([1])[0], theirs.pred_masks[0], atol=2e-5, rtol=1e-5)
    (alone,) = Detector(one).propose(backbone_features(model, pixels), ["blue", "green"])
    assert torch.equal(alone.probs, ours.probs[[0, 2]]), "phrases are seen as if there were no exemplar"
    assert torch.equal(alone.masks_of([1]), ours.masks_of([2]))


LEFT, RIGHT, LATE = Found((0.3, 0.25), 0.12, 0.9, 6.0), Found((0.7, 0.3), 0.12, 0.8, 6.0), Found((0.4, 0.75), 0.1, 0.85)
FRAMES = clip(20)


@dataclass
class Seer:
    """Finds by phrase or boxes; a third object is there from frame 8 on. Notes what it was asked on each frame."""

    words: tuple[str, ...] = ("red",)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def propose(self, backbone: torch.Tensor, prompts: Sequence[Any], first_position: int) -> list[Proposals]:
        self.asked.append(tuple(each if isinstance(each, str) else self._said(each) for each in prompts))
        there = [LEFT, RIGHT, LATE] if first_position >= 8 else [LEFT, RIGHT]
        size = small_model(0).low_res_mask_size
        probs, masks = torch.zeros(len(prompts), 3), torch.full((len(prompts), 3, size, size), -8.0)
        for place, prompt in enumerate(prompts):
            if prompt in self.words or not isinstance(prompt, str):
                for query, found in enumerate(there):
                    probs[place, query], masks[place, query] = found.score, found.mask(size)
        return [Proposals(masks, probs)]

    @staticmethod
    def _said(sought: Sought) -> str:
        if sought.kept is not None and sought.boxes:
            sought.kept.said.append((sought.frame, torch.zeros(1, 2, NARROW)))
        kept = sum(tokens.shape[1] for _, tokens in sought.kept.said) if sought.kept is not None else 0
        return f"{sought.text} +{len(sought.boxes)} ~{kept}"


def engine(seer: Seer | None = None, **tracking: Any) -> Engine:
    values = {"hotstart_delay": 5, "hotstart_unmatch_thresh": 3, "hotstart_dup_thresh": 5}
    return Engine(checkpoint(small_model(0)), TrackingConfig(**(values | tracking)), seer or Seer())


def begun(one: Engine, *prompts: str | ExemplarPrompt | VisualPrompt, policy: str = "whole") -> Session:
    session = Session(one, HEIGHT, WIDTH, Policy.named(policy))
    for prompt in prompts:
        session.add(prompt)
    return session


def given(session: Session, frames: Iterable[Frame] = FRAMES) -> list[FrameAnnotations]:
    return [each.annotations for frame in frames for each in session.step(frame)] + [
        each.annotations for each in session.finish()
    ]


def shown(frame: int = 4, **how: Any) -> ExemplarPrompt:
    return ExemplarPrompt(((20, 15, 50, 40),), frame_index=frame, **how)


def names(frames: Iterable[FrameAnnotations]) -> list[set[str]]:
    return [{each.prompt for each in frame.objects} for frame in frames]


@pytest.mark.usefixtures("objects_stay")
class TestPublished:
    def test_an_exemplar_alone_finds_all_instances_on_its_frame_and_none_is_born_later(self):
        seer = Seer()
        frames = given(begun(engine(seer), shown(label="bolt")))
        assert [sorted({o.object_id for o in frame.objects}) for frame in frames] == [[]] * 4 + [[1, 2]] * 16
        assert names(frames)[4:] == [{"bolt"}] * 16
        assert seer.asked == [("visual +1 ~0",)], "looked for on its own frame alone; what it found is tracked"

    def test_boxes_add_to_their_phrase_on_their_frame(self):
        seer = Seer(words=())
        session = begun(engine(seer), "red", shown(4, phrase="RED"))
        assert session.phrases == ("red",)
        frames = given(session)
        assert seer.asked == [("red",)] * 4 + [("red +1 ~0",)] + [("red",)] * 15
        assert not any(frame.objects for frame in frames), "the phrase misses them afterwards: hotstart takes them back"
        seer = Seer()
        frames = given(begun(engine(seer), shown(4, phrase="red")))
        assert [len(frame.objects) for frame in frames] == [2] * 8 + [3] * 12, "a phrase is looked for everywhere"

    def test_exemplars_of_one_label_are_one_concept_and_those_without_a_name_are_numbered(self):
        seer = Seer()
        frames = given(begun(engine(seer), shown(2, label="bolt"), shown(), shown(11, label="bolt"), shown(11)))
        assert seer.asked == [("visual +1 ~0",), ("visual +1 ~0",), ("visual +1 ~0", "visual +1 ~0")]
        bolts = [{o.object_id for o in frame.objects if o.prompt == "bolt"} for frame in frames]
        assert [bolts[n] for n in (1, 2, 10, 11, 19)] == [set(), {1, 2}, {1, 2}, {1, 2, 5}, {1, 2, 5}]
        assert names(frames)[12] == {"bolt", "exemplar 2", "exemplar 4"}

    def test_a_removed_exemplar_takes_its_objects_along(self):
        session = begun(engine(), shown(2, label="bolt"), "red", shown(12, label="bolt"))
        frames = [each.annotations for frame in FRAMES[:8] for each in session.step(frame)]
        session.remove("bolt")
        frames += given(session, FRAMES[8:])
        assert names(frames) == [{"red"}] * 2 + [{"red", "bolt"}] * 6 + [{"red"}] * 12
        with pytest.raises(UserError, match="'bolt' is not a phrase of this session; its phrases are red"):
            begun(engine(), "red").remove("bolt")


@pytest.mark.usefixtures("objects_stay")
def test_everywhere_carries_what_the_boxes_said_to_all_later_frames():
    seer = Seer(words=())
    one = engine(seer, exemplars="everywhere")
    frames = given(begun(one, shown(4, label="bolt"), shown(6, label="bolt"), shown(5, phrase="red")))
    assert seer.asked[3:8] == [
        ("red",),
        ("red", "visual +1 ~2"),
        ("red +1 ~2", "visual +0 ~2"),
        ("red +0 ~2", "visual +1 ~4"),
        ("red +0 ~2", "visual +0 ~4"),
    ]
    assert [len({o.object_id for o in frame.objects if o.prompt == "bolt"}) for frame in frames[8:]] == [3] * 12


@pytest.mark.parametrize(
    ("policy", "exemplars"),
    [("whole", "everywhere"), ("live", "published"), ("backward", "everywhere"), ("refined", "published")],
)
def test_a_saved_session_goes_on_with_its_exemplars(tmp_path, policy, exemplars):
    frames = FRAMES[:15]

    def run(cuts: set[int]) -> tuple[list[Any], list[tuple[str, ...]]]:
        def begin() -> Session:
            return Session(engine(seer, exemplars=exemplars), HEIGHT, WIDTH, Policy.named(policy), length=len(frames))

        seer, rows, at = Seer(), [], 0
        session = begin()
        for prompt in (shown(3, label="bolt"), shown(10, label="bolt"), shown(10), shown(6, phrase="red"), CLICK):
            session.add(prompt)
        while not session.walk.finds:
            for frame in frames:
                session.step(frame)
            session.finish()
            assert session.next_pass()
        order = frames[::-1] if session.walk.reverse else frames
        while at < len(order):
            if at in cuts:
                cuts = cuts - {at}
                session.save(tmp_path / "state")
                session = begin()
                session.load(tmp_path / "state")
                at = abs(session.next_position)
                continue
            if at == 12:
                session.remove("exemplar 3")
            rows += [(each.annotations, each.tentative, each.retracted) for each in session.step(order[at])]
            at += 1
        return rows + [(each.annotations, each.tentative, each.retracted) for each in session.finish()], seer.asked[-3:]

    expected = run(set())
    assert any(frame.objects for frame, _, _ in expected[0])
    assert run({2, 7, 12}) == expected


def test_a_removed_exemplar_is_looked_for_again_on_frames_that_are_given_again(tmp_path):
    """Those before its removal, which the session had been given but not worked on when it was saved."""

    def run(cut: bool) -> list[tuple[str, ...]]:
        seer = Seer()
        session = begun(engine(seer, exemplars="everywhere"), shown(1, label="bolt"), "red")
        for frame in FRAMES[:19]:
            session.step(frame)
        assert session.clock.worked == 3
        session.remove("bolt")
        if cut:
            session.save(tmp_path / "state")
            seer.asked = seer.asked[:3]
            session = begun(engine(seer, exemplars="everywhere"))
            session.load(tmp_path / "state")
        given(session, FRAMES[session.next_position if cut else 19 :])
        return seer.asked

    expected = run(cut=False)
    assert expected[3:] == [("red", "visual +0 ~2")] * 16 + [("red",)]
    assert run(cut=True) == expected


def test_a_state_is_loaded_before_any_exemplar_is_added(tmp_path):
    begun(engine(), shown()).save(tmp_path / "state")
    with pytest.raises(StateError, match="before any prompt or frame"):
        begun(engine(), shown()).load(tmp_path / "state")
    fresh = begun(engine())
    fresh.load(tmp_path / "state")
    assert fresh.concepts.labels == ("exemplar 1",)


class TestRefused:
    @pytest.mark.parametrize(
        ("exemplar", "problem"),
        [
            (ExemplarPrompt((), frame_index=0), "boxes is 0; allowed: 1 to 64"),
            (ExemplarPrompt(((1, 1, 5, 5),) * 65, frame_index=0), "boxes is 65; allowed: 1 to 64"),
            (ExemplarPrompt(((1, 1, float("nan"), 5),), frame_index=0), "allowed: .xmin, ymin, xmax, ymax., pixels"),
            (ExemplarPrompt(((5, 1, 5, 5),), frame_index=0), "allowed: .* with xmin < xmax"),
            (
                ExemplarPrompt(((1, 1, 500, 5),), frame_index=0),
                r"\[1, 1, 500, 5\] reaches outside the frame",
            ),
            (ExemplarPrompt(((0, 0, 1.5, 1),), frame_index=0, units="relative"), "fractions from 0 to 1"),
            (
                ExemplarPrompt(((1, 1, 5, 5),), (False,), 0),
                "negative; allowed: a positive box beside them, or a phrase",
            ),
            (ExemplarPrompt(((1, 1, 5, 5),), (True, True), 0), "labels has 2 values for 1 boxes"),
            (ExemplarPrompt(((1, 1, 5, 5),)), "its frame is not known yet"),
            (ExemplarPrompt(((1, 1, 5, 5),), frame_index=0, phrase="\n"), "phrase holds"),
        ],
    )
    def test_boxes_that_cannot_be_meant(self, exemplar, problem):
        with pytest.raises((ValueError, UserError), match=problem):
            begun(engine(), exemplar)

    def test_a_frame_that_was_given_or_never_comes(self):
        session = begun(engine(), shown(7))
        for frame in FRAMES[:4]:
            session.step(frame)
        with pytest.raises(ValueError, match="on frame 3: the session is past it, at frame 3"):
            session.add(shown(3))
        with pytest.raises(ClipError, match="frame 7, on which 'exemplar 1' is shown by boxes, is not among"):
            session.step(FRAMES[8])

    def test_a_label_that_is_a_phrase_too(self):
        for first, second in (("red", shown(label="Red")), (shown(label="Red"), "red")):
            with pytest.raises(UserError, match="the label 'Red', which is also a phrase of the clip"):
                begun(engine(), first, second)


@pytest.mark.usefixtures("objects_stay")
def test_whole_clips_go_the_way_of_the_phrases():
    def rows(exemplars: Sequence[ExemplarPrompt], **how: Any) -> list[FrameAnnotations]:
        return list(engine().annotate(Clip(FRAMES), HEIGHT, WIDTH, exemplars=exemplars, **how))

    both = rows([shown(9, label="bolt"), shown(14)], start_frame=9, phrase_direction="both")
    assert names(both) == [{"bolt"}] * 14 + [{"bolt", "exemplar 2"}] * 6
    ids = [{o.object_id for o in frame.objects if o.prompt == "bolt"} for frame in both]
    assert ids[0] == ids[8] == ids[9] == ids[19], "found on one frame, with one id both ways"
    assert names(rows([shown(9, label="bolt")], phrase_direction="backward")) == [{"bolt"}] * 10 + [set()] * 10
    assert names(rows([shown(9, label="bolt")])) == [set()] * 9 + [{"bolt"}] * 11
    with pytest.raises(ValueError, match="on frame 9, before start_frame, which is 12; allowed with"):
        rows([shown(9)], start_frame=12)


def test_a_frame_with_exemplars_waits_once_on_a_gpu_that_is_not_there(monkeypatch):
    """Where boxes are encoded, and where what they said is carried on."""
    monkeypatch.setattr("benchmarks.ghost.full_config", tiny_config)
    ghost = Ghost(torch.device("cuda"), 2)
    with not_there(ghost):
        one = build(ghost.device)
        detector, rules = Detector(one), Rules.of(one.model.config, TrackingConfig())
        channels = one.model.config.detector_config.detr_encoder_config.hidden_size
        for text in ("disc", "visual"):
            words = torch.zeros(1, 32, channels, dtype=one.dtype, device=ghost.device)
            detector._phrases[text] = words, torch.ones(1, 32, dtype=torch.int64, device=ghost.device)
        ahead = LookAhead(one, TrackerNeck(one.model, folded=True), detector, 1, at_once=True)
        propagation = Propagation(Tracker(one.model), rules)
        bolt = Concept("bolt", "", 0)
        waits = []
        for t, frame in enumerate(frames_of_ghost(5)):
            boxes = BOXES if t in (0, 3) else ()
            ahead.push(frame, t, (Sought("bolt", "visual", boxes, (True, False)[: len(boxes)], t, bolt), "disc"))
        while len(ahead):
            before = Event.waits
            step = propagation.step(ahead.pop(), meanwhile=ahead.fill)
            waits.append(Event.waits - before)
            assert len(step.found.object_ids) == 2
        assert waits[2:] == [1, 1, 1], "the first two fill what is under way"
        assert [(t, *tokens.shape) for t, tokens in bolt.said] == [(0, 1, 3, channels), (3, 1, 3, channels)]


def test_a_box_around_one_star_finds_the_other_with_the_embedded_checkpoint():
    (case,) = cases("one prompt", 1, frames=4, first=940_000)
    drawn = list(draw_clip(case.spec))
    frames = [Frame(f.index, f.index, f.index / 12, np.ascontiguousarray(f.image)) for f in drawn]
    star = ExemplarPrompt(((18, 33, 171, 187),), frame_index=0, label="one of these")
    model = Model(ModelConfig(checkpoint="embedded", device="cpu"))
    (*_, last) = model.segment(iter(frames), case.spec.height, case.spec.width, exemplars=[star])
    alike = [thing.object_id for thing in make_scene(case.spec).objects if thing.label == ("green", "star")]
    assert len(alike) == len(last.objects) == 2
    assert {each.prompt for each in last.objects} == {"one of these"}
    found = [decode_rle(each.rle, case.spec.height, case.spec.width) for each in last.objects]
    for thing in alike:
        true = drawn[-1].ids == thing
        assert max((mask & true).sum() / (mask | true).sum() for mask in found) > 0.7
