"""The files of a job that the page saves: which clips are in it, and what they are looked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam3ray.app import _downloads
from sam3ray.app._library import Entry
from sam3ray.app._order import Order
from sam3ray.config import ModelConfig, TrackingConfig, VideoConfig, config_from_text
from sam3ray.values.clip import Clip
from sam3ray.values.prompts import BoxPrompt

ENTRIES = [
    Entry("c1", "one", Clip("one", "/videos/one.mp4")),
    Entry("c2", "two", Clip("two", "/videos/two.mp4", ("dog", "cat"), start_s=1.5)),
    Entry("c3", "three", Clip("three", "/page/uploads/three.mp4")),
]
BOX = BoxPrompt((20.0, 20.0, 60.0, 60.0), 0, 1, "mine")


def order(**more) -> Order:
    return Order("job", "", ENTRIES[0].clip, VideoConfig(), last=9, **more)


def saved(asked: Order) -> tuple[dict[str, dict], str, str]:
    files, left_out = _downloads.save_job(ENTRIES, "c1", asked, ModelConfig(checkpoint="embedded"), TrackingConfig())
    rows = [json.loads(line) for line in files["clips.jsonl"].splitlines()]
    notes = _downloads.job_notes(ENTRIES, asked, 10, left_out, Path("/page"))
    return {row["clip_id"]: row for row in rows}, files["job.yaml"], " ".join(notes)


def test_all_clips_have_the_phrases_and_one_has_the_boxes():
    tracking = TrackingConfig(new_det_thresh=0.75)
    rows, text, notes = saved(order(phrases=("person",), visual=(BOX,), tracking=tracking))
    assert {name: row["prompts"] for name, row in rows.items()} == {
        name: ["person"] for name in ("one", "two", "three")
    }
    assert [name for name, row in rows.items() if "visual_prompts" in row] == ["one"]
    assert rows["two"]["start_s"] == 1.5
    config = config_from_text(text, "job.yaml")
    assert (config.prompts, config.tracking.new_det_thresh) == (("person",), 0.75)
    assert "Clicks and boxes are those of the clip that is open" in notes
    assert "1 of the clips were uploaded" in notes
    assert "range" not in notes


def test_without_a_phrase_clips_keep_their_own_and_others_are_left_out():
    rows, _, notes = saved(order(visual=(BOX,)))
    assert {name: row["prompts"] for name, row in rows.items()} == {"one": [], "two": ["dog", "cat"]}
    assert "1 of the clips are not in the job" in notes


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"first": 2}, "not the range"),
        ({"way": "backward"}, "from the first frame"),
        ({"refinements": (BOX,)}, "Prompts on objects that phrases found"),
    ],
)
def test_what_the_job_does_not_do_is_said(more, said):
    assert said in saved(order(phrases=("person",), **more))[2]
    assert said not in saved(order(phrases=("person",)))[2]
