"""What transformers' pipeline does wrong, and ours does right, each on the same clip.

If a test fails where it says "transformers", upstream has mended that defect: take it off the list in `rules`.
"""

import contextlib
import copy

import numpy as np
import pytest
import torch
from transformers import Sam3VideoConfig

from sam3ray.config import TrackingConfig
from sam3ray.engine.engine import Engine
from sam3ray.engine.memory_attention import MemoryAttention
from sam3ray.engine.tracker import Tracker
from sam3ray.failures import UserError
from sam3ray.masks import decode_rle
from tests.engine.pipeline import (
    HEIGHT,
    WIDTH,
    Found,
    ScriptedDetector,
    checkpoint,
    clip,
    kernels,
    processor,
    run_ours,
    run_transformers,
    settings,
)
from tests.engine.tiny import tiny_model


def disc(where, size=56, radius=0.12, peak=6.0):
    return Found(where, radius, 1.0, peak).mask(size)


CORNERS = [(0.2, 0.2), (0.2, 0.8), (0.8, 0.2), (0.8, 0.8)]


@contextlib.contextmanager
def tracks(model, masks_at, score=0.0):
    """Both trackers say masks_at(frame, object) -> logits; `object` counts from 0 in order of appearance.

    The logit of an object's presence is `score` + its number.
    """
    propagate, track = model.run_tracker_propagation, Tracker.track

    def theirs(inference_session, frame_idx, reverse):
        masks, scores = propagate(inference_session, frame_idx, reverse)
        for place, object_id in enumerate(inference_session.obj_ids):
            masks[place] = masks_at(frame_idx, object_id)
            scores[place] = score + float(object_id)
        return masks, scores

    known = {}

    def ours(self, features, frame, memories, **options):
        found = track(self, features, frame, memories, **options)
        for place, memory in enumerate(memories):
            # Ids ascend with birth, so the place among all objects ever seen is the id.
            number = known.setdefault(id(memory), (len(known), memory))[0]
            found.masks[place] = masks_at(frame, number)
            found.score_logits[place] = score + float(number)
        return found

    model.run_tracker_propagation, Tracker.track = theirs, ours
    try:
        yield
    finally:
        del model.run_tracker_propagation
        Tracker.track = track


def run_both(model, frames, script, thresholds, prompts=("red",)):
    detector = ScriptedDetector(script, model.low_res_mask_size)
    with kernels(), settings(model, run_detection=detector.install(model), det_nms_thresh=0.0, **thresholds):
        with torch.inference_mode():
            theirs = list(run_transformers(model, frames, prompts))
        tracking = TrackingConfig(rules="transformers", det_nms_thresh=0.0, object_batch=1, **thresholds)
        ours = list(run_ours(model, frames, prompts, tracking, detector))
    return ours, theirs


def centre(mask):
    y, x = np.nonzero(mask)
    return y.mean() / mask.shape[0], x.mean() / mask.shape[1]


def test_masks_stay_with_their_objects_when_hotstart_removes_one():
    """Object 2 of 4 is found on frame 0 alone and removed on frame 8; the others are found again and again."""
    model = tiny_model(0)

    def script(frame, prompt):
        return [Found(where, 0.12, 0.9 - 0.01 * k, 6.0) for k, where in enumerate(CORNERS) if frame == 0 or k != 1]

    with tracks(model, lambda frame, number: disc(CORNERS[number % 4])):
        ours, theirs = run_both(model, clip(12), script, {"hotstart_delay": 9})
    frame = 8
    assert sorted(ours[frame].masks) == [1, 3, 4]
    for object_id in (1, 3, 4):
        assert np.allclose(centre(ours[frame].masks[object_id]), CORNERS[object_id - 1], atol=0.05)
        assert ours[frame].track_scores[object_id] == pytest.approx(1 / (1 + np.exp(-(object_id - 1.0))), abs=1e-6)
    # transformers: object 3 gets the mask made for object 2, object 4 that of object 3.
    assert np.allclose(centre(theirs[frame].masks[3]), CORNERS[1], atol=0.05)
    assert np.allclose(centre(theirs[frame].masks[4]), CORNERS[2], atol=0.05)
    for other in (*range(1, 8), *range(9, 12)):
        for object_id in (1, 3, 4):
            assert np.array_equal(ours[other].masks[object_id], theirs[other].masks[object_id])


