"""Drawn clips as files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sam3ray.annotations import read_annotations
from sam3ray.masks import decode_rle
from sam3ray.shapes import ClipSpec, annotate, clip_phrases, demo_clips, draw_clip, write_clip
from sam3ray.video import VideoReader

SPEC = ClipSpec(7, 96, 64, frames=5, objects=(3, 3))


def test_annotations_are_the_drawn_masks():
    drawn = {frame.index: frame for frame in draw_clip(SPEC)}
    found = 0
    for frame in annotate(SPEC, clip_phrases(SPEC)):
        for item in frame.objects:
            mask = drawn[frame.frame_index].mask(item.object_id % 100)
            assert (decode_rle(item.rle, 64, 96) == mask).all()
            assert item.area == mask.sum()
            found += 1
    assert found >= 10


def test_an_object_that_two_phrases_ask_for_comes_once_for_each_with_ids_of_its_own():
    phrase = clip_phrases(SPEC)[0]
    frame = next(annotate(SPEC, [phrase, phrase.split()[1]]))
    by_prompt = {
        prompt: {o.object_id % 100 for o in frame.objects if o.prompt == prompt}
        for prompt in (phrase, phrase.split()[1])
    }
    assert by_prompt[phrase] <= by_prompt[phrase.split()[1]]
    assert len({o.object_id for o in frame.objects}) == len(frame.objects)


def test_a_written_clip_decodes_to_what_was_drawn_and_brings_its_truth(tmp_path):
    video, truth = tmp_path / "clip.mp4", tmp_path / "truth" / "annotations" / "clip.parquet"
    write_clip(SPEC, video, truth, [*clip_phrases(SPEC), "person"])
    drawn = list(draw_clip(SPEC))
    with VideoReader(video) as reader:
        decoded = list(reader)
    assert [frame.index for frame in decoded] == [0, 1, 2, 3, 4]
    assert np.abs(decoded[2].image.astype(int) - drawn[2].image).mean() < 12
    rows = read_annotations(str(tmp_path / "truth")).to_table().to_pylist()
    assert {row["clip_id"] for row in rows} == {"clip"}
    assert not list(tmp_path.rglob("*.partial"))


def test_demo_clips_are_drawn_once_and_described_as_manifest_rows(tmp_path):
    rows = demo_clips(tmp_path, n=1)
    before = (tmp_path / "shapes-001.mp4").stat().st_mtime_ns
    assert demo_clips(tmp_path, n=1) == rows
    assert (tmp_path / "shapes-001.mp4").stat().st_mtime_ns == before
    assert rows[0]["clip_id"] == "shapes-001"
    assert rows[0]["prompts"]
    json.dumps(rows)


def test_a_word_of_the_vocabulary_that_is_no_phrase_is_refused():
    with pytest.raises(ValueError, match="'red' is not a phrase of the drawn clips"):
        next(annotate(SPEC, ["red"]))
