"""A session frame by frame: policies, prompts that come and go between frames, and what each result says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sam3ray.annotations import FrameAnnotations
from sam3ray.config import TrackingConfig
from sam3ray.engine.engine import Engine
from sam3ray.engine.policy import Policy
from sam3ray.engine.result import SessionResult
from sam3ray.engine.session import Session
from sam3ray.failures import ClipError, UserError
from sam3ray.masks import decode_rle
from sam3ray.prompts import PointPrompt, VisualPrompt
from sam3ray.video import Frame
from tests.engine.pipeline import HEIGHT, WIDTH, Found, ScriptedDetector, checkpoint, clip
from tests.engine.prompted import WORKFLOWS, Clip, blob, mask_prompt, on_frame
from tests.engine.tiny import small_model, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES = clip(20)
HERE, THERE, BRIEF = (0.3, 0.3), (0.7, 0.7), (0.3, 0.8)
CLICK, BOX = on_frame(WORKFLOWS["click"].prompts[0], 2, 3), on_frame(WORKFLOWS["box"].prompts[0], 6, 9)


def script(frame: int, prompt: int) -> list[Found]:
    """Two objects that stay, and one of four frames that hotstart removes."""
    found = [Found(HERE, 0.12, 0.9, 6.0), Found(THERE, 0.12, 0.8, 6.0)]
    return [*found, Found(BRIEF, 0.1, 0.75, 6.0)] if 2 <= frame < 4 else found


MODEL = (0, 3.0)  # with these, what is clicked is there on every frame


def engine(script: Any = script, model: Any = None, **tracking: Any) -> Engine:
    values = {"hotstart_delay": 5, "hotstart_unmatch_thresh": 3, "hotstart_dup_thresh": 5}
    model = model or small_model(*MODEL)
    detector = ScriptedDetector(script, model.low_res_mask_size)
    return Engine(checkpoint(model), TrackingConfig(**(values | tracking)), detector)


def given(session: Session, frames: Iterable[Frame] = FRAMES) -> list[SessionResult]:
    results = [each for frame in frames for each in session.step(frame)]
    return results + session.finish()


def begun(prompts: Sequence[str | VisualPrompt], policy: str = "whole", one: Engine | None = None) -> Session:
    session = Session(one or engine(), HEIGHT, WIDTH, Policy.named(policy))
    for prompt in prompts:
        session.add(prompt)
    return session


def rows(results: Iterable[SessionResult]) -> list[FrameAnnotations]:
    return [each.annotations for each in results]


def of(frames: Sequence[FrameAnnotations], prompt: str) -> list[tuple[Any, ...]]:
    """The objects of one prompt by frame, ids apart."""
    return [tuple(replace(o, object_id=0) for o in frame.objects if o.prompt == prompt) for frame in frames]


@pytest.mark.usefixtures("objects_stay")
class TestPolicies:
    def test_whole_shows_what_lasts_and_takes_nothing_back(self):
        results = given(begun(["red"]))
        assert rows(results) == list(engine().annotate(iter(FRAMES), HEIGHT, WIDTH, ["red"]))
        assert [each.frame_index for each in results] == list(range(20))
        assert {i for each in results for i in each.shown} == {1, 2}
        assert not any(each.retracted or each.tentative for each in results)

    def test_live_shows_at_once_says_what_is_tentative_and_retracts(self):
        session, seen = begun(["red", CLICK], "live"), []
        for frame in FRAMES:
            (result,) = session.step(frame)
            assert result.frame_index == frame.index
            seen.append(result)
        assert session.finish() == []
        retracted = {i for each in seen for i in each.retracted}
        brief = {o.object_id for each in seen for o in each.annotations.objects if o.score == pytest.approx(0.75)}
        assert retracted == brief, "the one of four frames, once shown, is taken back"
        assert len(retracted) == 1
        whole = given(begun(["red", CLICK]))
        for mine, final in zip(seen, whole, strict=True):
            assert set(mine.shown) - retracted == set(final.shown)
            assert retracted & set(mine.shown) <= mine.tentative
            assert mine.tentative <= set(mine.shown)
        assert seen[0].tentative == {4, 5}
        assert not seen[-1].tentative, "believed after hotstart"

    @pytest.mark.parametrize("policy", ["backward", "both", "refined"])
    def test_passes_give_what_a_whole_clip_gives(self, policy):
        prompts = [CLICK, BOX, on_frame(CLICK, 11, 9)]
        session, shown = begun(prompts, policy), {}
        while True:
            start, walk = session.next_position, session.walk
            backward = FRAMES if walk.reverse and policy == "backward" else FRAMES[: start + 1]
            results = given(session, reversed(backward) if walk.reverse else FRAMES)
            for result in results:
                shown.setdefault(result.frame_index, []).extend(result.annotations.objects)
            if not session.next_pass():
                break
        options = {"refined": {"refine": "throughout"}}.get(policy, {"direction": policy})
        expected = engine().annotate(Clip(FRAMES), HEIGHT, WIDTH, (), prompts, **options)
        assert any(shown.values())
        for frame in expected:
            mine = sorted(shown.get(frame.frame_index, []), key=lambda o: o.object_id)
            assert tuple(mine) == frame.objects

    def test_backward_looks_for_phrases_in_the_order_of_the_frames_given(self):
        results = given(begun(["red"], "backward"), reversed(FRAMES))
        assert [each.frame_index for each in results] == list(range(19, -1, -1))
        turned = [replace(frame, index=19 - frame.index) for frame in reversed(FRAMES)]
        expected = engine().annotate(iter(turned), HEIGHT, WIDTH, ["red"])
        assert [each.objects for each in rows(results)] == [each.objects for each in expected]


@pytest.mark.usefixtures("objects_stay")
class TestPromptsThatComeAndGo:
    def test_phrases_and_clicks_share_one_look_at_each_frame_and_not_their_decisions(self):
        calls: list[int] = []
        backbone = small_model(*MODEL).detector_model.vision_encoder.backbone
        hook = backbone.register_forward_hook(lambda *_: calls.append(1))
        together = rows(given(begun(["red", CLICK, BOX])))
        hook.remove()
        assert len(calls) == len(FRAMES)
        assert of(together, "red") == of(rows(given(begun(["red"]))), "red")
        assert of(together, "") == of(rows(given(begun([CLICK, BOX]))), "")

    def test_a_phrase_added_later_is_looked_for_from_the_next_frame_on(self):
        session = begun([CLICK])
        results = [each for frame in FRAMES[:4] for each in session.step(frame)]
        assert session.add("red") == ()
        mine = rows(results + given(session, FRAMES[4:]))
        alone = list(engine().annotate(iter(FRAMES[4:]), HEIGHT, WIDTH, ["red"]))
        assert not any(of(mine, "red")[:4])
        assert of(mine, "red")[4:] == of(alone, "red")
        assert min(o.object_id for frame in mine for o in frame.objects if o.prompt == "red") == 4

    def test_ids_added_later_are_above_all_given(self):
        session = begun(["red"])
        assert session.add(on_frame(CLICK, 18, 40)) == (40,)
        late = [i for each in given(session) for i in each.shown]
        assert set(late) == {40, 41, 42}, "what the phrase finds comes after the id that was there first"

    def test_a_removed_phrase_takes_its_objects_along_and_a_removed_object_goes_alone(self):
        session = begun(["red", CLICK])
        results = [each for frame in FRAMES[:9] for each in session.step(frame)]
        session.remove("red")
        results += [each for frame in FRAMES[9:12] for each in session.step(frame)]
        session.remove(3)
        results += given(session, FRAMES[12:])
        ids = [set(each.shown) for each in results]
        assert ids[8] >= {4, 5}
        assert all(not each & {4, 5} for each in ids[9:])
        assert all(not each for each in ids[12:])
        assert session.prompt_tracker is not None
        assert session.prompt_tracker.tracker.rows_in_use == (0, 0)
        assert session.propagation is not None
        assert session.propagation.tracker.rows_in_use == (0, 0)

    def test_removing_one_object_of_a_phrase_changes_no_other(self):
        # Nothing finds it again; and the last bits of the others do not depend on whom they share a batch with.
        sure = {"high_conf_thresh": 1.0, "new_det_thresh": 0.95, "object_batch": 1}
        session = begun(["red"], "live", engine(**sure))
        results = [each for frame in FRAMES[:9] for each in session.step(frame)]
        session.remove(1)
        mine = rows(results + given(session, FRAMES[9:]))
        whole = rows(given(begun(["red"], "live", engine(**sure))))
        assert [[o for o in f.objects if o.object_id == 2] for f in mine] == [
            [o for o in f.objects if o.object_id == 2] for f in whole
        ]
        assert all(o.object_id != 1 for frame in mine[9:] for o in frame.objects)

    def test_a_click_on_an_object_that_a_phrase_found_refines_it(self):
        plain = rows(given(begun(["red"], "live")))
        session = begun(["red"], "live")
        results = [each for frame in FRAMES[:8] for each in session.step(frame)]
        assert session.add(mask_prompt(blob(45, 60), 8, 2)) == (2,)
        refined = rows(results + given(session, FRAMES[8:]))
        assert refined[:8] == plain[:8]
        (mine,) = [o for o in refined[8].objects if o.object_id == 2]
        assert (mine.prompt, mine.score, mine.track_score) == ("red", 1.0, 1.0)
        drawn, shown = blob(45, 60), decode_rle(mine.rle, HEIGHT, WIDTH)
        assert (drawn & shown).sum() / (drawn | shown).sum() > 0.9
        assert [o for o in refined[8].objects if o.object_id == 1] == [o for o in plain[8].objects if o.object_id == 1]
        assert {o.object_id for frame in refined for o in frame.objects} == {1, 2, 3}, "it starts no object of its own"

    def test_what_somebody_pointed_at_is_not_removed_by_hotstart(self):
        session = begun(["red"])
        session.add(PointPrompt(((95.0, 27.0),), (True,), 4, 3))  # the brief one, by the id that it will get
        # The id is free when the click is added, so the phrase does not use it: it starts an object of its own.
        assert {i for each in given(session) for i in each.shown} >= {3}
        live = begun(["red"], "live")
        for frame in FRAMES[:4]:
            live.step(frame)
        live.add(PointPrompt(((95.0, 27.0),), (True,), 4, 3))
        rest = [each for frame in FRAMES[4:] for each in live.step(frame)]
        assert not any(each.retracted for each in rest)
        assert live.propagation is not None
        assert 3 in live.propagation.object_ids

    def test_conditioning_frames_close_by_that_a_detection_made_become_ordinary(self):
        session = begun(["red"], "live")
        for frame in FRAMES[:7]:
            session.step(frame)
        session.add(PointPrompt(((50.0, 40.0),), (True,), 7, 1))
        session.step(FRAMES[7])
        assert session.propagation is not None
        memory = {each.object_id: sorted(each.memory.conditioning) for each in session.propagation.objects}
        assert memory == {1: [7], 2: [0]}


class TestMasks:
    @pytest.mark.parametrize("form", ["array", "tensor"])
    def test_pixels_instead_of_run_lengths(self, form):
        with_runs = given(begun(["red", CLICK]))
        session = Session(engine(), HEIGHT, WIDTH, masks=form)
        for prompt in ("red", CLICK):
            session.add(prompt)
        for mine, expected in zip(given(session), with_runs, strict=True):
            assert mine.shown == expected.shown
            assert isinstance(mine.pixels, np.ndarray if form == "array" else torch.Tensor)
            assert mine.pixels.shape == (len(mine.shown), HEIGHT, WIDTH)
            for pixels, measured, mask in zip(mine.pixels, mine.frame.objects, expected.frame.objects, strict=True):
                assert np.array_equal(np.asarray(pixels), decode_rle(mask.rle, HEIGHT, WIDTH))
                assert (measured.area, measured.bbox) == (mask.area, mask.bbox)
            with pytest.raises(ValueError, match='allowed: a session with masks="rle"'):
                _ = mine.annotations
        with pytest.raises(ValueError, match='masks="array" or masks="tensor"'):
            _ = with_runs[0].pixels


class TestErrors:
    def test_prompts_that_cannot_be_meant(self):
        session = begun(["red"])
        for frame in FRAMES[:5]:
            session.step(frame)
        with pytest.raises(ValueError, match="object 1 on frame 4: the session is past it, at frame 4"):
            session.add(on_frame(CLICK, 4))
        with pytest.raises(ValueError, match="is outside the frame"):
            session.add(PointPrompt(((500.0, 4.0),), (True,), 9, 1))
        with pytest.raises(
            TypeError, match="a phrase, an ExemplarPrompt, a PointPrompt, a BoxPrompt or a MaskPrompt, got 3"
        ):
            session.add(3)  # type: ignore[arg-type]
        with pytest.raises(UserError, match="the model takes at most 32"):
            session.add("x" * 200)
        with pytest.raises(UserError, match="the phrase 'blue' is not a phrase of this session; its phrases are red"):
            session.remove("blue")
        with pytest.raises(UserError, match="no object has the id 77"):
            session.remove(77)

    def test_frames_of_another_size(self):
        sentence = r"frame 0 is an array \(6, 8, 3\) of uint8; allowed: \(90, 120, 3\) of uint8, RGB"
        with pytest.raises(ValueError, match=sentence):
            begun(["red"]).step(clip(1, height=6, width=8)[0])
        with pytest.raises(ValueError, match=r"frame 0 is an array \(90, 120\) of uint8"):
            begun(["red"]).step(replace(FRAMES[0], image=FRAMES[0].image[..., 0]))

    def test_frames_out_of_order(self):
        session = begun(["red"])
        session.step(FRAMES[3])
        for index in (3, 1):
            with pytest.raises(ValueError, match=f"frame {index} comes after frame 3; allowed in this pass: an index"):
                session.step(FRAMES[index])

    def test_phrases_that_cannot_be_looked_for(self):
        session = begun(["red"])
        for phrase, sentence in (("", "holds an empty phrase"), ("RED", "holds the same phrase twice")):
            with pytest.raises(UserError, match=sentence):
                session.add(phrase)
        assert session.add("red") == (), "asked again, nothing changes"

    def test_sessions_that_cannot_begin(self):
        with pytest.raises(ValueError, match="the frames are 4x0; allowed: sizes of at least 1"):
            Session(engine(), 0, 4)
        with pytest.raises(ValueError, match="masks is 'png'; allowed: rle, array, tensor"):
            Session(engine(), 4, 4, masks="png")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="length is 0; allowed: at least 1"):
            Session(engine(), 4, 4, length=0)

    def test_a_prompt_whose_frame_does_not_come(self):
        session = begun([on_frame(CLICK, 7)])
        with pytest.raises(ClipError, match="frame 7, on which object 1 is prompted, is not among the frames read"):
            given(session, FRAMES[::2])
        with pytest.raises(ClipError, match="frame 50, on which object 1"):
            given(begun([on_frame(CLICK, 50)]))

    def test_an_object_cannot_start_with_what_it_is_not(self):
        session = begun([PointPrompt(((5.0, 5.0),), (False,), 1, 3)])
        with pytest.raises(ClipError, match="object 3 starts on frame 1 with negative clicks only"):
            given(session)

    def test_nothing_follows_the_end(self):
        session = begun(["red"])
        given(session, FRAMES[:2])
        with pytest.raises(RuntimeError, match="the session has ended"):
            session.step(FRAMES[2])

    def test_policies_have_names(self):
        with pytest.raises(ValueError, match="policy is 'fast'; allowed: whole, live, backward, both, refined"):
            Policy.named("fast")


def test_live_keeps_no_more_after_many_frames():
    one = engine(model=tiny_model(0), suppress_unmatched_only_within_hotstart=False)  # whose objects go and come back
    session = begun(["red", CLICK], "live", one)
    sizes = []
    for t in range(50):
        session.step(replace(FRAMES[t % 20], index=t))
        assert session.propagation is not None
        held = len(session.buffer.steps), len(session.ready), len(session._ahead)
        lent = sum(len(each.memory.borrowed) for each in session.propagation.objects)
        sizes.append((session.propagation.tracker.rows_in_use, held, lent))
    assert sizes[36] == sizes[-1]
