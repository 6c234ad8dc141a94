"""Clicks, boxes and masks through a clip: against transformers' documented use, and by the published rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from documented import Session, Shown, standalone, worst_iou
from pipeline import HEIGHT, WIDTH, checkpoint, clip
from tiny import tiny_model

from sam3ray.config import TrackingConfig
from sam3ray.engine.mask_head import resize
from sam3ray.engine.memory import ObjectMemory
from sam3ray.engine.outputs import FrameMasks
from sam3ray.engine.source import OnePass
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.visual import VisualEngine
from sam3ray.failures import ClipError
from sam3ray.masks import decode_rle, encode_masks
from sam3ray.prompts import BoxPrompt, MaskPrompt, PointPrompt, VisualPrompt
from sam3ray.video import Frame

LENGTH = 18
LAST = LENGTH - 1


MODELS = [(0, 0.0), (3, 1.0), (4, 1.0)]  # seed and presence: with these, objects are there, come and go


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def same_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resizes masks as transformers does: with all three candidates, although the best one is chosen already.

    On one thread torch has a kernel of its own for exactly three channels, which rounds differently.
    """

    def three_channels(self: Tracker, masks: torch.Tensor) -> torch.Tensor:
        size = (self.image_size, self.image_size)
        return resize(masks.unsqueeze(1).repeat(1, 3, 1, 1), size)[:, 0]

    monkeypatch.setattr(Tracker, "upsample", three_channels)


class Clip:
    """Frames in memory as a source that can be read again; remembers how many were asked for at once."""

    height, width = HEIGHT, WIDTH

    def __init__(self, frames: Sequence[Frame]) -> None:
        self.frames = list(frames)
        self.largest_chunk = 0

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        if stop is not None:
            self.largest_chunk = max(self.largest_chunk, stop - start)
        return iter(self.frames[start:stop])


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return clip(LENGTH)


def run(
    source: Any,
    prompts: Sequence[VisualPrompt],
    rules: str = "transformers",
    model: tuple[int, float] = MODELS[0],
    **options: Any,
) -> list[FrameMasks]:
    engine = VisualEngine(checkpoint(tiny_model(*model)), TrackingConfig(rules=rules))
    return list(engine.segment(source if hasattr(source, "read") else Clip(source), prompts, **options))


def mask_of(result: FrameMasks, object_id: int) -> np.ndarray:
    """The mask at the source's size; empty where the object is absent."""
    if object_id not in result.object_ids:
        return np.zeros((result.height, result.width), bool)
    encoded = result.masks[result.object_ids.index(object_id)]
    return decode_rle(encoded.rle, result.height, result.width)


def assert_same(ours: Sequence[FrameMasks], theirs: dict[int, Shown], ids: Sequence[int] = (1,)) -> None:
    assert any(shown.masks.any() for shown in theirs.values())
    for position, shown in theirs.items():
        for row, object_id in enumerate(ids):
            np.testing.assert_array_equal(mask_of(ours[position], object_id), shown.masks[row], f"frame {position}")
            if object_id in ours[position].object_ids:
                score = ours[position].track_scores[ours[position].object_ids.index(object_id)]
                assert score == pytest.approx(shown.scores[row], abs=2e-7)  # sigmoid rounds by position in a batch


def blob(top: int, left: int, height: int = 30, width: int = 40) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def mask_prompt(mask: np.ndarray, frame: int = 0, object_id: int = 1) -> MaskPrompt:
    return MaskPrompt(encode_masks(mask[None])[0].rle, *mask.shape, frame_index=frame, object_id=object_id)


@dataclass
class Workflow:
    """One way to prompt, as ours and as transformers' documentation has it."""

    prompts: list[VisualPrompt]
    inputs: dict[str, Any]


