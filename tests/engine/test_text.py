"""The text engine as its callers see it: lazy, bounded, the same whatever the batch sizes."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sam3ray.config import TrackingConfig
from sam3ray.engine import output_queue
from sam3ray.engine.detector import MAX_TOKENS, Detector, detections_above
from sam3ray.engine.engine import Engine
from sam3ray.engine.frames import Preprocessor
from sam3ray.engine.tracker import Tracker
from sam3ray.video import Frame
from tests.engine.pipeline import HEIGHT, WIDTH, Found, ScriptedDetector, checkpoint, clip, processor
from tests.engine.tiny import backbone_features, tiny_model


def moving(frame, prompt):
    found = [Found((0.25 + 0.01 * frame, 0.25), 0.12, 0.9), Found((0.7, 0.75), 0.15, 0.8)]
    return found if frame in (0, 3) and prompt == 0 else found[:1] if frame == 2 else []


def engine(detector=None, seed=0, **tracking) -> Engine:
    model = tiny_model(seed)
    if detector is None:
        detector = ScriptedDetector(moving, model.low_res_mask_size)
    return Engine(checkpoint(model), TrackingConfig(**tracking), detector)


def rows(frames):
    return [
        (f.frame_index, o.object_id, o.prompt, round(o.track_score, 4), o.rle, o.bbox)
        for f in frames
        for o in f.objects
    ]


@pytest.mark.parametrize("size", [(90, 120), (112, 112), (64, 301), (500, 37)])
def test_frames_are_preprocessed_bit_for_bit_as_by_the_checkpoints_processor(size):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(2)]
    theirs = processor().video_processor(videos=images, return_tensors="pt").pixel_values_videos[0]
    preprocess = Preprocessor(checkpoint(tiny_model(0)))
    for image, expected in zip(images, theirs, strict=True):
        assert torch.equal(preprocess(Frame(0, 0, 0.0, image))[0], expected)


@pytest.mark.parametrize("rules", ["published", "transformers"])
def test_batch_sizes_change_nothing(rules):
    """Look-ahead, objects and phrases per call: rounding apart, the same rows."""
    base = engine(rules=rules, hotstart_delay=0, object_batch=1)
    expected = list(base.annotate(clip(8), HEIGHT, WIDTH, ["red", "blue"]))
    assert len(rows(expected)) > 8
    for options in ({"frame_batch": 3}, {"object_batch": 64}, {"prompt_batch": 1}):
        other = engine(rules=rules, hotstart_delay=0, **({"object_batch": 1} | options))
        got = list(other.annotate(clip(8), HEIGHT, WIDTH, ["red", "blue"]))
        assert [[o.object_id for o in f.objects] for f in got] == [[o.object_id for o in f.objects] for f in expected]
        for mine, theirs in zip(got, expected, strict=True):
            for a, b in zip(mine.objects, theirs.objects, strict=True):
                assert abs(a.track_score - b.track_score) < 1e-4
                assert abs(a.area - b.area) <= max(2, 0.02 * b.area)


@pytest.mark.parametrize("kind", ["bfloat16", "autocast"])
def test_other_precisions_find_the_same_objects(kind):
    exact = list(engine(hotstart_delay=0).annotate(clip(5), HEIGHT, WIDTH, ["red"]))
    model = copy.deepcopy(tiny_model(0)).to(torch.bfloat16 if kind == "bfloat16" else torch.float32)
    loaded = replace(checkpoint(model), autocast=kind == "autocast")
    other = Engine(loaded, TrackingConfig(hotstart_delay=0), ScriptedDetector(moving, model.low_res_mask_size))
    got = list(other.annotate(clip(5), HEIGHT, WIDTH, ["red"]))
    assert [o.object_id for o in got[0].objects] == [o.object_id for o in exact[0].objects]
    for mine, theirs in zip(got, exact, strict=True):
        scores = {o.object_id: o.track_score for o in theirs.objects}
        for each in mine.objects:
            assert abs(each.track_score - scores.get(each.object_id, each.track_score)) < 0.05


def test_masks_are_made_for_phrases_that_found_something_and_equal_the_models_own():
    model, one = tiny_model(0), checkpoint(tiny_model(0))
    detector, phrases = Detector(one, batch=2), ("red", "blue", "green")
    calls = []
    hook = model.detector_model.mask_decoder.pixel_decoder.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        pixels = torch.cat([Preprocessor(one)(frame) for frame in clip(2)])
        backbone = backbone_features(model, pixels)
        proposals = detector.propose(backbone, phrases)
        assert len(detections_above(proposals[0], 1.0)) == 0
        assert not calls
        top = proposals[1].probs.max(dim=1).values
        order = top.argsort(descending=True).tolist()
        threshold = float(top[order[1]]) - 1e-6
        found = detections_above(proposals[1], threshold)
        assert set(found.prompts) == set(order[:2])
        assert len(calls) == 1
        hook.remove()
        for prompt in order[:2]:
            vision = model.detector_model.get_vision_features(pixels[1:])
            text = one.processor.tokenizer(
                phrases[prompt], return_tensors="pt", padding="max_length", max_length=MAX_TOKENS
            )
            whole = model.detector_model(vision_embeds=vision, **text)
            probs = whole.pred_logits.sigmoid() * whole.presence_logits.sigmoid()
            assert torch.allclose(proposals[1].probs[prompt], probs[0], atol=1e-6)
            passed = np.flatnonzero(proposals[1].probs[prompt].numpy() > threshold)
            mine = found.masks[torch.from_numpy(np.flatnonzero(found.prompts == prompt))]
            assert torch.allclose(mine, whole.pred_masks[0, passed], atol=1e-4)


def test_the_geometry_token_is_that_of_the_model_when_it_is_given_no_boxes():
    model, one, phrases = tiny_model(0), checkpoint(tiny_model(0)), ("red", "blue")
    detector = model.detector_model
    with torch.inference_mode():
        pixels = torch.cat([Preprocessor(one)(frame) for frame in clip(2)])
        backbone = backbone_features(model, pixels)
        without = Detector(one).propose(backbone, phrases)
        proposals = Detector(one, batch=3, geometry_token=True).propose(backbone, phrases)
        for at, mine in enumerate(proposals):
            vision = detector.get_vision_features(pixels[at : at + 1])
            token = detector.geometry_encoder(
                box_embeddings=torch.zeros(1, 0, 4),
                box_mask=torch.zeros(1, 0, dtype=torch.bool),
                box_labels=torch.zeros(1, 0, dtype=torch.long),
                img_feats=vision.fpn_hidden_states[:3],
                img_pos_embeds=vision.fpn_position_encoding[:3],
            ).last_hidden_state
            for place, phrase in enumerate(phrases):
                words = one.processor.tokenizer(
                    phrase, return_tensors="pt", padding="max_length", max_length=MAX_TOKENS
                )
                text = detector.get_text_features(**words, return_dict=True).pooler_output
                mask = torch.cat([words["attention_mask"], torch.ones(1, 1, dtype=torch.long)], 1)
                embeds = SimpleNamespace(pooler_output=torch.cat([text, token], 1))
                whole = detector(vision_embeds=vision, text_embeds=embeds, attention_mask=mask)
                probs = whole.pred_logits.sigmoid() * whole.presence_logits.sigmoid()
                assert torch.allclose(mine.probs[place], probs[0], atol=1e-6)
                assert torch.allclose(mine.masks_of([place])[0], whole.pred_masks[0], atol=1e-4)
            assert not torch.allclose(mine.probs, without[at].probs, atol=1e-6)


def test_two_runs_are_equal_row_for_row():
    one = engine(hotstart_delay=3, hotstart_unmatch_thresh=3, hotstart_dup_thresh=3)
    first = rows(one.annotate(clip(8), HEIGHT, WIDTH, ["red"]))
    assert first == rows(one.annotate(clip(8), HEIGHT, WIDTH, ["red"]))


def test_frames_are_taken_lazily_and_results_leave_in_order():
    taken = []

    def supply():
        for frame in clip(40, height=16, width=16):
            taken.append(frame.index)
            yield frame

    nothing = ScriptedDetector(lambda frame, prompt: [], 56)
    results = engine(nothing).annotate(supply(), 16, 16, ["red"])
    assert taken == [], "nothing is read before it is asked for"
    seen = []
    for frame in results:
        seen.append(frame.frame_index)
        # 16 frames are looked at before the first (short clips are tracked otherwise), 14 are held back, and a few
        # are being finished.
        assert len(taken) <= len(seen) + 16 + 15 + output_queue.FINISHING + 2
    assert seen == list(range(40))


@pytest.mark.parametrize("frames", [0, 1, 3, 15, 16, 17])
def test_clips_of_any_length(frames):
    results = list(engine().annotate(clip(frames), HEIGHT, WIDTH, ["red"]))
    assert [frame.frame_index for frame in results] == list(range(frames))


def test_ids_begin_where_they_are_told_to():
    frames = list(engine(hotstart_delay=0).annotate(clip(3), HEIGHT, WIDTH, ["red"], first_object_id=7))
    assert [o.object_id for o in frames[0].objects] == [7, 8]


def test_an_error_of_the_source_reaches_the_caller():
    def broken():
        yield from clip(20)
        raise OSError("the file ends here")

    results = engine().annotate(broken(), HEIGHT, WIDTH, ["red"])
    with pytest.raises(OSError, match="the file ends here"):
        list(results)


def test_leaving_early_stops_the_work():
    import threading

    before = threading.active_count()
    results = engine(hotstart_delay=0).annotate(clip(12), HEIGHT, WIDTH, ["red"])
    next(results)
    results.close()
    assert threading.active_count() == before


def test_the_cap_keeps_the_best_and_tells():
    capped = engine(hotstart_delay=0, max_num_objects=1)
    frames = list(capped.annotate(clip(2), HEIGHT, WIDTH, ["red"]))
    assert [o.score for o in frames[0].objects] == [pytest.approx(0.9)]
    assert capped.tally.dropped == 1


@pytest.mark.parametrize("rules", ["published", "transformers"])
def test_a_full_cap_keeps_who_is_there_and_lets_go_who_is_gone(monkeypatch, rules):
    """Room for two. Object 1 stays and object 2 is gone after frame 3; a better third is seen from frame 6 on."""
    track = Tracker.track
    places = [Found((0.25, 0.25), 0.12, 0.8), Found((0.7, 0.75), 0.15, 0.85), Found((0.25, 0.75), 0.12, 0.95)]

    def followed(self, features, frame, memories, **options):
        found = track(self, features, frame, memories, **options)
        shown = [places[0].mask(56), places[1 if frame < 10 else 2].mask(56)]
        for place in range(len(memories)):
            found.masks[place] = shown[place]
        if len(memories) == 2 and 4 <= frame <= 21:
            found.masks[1] = -8.0
        return found

    def script(frame, prompt):
        return places[:2] if frame < 4 else places[:1] if frame < 6 else [places[0], places[2]]

    one = engine(
        ScriptedDetector(script, 56), rules=rules, hotstart_delay=0, max_num_objects=2, recondition_every_nth_frame=0
    )
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "track", followed)
        frames = list(one.annotate(clip(22, height=24, width=32), 24, 32, ["red"]))
    ids = [[o.object_id for o in frame.objects] for frame in frames]
    assert ids[:4] == [[1, 2]] * 4
    assert ids[4:20] == [[1]] * 16, "seen better or not: the third waits until the second has been gone for 16 frames"
    assert one.tally.dropped == 1, "one object, however many frames it waited"
    if rules == "published":
        assert ids[20:] == [[1, 3], [1]]
        assert (one.tally.objects, one.tally.forgotten) == (3, 1)
    else:
        assert ids[20:] == [[1], [1]]
        assert (one.tally.objects, one.tally.forgotten) == (2, 0)


def test_what_ran_is_told():
    info = engine().info
    assert info["rules"] == "published"
    assert "hole filling" in info["postprocessing"]
    assert info["thresholds"]["new_det_thresh"] == 0.7
    assert info["transformers"].startswith("5.")


class TestForgetting:
    """Object 1 leaves after frame 3; object 2 stays."""

    def run(self, monkeypatch, forget):
        from sam3ray.engine.tracker import Tracker

        track, states = Tracker.track, []

        def leaving(self, features, frame, memories, **options):
            found = track(self, features, frame, memories, **options)
            states.append((len(memories), self.rows_in_use))
            if frame >= 4 and len(memories) == 2:
                found.masks[0] = -8.0
            found.masks[-1] = Found((0.7, 0.75), 0.15, 1.0).mask(56)
            return found

        def script(frame, prompt):
            both = [Found((0.25, 0.25), 0.12, 0.9), Found((0.7, 0.75), 0.15, 0.8)]
            return both if frame == 0 else both[1:]

        detector = ScriptedDetector(script, tiny_model(0).low_res_mask_size)
        one = engine(detector, hotstart_delay=0, object_batch=1, forget_after_frames=forget)
        with monkeypatch.context() as patch:
            patch.setattr(Tracker, "track", leaving)
            return list(one.annotate(clip(26, height=24, width=32), 24, 32, ["red"])), one.tally, states

    def test_a_track_gone_for_long_is_dropped_and_the_others_do_not_change(self, monkeypatch):
        kept, tally, all_states = self.run(monkeypatch, None)
        assert tally.forgotten == 0
        assert all_states[-1][0] == 2
        forgot, tally, states = self.run(monkeypatch, 16)
        assert tally.forgotten == 1
        assert states[-1][0] == 1
        assert states[-1][1] < all_states[-1][1], "its memory is freed"
        assert [[o for o in f.objects if o.object_id == 2] for f in forgot] == [
            [o for o in f.objects if o.object_id == 2] for f in kept
        ]


def test_state_is_bounded_in_the_length_of_the_clip(monkeypatch):
    """Rows of memory, held frames and records of objects are as many at frame 34 as at frame 48."""
    from sam3ray.engine.propagation import Propagation

    step, sizes = Propagation.step, []

    def watched(self, work, *more):
        out = step(self, work, *more)
        sizes.append((work.position, self.tracker.rows_in_use, len(self.hotstart), len(self.objects)))
        return out

    monkeypatch.setattr(Propagation, "step", watched)

    def script(frame, prompt):  # confirmed objects, and a spurious one every third frame
        found = [Found((0.3, 0.3), 0.1, 0.65), Found((0.7, 0.7), 0.1, 0.65)]
        return [Found(each.centre, 0.1, 0.9) for each in found] if frame == 0 else found

    detector = ScriptedDetector(script, tiny_model(0).low_res_mask_size)
    one = engine(detector, hotstart_delay=15, hotstart_unmatch_thresh=15, hotstart_dup_thresh=15, high_conf_thresh=0.0)
    assert len(list(one.annotate(clip(48, height=24, width=32), 24, 32, ["red"]))) == 48
    assert sizes[34][1:] == sizes[-1][1:]
