"""Clicks, boxes and masks through a clip: what holds whatever the rules."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from transformers.models.sam3.modeling_sam3 import Sam3ViTModel

from sam3ray.engine import output_queue
from sam3ray.engine.engine import Engine
from sam3ray.engine.source import OnePass
from sam3ray.engine.tracker import Tracker
from sam3ray.failures import ClipError
from sam3ray.prompts import BoxPrompt, PointPrompt
from sam3ray.video import Frame
from tests.engine.documented import worst_iou
from tests.engine.pipeline import HEIGHT, WIDTH, checkpoint, clip
from tests.engine.prompted import LENGTH, MODELS, WORKFLOWS, Clip, mask_of, mask_prompt, on_frame, run, same_masks
from tests.engine.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")


class TestClip:
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
        assert any([each.object_id for each in result.objects] == [2, 7] for result in together)

    def test_one_value_per_frame_and_labels_by_object(self, frames):
        prompts = [
            PointPrompt(((50.0, 40.0),), (True,), 3, 7, label="cat"),
            BoxPrompt((20.0, 10.0, 70.0, 60.0), 1, 2, label="dog"),
        ]
        engine = Engine(checkpoint(tiny_model(*MODELS[0])))
        annotations = list(engine.annotate(Clip(frames), HEIGHT, WIDTH, (), prompts))
        assert [each.frame_index for each in annotations] == list(range(LENGTH))
        rows = {(row.object_id, row.prompt, row.score) for each in annotations for row in each.objects}
        assert rows == {(2, "dog", 1.0), (7, "cat", 1.0)}
        assert not annotations[0].objects

    def test_sampled_frames_keep_their_own_indices(self, frames):
        sampled = frames[1::3]
        prompts = [PointPrompt(((50.0, 40.0),), (True,), 7, 1)]
        for direction in ("forward", "backward", "both"):
            result = run(sampled, prompts, "published", direction=direction)
            assert [each.frame_index for each in result] == [each.index for each in sampled]
            assert [each.object_id for each in result[2].objects] == [1]

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
            run(OnePass(iter(frames), HEIGHT, WIDTH), [on_frame(prompts[0], 3)], "published", direction="both")


class TestBounds:
    def test_frames_are_taken_as_they_are_needed(self, frames):
        """Forward, no frame is decoded long before its result is asked for."""
        taken = 0

        def stream() -> Iterator[Frame]:
            nonlocal taken
            for t in range(200):
                taken += 1
                yield replace(frames[t % LENGTH], index=t)

        engine = Engine(checkpoint(tiny_model(*MODELS[0])))
        results = engine.annotate(OnePass(stream(), HEIGHT, WIDTH), HEIGHT, WIDTH, (), WORKFLOWS["click"].prompts)
        for _ in range(3):
            next(results)
        assert taken <= 3 + 16 + output_queue.FINISHING

    @pytest.mark.parametrize("direction", ["forward", "backward", "both"])
    def test_memories_do_not_grow_with_the_clip(self, monkeypatch, direction):
        trackers: list[Tracker] = []
        start = Tracker.__init__

        def remembered(self: Tracker, *args: Any, **options: Any) -> None:
            trackers.append(self)
            start(self, *args, **options)

        monkeypatch.setattr(Tracker, "__init__", remembered)
        source = Clip(clip(44))
        engine = Engine(checkpoint(tiny_model(*MODELS[0])))
        held = []
        prompts = [on_frame(WORKFLOWS["click"].prompts[0], 20), on_frame(WORKFLOWS["box"].prompts[0], 30, 2)]
        list(
            engine.annotate(
                source,
                HEIGHT,
                WIDTH,
                (),
                prompts,
                direction=direction,
                progress=lambda: held.append(trackers[0].rows_in_use),
            )
        )
        # Per object: conditioning, 6 memories, the one just written; 16 pointers. As much again for the way back.
        passes = 2 if direction == "both" else 1
        assert max(memories for memories, _ in held) <= passes * 2 * 8
        assert max(pointers for _, pointers in held) <= passes * 2 * 18
        assert source.largest_chunk <= 128

    def test_one_vision_backbone_serves_phrases_and_clicks(self, frames):
        def backbones() -> list[Sam3ViTModel]:
            return [each for each in gc.get_objects() if type(each) is Sam3ViTModel]

        before = backbones()
        weights = checkpoint(tiny_model.__wrapped__())
        engine = Engine(weights)
        (backbone,) = [each for each in backbones() if not any(each is other for other in before)]
        calls = []
        backbone.register_forward_hook(lambda *_: calls.append(1))
        list(engine.annotate(iter(frames[:2]), HEIGHT, WIDTH, ["a"]))
        assert calls
        calls.clear()
        list(engine.annotate(Clip(frames[:2]), HEIGHT, WIDTH, (), WORKFLOWS["click"].prompts))
        assert len(calls) == 2
        assert not any("vision_encoder" in name for name in weights.model.tracker_model.state_dict())