WORKFLOWS = {
    "click": Workflow(
        [PointPrompt(((50.0, 40.0),), (True,), 0, 1)],
        {"input_points": [[[[50, 40]]]], "input_labels": [[[1]]]},
    ),
    "clicks": Workflow(
        [PointPrompt(((50.0, 40.0), (60.0, 50.0), (70.0, 20.0)), (True, True, True), 0, 1)],
        {"input_points": [[[[50, 40], [60, 50], [70, 20]]]], "input_labels": [[[1, 1, 1]]]},
    ),
    "negative click": Workflow(
        [PointPrompt(((50.0, 40.0), (90.0, 70.0)), (True, False), 0, 1)],
        {"input_points": [[[[50, 40], [90, 70]]]], "input_labels": [[[1, 0]]]},
    ),
    "negative click in a round of its own": Workflow(
        [PointPrompt(((50.0, 40.0),), (True,), 0, 1), PointPrompt(((90.0, 70.0),), (False,), 0, 1)],
        {"input_points": [[[[50, 40], [90, 70]]]], "input_labels": [[[1, 0]]]},
    ),
    "box": Workflow(
        [BoxPrompt((20.0, 10.0, 70.0, 60.0), 0, 1)],
        {"input_boxes": [[[20, 10, 70, 60]]]},
    ),
    "box and clicks": Workflow(
        [BoxPrompt((20.0, 10.0, 70.0, 60.0), 0, 1), PointPrompt(((50.0, 40.0), (90.0, 70.0)), (True, False), 0, 1)],
        {"input_boxes": [[[20, 10, 70, 60]]], "input_points": [[[[50, 40], [90, 70]]]], "input_labels": [[[1, 0]]]},
    ),
    "mask": Workflow([mask_prompt(blob(20, 30))], {"input_masks": blob(20, 30)}),
}


@pytest.mark.usefixtures("same_kernel")
class TestAgainstTransformers:
    """`rules: transformers`: the same masks and scores, bit for bit."""

    @pytest.mark.parametrize(
        ("name", "model"),
        [*((name, MODELS[0]) for name in WORKFLOWS), *((name, m) for m in MODELS[1:] for name in ("clicks", "mask"))],
    )
    def test_forward(self, frames, name, model):
        workflow = WORKFLOWS[name]
        theirs = Session(frames, standalone(*model))
        theirs.add(0, [1], **workflow.inputs)
        assert_same(run(frames, workflow.prompts, model=model), theirs.propagate(start_frame_idx=0))

    @pytest.mark.parametrize("name", ["click", "box", "mask"])
    def test_backward(self, frames, name):
        workflow = WORKFLOWS[name]
        theirs = Session(frames)
        theirs.add(LAST, [1], **workflow.inputs)
        prompts = [_on_frame(prompt, LAST) for prompt in workflow.prompts]
        assert_same(run(frames, prompts, direction="backward"), theirs.propagate(start_frame_idx=LAST, reverse=True))

    @pytest.mark.parametrize("name", ["click", "mask"])
    def test_both_directions_from_the_middle(self, frames, name):
        workflow = WORKFLOWS[name]
        theirs = Session(frames)
        theirs.add(9, [1], **workflow.inputs)
        forward = theirs.propagate(start_frame_idx=9)
        backward = theirs.propagate(start_frame_idx=9, reverse=True)
        prompts = [_on_frame(prompt, 9) for prompt in workflow.prompts]
        ours = run(frames, prompts, direction="both")
        assert_same(ours, {**backward, **forward})
        assert [result.facts.index for result in ours] == list(range(LENGTH))

    def test_several_objects(self, frames):
        theirs = Session(frames)
        theirs.add(0, [2, 5], input_points=[[[[50, 40]], [[20, 60]]]], input_labels=[[[1], [1]]])
        ours = run(frames, [PointPrompt(((50.0, 40.0),), (True,), 0, 2), PointPrompt(((20.0, 60.0),), (True,), 0, 5)])
        expected = theirs.propagate(start_frame_idx=0)
        # Two objects share a batch here, and one does there: equal up to rounding.
        pairs = [
            (mask_of(ours[t], object_id), shown.masks[row])
            for t, shown in expected.items()
            for row, object_id in enumerate((2, 5))
        ]
        assert worst_iou(pairs) >= 0.999

    @pytest.mark.parametrize("name", ["click", "mask", "box"])
    def test_refinement_on_a_frame_already_tracked(self, frames, name):
        """Frame by frame: transformers' second propagation would lose the refinement altogether."""
        theirs = Session(frames)
        theirs.add(0, [1], **WORKFLOWS["click"].inputs)
        expected = {t: theirs.segment(t) for t in range(9)}
        theirs.add(8, [1], **WORKFLOWS[name].inputs)
        expected.update({t: theirs.segment(t) for t in range(8, LENGTH)})
        prompts = WORKFLOWS["click"].prompts + [_on_frame(prompt, 8) for prompt in WORKFLOWS[name].prompts]
        assert_same(run(frames, prompts), expected)

    def test_all_prompts_known_before_propagation(self, frames):
        theirs = Session(frames)
        for t, name in ((0, "click"), (8, "box"), (15, "mask")):
            theirs.add(t, [1], **WORKFLOWS[name].inputs)
            theirs.segment(t)
        expected = theirs.propagate(start_frame_idx=0)
        prompts = [
            *WORKFLOWS["click"].prompts,
            _on_frame(WORKFLOWS["box"].prompts[0], 8),
            _on_frame(WORKFLOWS["mask"].prompts[0], 15),
        ]
        assert_same(run(frames, prompts, refine="throughout"), expected)

    @pytest.mark.parametrize("length", [1, 2, 15, 16])
    def test_short_clips(self, length):
        """Below 16 frames the length decides how pointers are encoded."""
        frames = clip(length, seed=3)
        theirs = Session(frames)
        theirs.add(0, [1], **WORKFLOWS["box"].inputs)
        assert_same(run(frames, WORKFLOWS["box"].prompts), theirs.propagate(start_frame_idx=0))