def test_a_new_object_leaves_the_memory_of_the_others_alone():
    """Both objects are there from frame 0 or 5; the first one's later frames must not depend on the second's coming."""
    model = tiny_model(0)

    def first(frame, prompt):
        return [Found((0.3, 0.3), 0.12, 0.9)] if frame == 0 else []

    def second(frame, prompt):
        return [*first(frame, prompt), *([Found((0.7, 0.7), 0.12, 0.9)] if frame == 5 else [])]

    thresholds = {
        "hotstart_delay": 0,
        # so that nothing but memory connects the two
        "suppress_overlapping_based_on_recent_occlusion_threshold": 0.0,
    }
    frames = clip(9)
    ours_alone, theirs_alone = run_both(model, frames, first, thresholds)
    ours_joined, theirs_joined = run_both(model, frames, second, thresholds)

    def changes(alone, joined):
        return sum(a.track_scores[1] != b.track_scores[1] for a, b in zip(alone[6:], joined[6:], strict=True))

    assert changes(theirs_alone, theirs_joined) > 0, "transformers: the first object changes"
    # The shrink rule and exclusive pixels may connect the masks, but what is tracked on frame 6 was stored before.
    assert ours_alone[6].track_scores[1] == ours_joined[6].track_scores[1]


def test_boxes_are_those_of_the_final_masks():
    """Two objects overlap; the better one takes the common pixels, and the other's box shrinks with its mask."""
    model = tiny_model(0)
    left, right = (0.5, 0.4), (0.5, 0.6)

    def script(frame, prompt):
        return [Found(left, 0.2, 0.9, 6.0), Found(right, 0.2, 0.85, 6.0)]

    with tracks(model, lambda frame, number: disc((left, right)[number % 2], radius=0.2)):
        ours, theirs = run_both(model, clip(4), script, {"assoc_iou_thresh": 0.4, "hotstart_delay": 0})
    frame = 2
    assert set(ours[frame].masks) == {1, 2}
    for object_id, mask in ours[frame].masks.items():
        y, x = np.nonzero(mask)
        assert ours[frame].boxes[object_id] == (x.min(), y.min(), x.max() + 1, y.max() + 1)
    worse = min(ours[frame].track_scores, key=ours[frame].track_scores.get)
    _, x = np.nonzero(theirs[frame].masks[worse])
    assert theirs[frame].boxes[worse][2] > x.max() + 1, "transformers: the box is that of the mask before"


def test_every_clip_starts_from_nothing():
    """transformers' reset_state keeps the hidden ids of the clip before, and the next clip's first ids vanish."""
    model = tiny_model(0)

    def script(frame, prompt):
        return [Found((0.4, 0.4), 0.15, 0.9, 6.0)] if frame == 0 else []

    detector = ScriptedDetector(script, model.low_res_mask_size)
    engine = Engine(checkpoint(model), TrackingConfig(rules="transformers"), detector)
    frames = clip(16)
    runs = [
        [{o.object_id: o.rle for o in f.objects} for f in engine.annotate(frames, HEIGHT, WIDTH, ["red"])]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]

    session = processor().init_video_session(dtype=torch.float32)
    session.hotstart_removed_obj_ids.add(1)
    session.max_obj_id = 5
    session.reset_state()
    assert session.hotstart_removed_obj_ids == {1}, "transformers: hidden ids outlive the reset"
    assert session.max_obj_id == 0, "transformers: ids begin at 1 after a reset, at 0 before"


def test_streamed_frames_still_remove_the_spurious():
    """An object that only frame 0 shows is removed, from every frame, although frames come one by one."""
    model = tiny_model(0)

    def script(frame, prompt):
        return [Found((0.4, 0.4), 0.15, 0.9, 6.0)] if frame == 0 else []

    frames = clip(14)
    detector = ScriptedDetector(script, model.low_res_mask_size)
    taken = []

    def supply():
        for frame in frames:
            taken.append(frame.index)
            yield frame

    with tracks(model, lambda frame, number: disc((0.4, 0.4))):
        engine = Engine(checkpoint(model), TrackingConfig(rules="transformers"), detector)
        ours = list(engine.annotate(supply(), HEIGHT, WIDTH, ["red"]))
        assert all(not frame.objects for frame in ours)
        assert engine.tally.removed == 1

        steps = processor()
        session = steps.init_video_session(dtype=torch.float32)
        session = steps.add_text_prompt(session, "red")
        shown = []
        with settings(model, run_detection=detector.install(model), det_nms_thresh=0.0), torch.inference_mode():
            pixels = steps.video_processor(videos=[f.image for f in frames], return_tensors="pt").pixel_values_videos[0]
            for image in pixels:
                output = model(inference_session=session, frame=image)
                final = steps.postprocess_outputs(session, output, original_sizes=[[HEIGHT, WIDTH]])
                shown.append(final["object_ids"].tolist())
    assert shown[-1] == [0], "transformers: the object is never removed from a stream"


