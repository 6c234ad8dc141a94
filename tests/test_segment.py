"""Segmenting a video without Ray: with the checkpoint of the package, over a drawn clip."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from sam3ray import (
    BoxPrompt,
    ClipError,
    FrameAnnotations,
    ModelConfig,
    PointPrompt,
    Segmenter,
    TrackingConfig,
    UserError,
    load,
    segment_video,
    track_video,
)
from sam3ray.masks import decode_rle
from sam3ray.shapes import ClipSpec, clip_phrases, draw_clip, write_clip
from sam3ray.video import ClipFrames

SPEC = ClipSpec(seed=41, width=160, height=120, frames=20, fps=10, objects=(2, 3), look="plain")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    write_clip(SPEC, folder / "clip.mp4", folder / "truth.parquet")
    return folder / "clip.mp4"


@pytest.fixture(scope="module")
def segmenter(loaded_once: None) -> Segmenter:
    return Segmenter(ModelConfig(checkpoint="embedded", device="cpu"))


@pytest.fixture(scope="module")
def of_both_kinds(clip: Path, segmenter: Segmenter) -> list[FrameAnnotations]:
    """What the clip's phrases and a box find together."""
    return list(segmenter.segment(ClipFrames(clip), 120, 160, list(clip_phrases(SPEC)), [box_prompt()]))


def largest_object() -> tuple[int, tuple[int, int, int, int], tuple[float, float]]:
    """Of the first frame: its id, its box and a point well inside."""
    first = next(draw_clip(SPEC))
    object_id = max(first.visible, key=lambda each: int(first.mask(each).sum()))
    rows, columns = first.mask(object_id).nonzero()
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    middle = len(rows) // 2
    return object_id, box, (float(columns[middle]), float(rows[middle]))


def box_prompt(object_id: int = 7) -> BoxPrompt:
    return BoxPrompt(largest_object()[1], frame_index=0, object_id=object_id, label="boxed")


def test_every_frame_comes_once_in_order(clip):
    frames = list(segment_video(clip, list(clip_phrases(SPEC)), checkpoint="embedded"))
    assert [frame.frame_index for frame in frames] == list(range(20))
    assert {(frame.height, frame.width) for frame in frames} == {(120, 160)}
    assert [frame.time_s for frame in frames] == pytest.approx([index / 10 for index in range(20)])


def test_a_range_keeps_the_source_s_indices(clip):
    frames = list(segment_video(clip, ["red circle"], checkpoint="embedded", start_s=0.5, end_s=1.5, fps=5))
    assert [frame.frame_index for frame in frames] == [5, 7, 9, 11, 13]


def test_rows_agree_with_their_masks(of_both_kinds):
    for frame in of_both_kinds:
        for each in frame.objects:
            mask = decode_rle(each.rle, frame.height, frame.width)
            rows, columns = mask.nonzero()
            assert each.area == mask.sum() > 0
            assert each.bbox == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_ids_of_phrases_begin_above_those_of_visual_prompts(of_both_kinds):
    boxed = {each.object_id for frame in of_both_kinds for each in frame.objects if each.prompt == "boxed"}
    named = {each.object_id for frame in of_both_kinds for each in frame.objects if each.prompt != "boxed"}
    assert boxed == {7}
    assert named
    assert min(named) >= 8
    for frame in of_both_kinds:
        ids = [each.object_id for each in frame.objects]
        assert ids == sorted(set(ids))


def test_a_click_by_time_is_the_click_by_frame(clip):
    _, _, point = largest_object()
    by_frame = PointPrompt((point,), (True,), frame_index=0, object_id=1, label="it")
    by_time = PointPrompt((point,), (True,), frame_index=-1, object_id=1, label="it", time_s=0.04)
    relative = PointPrompt(
        ((point[0] / 160, point[1] / 120),), (True,), frame_index=0, object_id=1, label="it", units="relative"
    )
    first, *others = (list(track_video(clip, [each], checkpoint="embedded")) for each in (by_frame, by_time, relative))
    assert any(frame.objects for frame in first)
    assert all(other == first for other in others)


def test_the_ladder_s_rungs_find_the_same_objects(clip, segmenter, of_both_kinds):
    def named(frames: Iterable[FrameAnnotations]) -> list[list[tuple[int, str]]]:
        return [[(each.object_id, each.prompt) for each in frame.objects] for frame in frames]

    assert any(named(of_both_kinds))
    segmenter.set_memory_rung(4)
    frames = segmenter.segment(ClipFrames(clip), 120, 160, list(clip_phrases(SPEC)), [box_prompt()])
    assert named(frames) == named(of_both_kinds)
    segmenter.set_memory_rung(0)


def test_a_stream_that_is_needed_twice_is_refused(clip, segmenter):
    frames = list(ClipFrames(clip).read())
    with pytest.raises(ValueError, match="only once"):
        segmenter.segment(iter(frames), 120, 160, ["red circle"], [box_prompt()], direction="both")
    # Forward, phrases and prompts share one look at each frame: a stream is enough.
    streamed = list(segmenter.segment(iter(frames), 120, 160, ["red circle"], [box_prompt()]))
    assert streamed == list(segmenter.segment(ClipFrames(clip), 120, 160, ["red circle"], [box_prompt()]))


class TestErrorsOfTheCall:
    """Raised by the call, before anything is loaded, not by the first `next`."""

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"prompts": 7}, r"prompts is 7; allowed: a phrase, or a list such as"),
            ({"prompts": ["star", 7]}, "prompts holds 7; allowed: phrases"),
            ({"prompts": ["star", " "]}, "prompts holds an empty phrase"),
            ({"direction": "both"}, 'direction is "both", but start_frame is absent'),
            ({"model": ModelConfig(checkpoint="embedded"), "checkpoint": "embedded"}, "but model is given as well"),
        ],
    )
    def test_arguments_that_contradict_each_other(self, clip, options, sentence):
        with pytest.raises(UserError, match=sentence):
            segment_video(clip, **({"prompts": ["star"]} | options))

    def test_thresholds_beside_a_loaded_model(self, clip, segmenter):
        with pytest.raises(UserError, match="tracking cannot be changed for a loaded model"):
            segment_video(clip, ["star"], model=segmenter, tracking=TrackingConfig())

    def test_a_video_that_is_not_there(self, segmenter):
        with pytest.raises(ClipError, match="not_found"):
            segment_video("nowhere.mp4", ["star"], model=segmenter)

    def test_nothing_to_follow_and_clicks_outside(self, clip, segmenter):
        with pytest.raises(ValueError, match="at least one visual prompt"):
            track_video(clip, [], model=segmenter)
        with pytest.raises(ClipError, match="lies outside the frame"):
            track_video(clip, [PointPrompt(((900.0, 5.0),), (True,), 0, 1)], model=segmenter)

    def test_options_of_a_model(self):
        with pytest.raises(UserError, match="gpu is not a key of ModelConfig; allowed: cache_dir, checkpoint, compile"):
            load("embedded", gpu=1)
        with pytest.raises(UserError, match=r"^device is 'tpu'; allowed: 'auto', 'cpu', 'cuda' or one GPU"):
            load("embedded", device="tpu")


def test_a_loaded_model_serves_clip_after_clip(clip, segmenter):
    backward = list(segment_video(clip, ["red circle"], model=segmenter, direction="backward"))
    assert [frame.frame_index for frame in backward] == list(range(20))
    by_path = list(track_video(clip, [box_prompt()], checkpoint="embedded"))
    assert list(track_video(clip, [box_prompt()], model=segmenter)) == by_path