def _on_frame(prompt: VisualPrompt, frame: int, object_id: int = 1) -> VisualPrompt:
    return replace(prompt, frame_index=frame, object_id=object_id)


class TestDefectsOfTransformers:
    """What transformers 5.23 does wrong (if one of these fails, it was mended), and ours does right."""

    def test_the_documented_refinement_is_lost(self, frames):
        theirs = Session(frames)
        theirs.add(0, [1], **WORKFLOWS["click"].inputs)
        theirs.segment(0)
        before = theirs.propagate()
        theirs.add(8, [1], **WORKFLOWS["box"].inputs)
        after = theirs.propagate()
        assert all(np.array_equal(before[t].masks, after[t].masks) for t in before)

        prompts = [*WORKFLOWS["click"].prompts, _on_frame(WORKFLOWS["box"].prompts[0], 8)]
        for rules in ("transformers", "published"):
            plain = run(frames, WORKFLOWS["click"].prompts, rules)
            refined = run(frames, prompts, rules)
            same = [np.array_equal(mask_of(a, 1), mask_of(b, 1)) for a, b in zip(plain, refined, strict=True)]
            assert all(same[:8])
            assert not any(same[8:10])

    def test_an_object_queued_for_later_exists_before_its_prompt(self, frames):
        theirs = Session(frames)
        theirs.add(5, [1], **WORKFLOWS["mask"].inputs)
        theirs.propagate(start_frame_idx=0)
        assert sorted(theirs.session.output_dict_per_obj[0]["cond_frame_outputs"]) == [0, 1, 2, 3, 4, 5]

        ours = run(frames, [_on_frame(WORKFLOWS["mask"].prompts[0], 5)])
        assert [bool(result.object_ids) for result in ours[:6]] == [False] * 5 + [True]

    def test_the_second_of_two_queued_frames_is_ignored(self, frames):
        click, box = WORKFLOWS["click"], WORKFLOWS["box"]
        one, two = Session(frames), Session(frames)
        one.add(0, [1], **click.inputs)
        two.add(0, [1], **click.inputs)
        two.add(8, [1], **box.inputs)
        first, second = one.propagate(start_frame_idx=0), two.propagate(start_frame_idx=0)
        assert all(np.array_equal(first[t].masks, second[t].masks) for t in first)

        prompts = [*click.prompts, _on_frame(box.prompts[0], 8)]
        ours, single = run(frames, prompts, refine="throughout"), run(frames, click.prompts)
        assert not np.array_equal(mask_of(ours[8], 1), mask_of(single[8], 1))

    def test_unequal_numbers_of_clicks_change_each_other(self, frames):
        points = [[[50, 40], [60, 50], [70, 20]], [[20, 60]]]
        together, alone = Session(frames), Session(frames)
        together.add(0, [1, 2], input_points=[points], input_labels=[[[1, 1, 0], [1]]])
        alone.add(0, [1], input_points=[points[1:]], input_labels=[[[1]]])
        padded, single = together.segment(0).masks[1], alone.segment(0).masks[0]
        assert worst_iou([(padded, single)]) < 0.99

        first = PointPrompt(((50.0, 40.0), (60.0, 50.0), (70.0, 20.0)), (True, True, False), 0, 1)
        second = PointPrompt(((20.0, 60.0),), (True,), 0, 2)
        both, lone = run(frames[:2], [first, second])[0], run(frames[:2], [second])[0]
        assert worst_iou([(mask_of(both, 2), mask_of(lone, 2))]) >= 0.999
        assert worst_iou([(mask_of(both, 2), single)]) >= 0.999

    def test_a_prompt_changes_what_is_remembered_of_the_others(self, frames):
        def memory_of_first(prompts_second: bool) -> torch.Tensor:
            theirs = Session(frames)
            theirs.add(0, [1, 2], input_points=[[[[50, 40]], [[20, 60]]]], input_labels=[[[1], [1]]])
            theirs.segment(0)
            theirs.segment(1)
            if prompts_second:
                theirs.add(2, [2], input_points=[[[[30, 60]]]], input_labels=[[[1]]])
            theirs.segment(2)
            return theirs.session.output_dict_per_obj[0]["non_cond_frame_outputs"][2]["maskmem_features"].float()

        assert (memory_of_first(True) - memory_of_first(False)).abs().max() > 0.05

        first = PointPrompt(((50.0, 40.0),), (True,), 0, 1)
        others = [PointPrompt(((20.0, 60.0),), (True,), 0, 2), PointPrompt(((30.0, 60.0),), (True,), 2, 2)]
        for rules in ("transformers", "published"):
            with_other, without = run(frames, [first, *others], rules), run(frames, [first, others[0]], rules)
            pairs = [(mask_of(a, 1), mask_of(b, 1)) for a, b in zip(with_other, without, strict=True)]
            assert worst_iou(pairs) >= 0.999

    def test_backward_from_the_first_frame_yields_nothing(self, frames):
        theirs = Session(frames)
        theirs.add(0, [1], **WORKFLOWS["click"].inputs)
        assert theirs.propagate(start_frame_idx=0, reverse=True) == {}

        ours = run(frames, WORKFLOWS["click"].prompts, direction="backward")
        assert [bool(result.object_ids) for result in ours] == [True] + [False] * (LENGTH - 1)

    def test_the_range_is_one_frame_longer_than_asked(self, frames):
        theirs = Session(frames)
        theirs.add(0, [1], **WORKFLOWS["click"].inputs)
        assert len(theirs.propagate(start_frame_idx=0, max_frame_num_to_track=10)) == 11
        assert len(run(frames[:10], WORKFLOWS["click"].prompts)) == 10