def test_what_is_removed_was_never_shown_even_frame_by_frame():
    """An object that only frame 0 shows: gone from the end of transformers' direct calls, but shown until then."""
    model = tiny_model(0)

    def script(frame, prompt):
        return [Found((0.4, 0.4), 0.15, 0.9, 6.0)] if frame == 0 else []

    frames, detector, steps = clip(14), ScriptedDetector(script, model.low_res_mask_size), processor()
    with tracks(model, lambda frame, number: disc((0.4, 0.4))):
        ours = list(run_ours(model, frames, ["red"], TrackingConfig(rules="transformers"), detector))
        session = steps.init_video_session(video=[frame.image for frame in frames], dtype=torch.float32)
        session = steps.add_text_prompt(session, "red")
        with settings(model, run_detection=detector.install(model), det_nms_thresh=0.0), torch.inference_mode():
            shown = [
                steps.postprocess_outputs(session, model(inference_session=session, frame_idx=t))["object_ids"].tolist()
                for t in range(len(frames))
            ]
    assert [frame.masks for frame in ours] == [{}] * len(frames)
    assert shown[:7] == [[0]] * 7, "transformers: a ghost on the frames before the removal"
    assert shown[-1] == []


def test_the_range_of_frames_is_what_it_says():
    model = tiny_model(0)
    detector = ScriptedDetector(lambda frame, prompt: [], model.low_res_mask_size)
    with settings(model, run_detection=detector.install(model)), torch.inference_mode():
        theirs = list(run_transformers(model, clip(14), ["red"], max_frame_num_to_track=10))
    assert len(theirs) == 11, "transformers: one frame more than asked for"
    ours = list(run_ours(model, clip(14)[:10], ["red"], TrackingConfig(), detector))
    assert len(ours) == 10


def test_a_phrase_that_is_too_long_is_an_error():
    long = "a very long phrase that no text encoder reads to its end"
    tokens = processor().tokenizer(long, padding="max_length", max_length=32)["input_ids"]
    assert len(tokens) > 32, "transformers: the prompt is handed on untruncated"
    engine = Engine(checkpoint(tiny_model(0)))
    with pytest.raises(UserError, match=r"'a very long phrase .*' has \d+ tokens; the model takes at most 32"):
        engine.annotate(iter([]), 8, 8, [long])


def test_pointers_do_not_pile_up_with_conditioning_frames(monkeypatch):
    """An object is reconditioned on every second frame: transformers reads a pointer of each of them for ever."""
    model = tiny_model(0)
    where = (0.5, 0.5)
    thresholds = {"recondition_every_nth_frame": 2, "high_conf_thresh": 0.0, "high_iou_thresh": 0.5}
    detector = ScriptedDetector(lambda frame, prompt: [Found(where, 0.2, 0.9, 6.0)], model.low_res_mask_size)
    theirs, ours = [], []
    attend = model.tracker_model.memory_attention.forward

    def counted(*arguments, num_object_pointer_tokens, **options):
        theirs.append(num_object_pointer_tokens // (model.tracker_model.hidden_dim // model.tracker_model.mem_dim))
        return attend(*arguments, num_object_pointer_tokens=num_object_pointer_tokens, **options)

    read = MemoryAttention.__call__

    def noted(self, features, reads, *arguments):
        ours.append(len(reads[0].pointers))
        return read(self, features, reads, *arguments)

    monkeypatch.setattr(model.tracker_model.memory_attention, "forward", counted)
    monkeypatch.setattr(MemoryAttention, "__call__", noted)
    frames = clip(44)
    with tracks(model, lambda frame, number: disc(where, radius=0.2), score=5.0):
        replaced = {"run_detection": detector.install(model), "det_nms_thresh": 0.0, **thresholds}
        with kernels(), settings(model, **replaced), torch.inference_mode():
            assert len(list(run_transformers(model, frames, ["red"]))) == 44
        assert len(list(run_ours(model, frames, ["red"], TrackingConfig(**thresholds), detector))) == 44
    assert theirs[-1] > theirs[-11] > theirs[-21], "transformers: a pointer more with each conditioning frame"
    assert max(ours) <= 4 + 15 < theirs[-1]


def test_the_session_takes_the_dtype_of_the_model():
    model = copy.deepcopy(tiny_model(0)).to(torch.bfloat16)
    frames = clip(2)
    session = processor().init_video_session(video=[frame.image for frame in frames])
    session = processor().add_text_prompt(session, "red")
    detector = ScriptedDetector(at_once, model.low_res_mask_size)
    with settings(model, run_detection=detector.install(model)), torch.inference_mode():
        assert session.dtype == torch.float32, "transformers: the default, whatever the model's"
        with pytest.raises(RuntimeError, match="should be the same"):  # as soon as there is an object
            list(model.propagate_in_video_iterator(session))
    shown = list(run_ours(model, frames, ["red"], TrackingConfig(hotstart_delay=0), detector))
    assert list(shown[0].masks) == [1, 2, 3, 4]


def at_once(frame, prompt):
    return [Found(where, 0.12, 0.9 - 0.01 * k, 6.0) for k, where in enumerate(CORNERS)] if frame == 0 else []


def test_tracks_that_leave_after_hotstart_can_be_let_go():
    """The object is there, and found, on frames 0 to 5 alone; hotstart judges until frame 3."""
    model = tiny_model(0)

    def script(frame, prompt):
        return [Found((0.4, 0.4), 0.15, 0.9, 6.0)] if frame < 6 else []

    def masks_at(frame, number):
        return disc((0.4, 0.4), radius=0.15) if frame < 6 else torch.full((56, 56), -8.0)

    thresholds = {"hotstart_delay": 3, "hotstart_unmatch_thresh": 2, "hotstart_dup_thresh": 2}
    frames = clip(30)
    detector = ScriptedDetector(script, model.low_res_mask_size)
    tracked = []

    def following(frame, number):
        tracked.append(frame)
        return masks_at(frame, number)

    replaced = {"run_detection": detector.install(model), "det_nms_thresh": 0.0, **thresholds}
    with kernels(), settings(model, **replaced), torch.inference_mode(), tracks(model, following):
        assert len(list(run_transformers(model, frames, ["red"]))) == 30
    assert max(tracked) == 29, "transformers: tracked to the end of the clip, however long it has been gone"
    tracked.clear()
    detector = ScriptedDetector(script, model.low_res_mask_size)
    engine = Engine(checkpoint(model), TrackingConfig(forget_after_frames=16, **thresholds), detector)
    with tracks(model, following):
        assert len(list(engine.annotate(iter(frames), HEIGHT, WIDTH, ["red"]))) == 30
    assert max(tracked) == 21
    assert (engine.tally.objects, engine.tally.forgotten) == (1, 1)


def test_no_more_objects_than_the_cap():
    """Four objects on frame 0: by transformers' default none is too many, ours has a limit and keeps to it."""
    assert Sam3VideoConfig().max_num_objects == 10000, "transformers: in effect no limit"
    assert TrackingConfig().max_num_objects == 128
    model = tiny_model(0)
    detector = ScriptedDetector(at_once, model.low_res_mask_size)
    engine = Engine(checkpoint(model), TrackingConfig(max_num_objects=2, hotstart_delay=0), detector)
    frames = list(engine.annotate(clip(2), HEIGHT, WIDTH, ["red"]))
    assert [o.score for o in frames[0].objects] == pytest.approx([0.9, 0.89]), "the best two"
    assert engine.tally.dropped == 2


def test_no_annotation_is_empty():
    """A better object covers another one whole: transformers still shows the second, with a mask of no pixels."""
    model = tiny_model(0)

    def script(frame, prompt):
        return [Found((0.5, 0.5), 0.1, 0.9, 6.0), Found((0.2, 0.2), 0.1, 0.85, 6.0)]

    def masks_at(frame, number):
        return disc((0.5, 0.5), radius=0.1 if number == 0 else 0.3)

    thresholds = {"hotstart_delay": 0, "suppress_overlapping_based_on_recent_occlusion_threshold": 0.0}
    with tracks(model, masks_at):
        ours, theirs = run_both(model, clip(3), script, thresholds)
    assert not theirs[1].masks[1].any()
    assert 1 not in ours[1].masks
    assert 2 in ours[1].masks


def test_masks_agree_with_what_is_written():
    model = tiny_model(5)

    def script(frame, prompt):
        return [Found((0.3, 0.3), 0.2, 0.9, 6.0), Found((0.5, 0.5), 0.2, 0.8, 6.0)] if frame == 0 else []

    detector = ScriptedDetector(script, model.low_res_mask_size)
    engine = Engine(checkpoint(model), TrackingConfig(hotstart_delay=0), detector)
    seen = 0
    for frame in engine.annotate(clip(6), HEIGHT, WIDTH, ["red"]):
        assert [o.object_id for o in frame.objects] == sorted(o.object_id for o in frame.objects)
        taken = np.zeros((HEIGHT, WIDTH), dtype=int)
        for each in frame.objects:
            mask = decode_rle(each.rle, HEIGHT, WIDTH)
            y, x = np.nonzero(mask)
            assert each.area == mask.sum() > 0
            assert each.bbox == (x.min(), y.min(), x.max() + 1, y.max() + 1)
            taken += mask
            seen += 1
        assert taken.max(initial=0) <= 1, "masks of one prompt exclude each other"
    assert seen >= 6