def same_masks(first: Sequence[FrameMasks], second: Sequence[FrameMasks], frames: range, object_id: int = 1) -> bool:
    return all(np.array_equal(mask_of(first[t], object_id), mask_of(second[t], object_id)) for t in frames)


class TestPublishedRules:
    """What Meta's predictor does and transformers does not."""

    CLICK = WORKFLOWS["click"].prompts[0]
    AWAY = PointPrompt(((90.0, 70.0),), (False,), 8, 1)

    def test_a_refinement_starts_from_the_mask_that_was_there(self, frames):
        """A lone negative click refines only because the earlier mask goes in with it."""
        plain, refined = run(frames, [self.CLICK], "published"), run(frames, [self.CLICK, self.AWAY], "published")
        assert same_masks(plain, refined, range(8))
        assert not same_masks(plain, refined, range(8, 9))

    def test_rounds_on_one_frame_build_on_each_other(self, frames):
        clicks = [PointPrompt(((50.0, 40.0),), (True,), 0, 1), PointPrompt(((90.0, 70.0),), (False,), 0, 1)]
        rounds = run(frames[:2], clicks, "published")
        at_once = run(frames[:2], WORKFLOWS["negative click"].prompts, "published")
        assert not same_masks(rounds, at_once, range(1))

    def test_a_refinement_is_a_conditioning_frame(self, frames, monkeypatch):
        kept = watch(monkeypatch)
        run(frames[:12], [self.CLICK, self.AWAY], "published")
        assert sorted(kept[-1].conditioning) == [0, 8]
        run(frames[:12], [self.CLICK, self.AWAY], "transformers")
        assert sorted(kept[-1].conditioning) == [0]

    def test_throughout_changes_the_frames_before_the_refinement_too(self, frames):
        onward = run(frames, [self.CLICK, self.AWAY], "published")
        throughout = run(frames, [self.CLICK, self.AWAY], "published", refine="throughout")
        assert same_masks(onward, throughout, range(1))
        assert not same_masks(onward, throughout, range(1, 8))
        assert same_masks(onward, throughout, range(8, 9))

    def test_masks_of_one_frame_exclude_each_other_and_the_later_wins(self, frames):
        first, second = blob(10, 10, 40, 50), blob(30, 40, 40, 50)
        result = run(frames[:1], [mask_prompt(first, 0, 1), mask_prompt(second, 0, 2)], "published")[0]
        assert worst_iou([(mask_of(result, 2), second), (mask_of(result, 1), first & ~second)]) > 0.9
        assert not (mask_of(result, 1) & mask_of(result, 2)).sum() > 40  # the border, after resizing

    def test_no_more_than_sixteen_clicks_are_seen(self, frames):
        points = tuple((float(x), 40.0) for x in range(20, 100, 4))
        seen = points[:8] + points[-8:]
        many = PointPrompt(points, (True,) * len(points), 0, 1)
        few = PointPrompt(seen, (True,) * 16, 0, 1)
        assert same_masks(run(frames[:3], [many], "published"), run(frames[:3], [few], "published"), range(3))
        assert not same_masks(run(frames[:3], [many]), run(frames[:3], [few]), range(1))

    def test_directions_agree_where_they_meet(self, frames):
        prompts = [_on_frame(self.CLICK, 9)]
        both = run(frames, prompts, "published", direction="both")
        assert same_masks(both, run(frames, prompts, "published"), range(9, LENGTH))
        assert [result.facts.index for result in both] == list(range(LENGTH))
        assert all(result.object_ids == (1,) for result in both[:9])


def watch(monkeypatch: pytest.MonkeyPatch) -> list[ObjectMemory]:
    """Every memory that is tracked from now on, in the order of last use."""
    kept: list[ObjectMemory] = []
    track = Tracker.track

    def tracked(self: Tracker, features: Any, frame: int, memories: Any, **options: Any) -> Any:
        kept.extend(memories)
        return track(self, features, frame, memories, **options)

    monkeypatch.setattr(Tracker, "track", tracked)
    return kept


class TestClip:
    """What holds whatever the rules."""

    @pytest.mark.parametrize("direction", ["forward", "backward", "both"])
    def test_objects_of_any_frame_in_one_run_are_as_alone(self, frames, direction):
        prompts = [
            PointPrompt(((50.0, 40.0),), (True,), 3, 7, label="cat"),
            BoxPrompt((20.0, 10.0, 70.0, 60.0), 11, 2, label="dog"),
        ]
        together = run(frames, prompts, "published", direction=direction)
        for prompt in prompts:
            alone = run(frames, [prompt], "published", direction=direction)
            pairs = [
                (mask_of(a, prompt.object_id), mask_of(b, prompt.object_id))
                for a, b in zip(together, alone, strict=True)
            ]
            assert worst_iou(pairs) >= 0.999
        assert any(set(result.object_ids) == {2, 7} for result in together)

    def test_one_value_per_frame_and_labels_by_object(self, frames):
        prompts = [
            PointPrompt(((50.0, 40.0),), (True,), 3, 7, label="cat"),
            BoxPrompt((20.0, 10.0, 70.0, 60.0), 1, 2, label="dog"),
        ]
        engine = VisualEngine(checkpoint(tiny_model(*MODELS[0])))
        annotations = list(engine.annotate(Clip(frames), prompts))
        assert [each.frame_index for each in annotations] == list(range(LENGTH))
        rows = {(row.object_id, row.prompt, row.score) for each in annotations for row in each.objects}
        assert rows == {(2, "dog", 1.0), (7, "cat", 1.0)}
        assert not annotations[0].objects

    def test_sampled_frames_keep_their_own_indices(self, frames):
        sampled = frames[1::3]
        prompts = [PointPrompt(((50.0, 40.0),), (True,), 7, 1)]
        for direction in ("forward", "backward", "both"):
            result = run(sampled, prompts, "published", direction=direction)
            assert [each.facts.index for each in result] == [each.index for each in sampled]
            assert result[2].object_ids == (1,)

    @pytest.mark.parametrize("direction", ["forward", "backward", "both"])
    @pytest.mark.parametrize("refine", ["onward", "throughout"])
    def test_a_prompt_on_a_frame_that_is_not_read_is_an_error(self, frames, direction, refine):
        prompts = [PointPrompt(((50.0, 40.0),), (True,), 3, 1), PointPrompt(((50.0, 40.0),), (True,), 8, 4)]
        with pytest.raises(ClipError, match="frame 8, on which object 4 is prompted, is not among the frames read"):
            run(frames[::3], prompts, direction=direction, refine=refine)

    def test_relative_coordinates_are_fractions_of_the_frame(self, frames):
        pixels = [BoxPrompt((24.0, 9.0, 72.0, 63.0), 0, 1)]
        relative = [BoxPrompt((0.2, 0.1, 0.6, 0.7), 0, 1, units="relative")]
        assert same_masks(run(frames[:3], pixels), run(frames[:3], relative), range(3))

    @pytest.mark.parametrize(
        ("prompt", "sentence"),
        [
            (
                PointPrompt(((121.0, 5.0),), (True,), 0, 3),
                r"on frame 0: point \(121, 5\) is outside the frame",
            ),
            (BoxPrompt((30.0, 5.0, 20.0, 9.0), 0, 3), r"object 3 on frame 0: box \(30, 5, 20, 9\) is not one of"),
            (mask_prompt(np.ones((9, 9), bool), 0, 3), r"the mask is 9x9 pixels, the frame is 120x90"),
            (PointPrompt(((5.0, 5.0),), (False,), 0, 3), r"object 3 starts on frame 0 .* with negative clicks only"),
            (PointPrompt(((5.0, 5.0),), (True,), 0, 0), r"object ids start at 1"),
        ],
    )
    def test_prompts_that_cannot_be_meant(self, frames, prompt, sentence):
        with pytest.raises((ValueError, ClipError), match=sentence):
            run(frames[:1], [prompt])

    def test_a_stream_is_enough_to_go_forward_and_nothing_else(self, frames):
        prompts = WORKFLOWS["click"].prompts
        streamed = run(OnePass(iter(frames), HEIGHT, WIDTH), prompts, "published")
        assert same_masks(streamed, run(frames, prompts, "published"), range(LENGTH))
        with pytest.raises(ValueError, match="only once"):
            run(OnePass(iter(frames), HEIGHT, WIDTH), [_on_frame(prompts[0], 3)], "published", direction="both")


class TestBounds:
    def test_frames_are_taken_as_they_are_needed(self, frames):
        """Forward, no frame is decoded long before its result is asked for."""
        taken = 0

        def stream() -> Iterator[Frame]:
            nonlocal taken
            for t in range(200):
                taken += 1
                yield replace(frames[t % LENGTH], index=t)

        engine = VisualEngine(checkpoint(tiny_model(*MODELS[0])))
        results = engine.segment(OnePass(stream(), HEIGHT, WIDTH), WORKFLOWS["click"].prompts)
        for _ in range(3):
            next(results)
        assert taken <= 3 + 16

    @pytest.mark.parametrize("direction", ["forward", "backward", "both"])
    def test_memories_do_not_grow_with_the_clip(self, monkeypatch, direction):
        trackers: list[Tracker] = []
        start = Tracker.__init__

        def remembered(self: Tracker, *args: Any, **options: Any) -> None:
            trackers.append(self)
            start(self, *args, **options)

        monkeypatch.setattr(Tracker, "__init__", remembered)
        source = Clip(clip(44))
        engine = VisualEngine(checkpoint(tiny_model(*MODELS[0])))
        held = []
        prompts = [_on_frame(WORKFLOWS["click"].prompts[0], 20), _on_frame(WORKFLOWS["box"].prompts[0], 30, 2)]
        list(
            engine.segment(source, prompts, direction=direction, progress=lambda: held.append(trackers[0].rows_in_use))
        )
        # Per object: conditioning, 6 memories, the one just written; 16 pointers. As much again for the way back.
        passes = 2 if direction == "both" else 1
        assert max(memories for memories, _ in held) <= passes * 2 * 8
        assert max(pointers for _, pointers in held) <= passes * 2 * 18
        assert source.largest_chunk <= 128
