"""Exemplars as users write them: in manifests of every kind, in files of their own, in the configuration."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3ray.config import JobConfig, config_from_text
from sam3ray.config._fingerprint import fingerprint
from sam3ray.failures import ClipError, UserError
from sam3ray.manifest import Clip, Manifest, read_manifest
from sam3ray.planning import plan_job, sequential_reason
from sam3ray.planning._visual import prompt_problems
from sam3ray.prompts import ExemplarPrompt, exemplar_items, parse_exemplars, resolve_exemplars
from sam3ray.store.frozen import carried_columns, clips_of, differences, from_parquet, to_parquet
from sam3ray.values.exemplars import KEYS
from sam3ray.video import VideoInfo
from tests.planning.test_plan import frames_folder

BOLT = {"label": "bolt", "frame": 0, "units": "pixels", "boxes": [[4, 4, 8, 9]]}
CAR = {
    "phrase": "red car",
    "time_s": 0.5,
    "units": "relative",
    "boxes": [[0, 0, 0.5, 1], [0.5, 0, 1, 1]],
    "labels": [1, 0],
}
NAMELESS = {"frame": 3, "units": "pixels", "boxes": [[1, 1, 2, 2]]}
WANTED = (
    ExemplarPrompt(((4.0, 4.0, 8.0, 9.0),), (True,), 0, label="bolt"),
    ExemplarPrompt(((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)), (True, False), -1, "red car", "", 0.5, "relative"),
    ExemplarPrompt(((1.0, 1.0, 2.0, 2.0),), (True,), 3, label="exemplar 3"),
)


def config(folder: Path, **more: Any) -> JobConfig:
    values = {"manifest": f"{folder}/m.jsonl", "output": f"{folder}/out", "video": {"folder_fps": 30}, **more}
    return config_from_text(json.dumps(values), "job.yaml")


def read(folder: Path, rows: list[dict[str, Any]], **more: Any) -> Manifest:
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return read_manifest(f"{folder}/m.jsonl", config(folder, **more))


def refused(folder: Path, rows: list[dict[str, Any]], **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, rows, **more)
    (sentence,) = caught.value.problems
    return sentence


def test_every_kind_of_manifest_says_the_same(tmp_path: Path) -> None:
    items = [BOLT, CAR, NAMELESS]
    (clip,) = read(tmp_path, [{"uri": "/a.mp4", "exemplars": items}], prompts=["person"])
    assert clip.exemplars == WANTED
    assert clip.prompts == ("red car",), "a clip that brings exemplars does not get the configuration's phrases"
    assert clip.names == ("red car", "bolt", "exemplar 3")
    assert "exemplars" not in clip.carried
    text = json.dumps(items)
    (tmp_path / "m.csv").write_text('uri,exemplars\n/a.mp4,"' + text.replace('"', '""') + '"\n')
    pq.write_table(pa.table({"uri": ["/a.mp4"], "exemplars": [text]}), tmp_path / "text.parquet")
    pq.write_table(pa.Table.from_pylist([{"uri": "/a.mp4", "exemplars": items}]), tmp_path / "structs.parquet")
    for name in ("m.csv", "text.parquet", "structs.parquet"):
        (same,) = read_manifest(f"{tmp_path}/{name}", config(tmp_path))
        assert same == clip, name
    lines = [{"clip_id": clip.clip_id, **item} for item in items]
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, lines)))
    columns = {key: [line.get(key) for line in lines] for key in ("clip_id", *KEYS)}
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    for name in ("e.jsonl", "e.parquet"):
        assert read(tmp_path, [{"uri": "/a.mp4"}], exemplars=f"{tmp_path}/{name}", prompts=["person"]) == [clip], name


def test_the_configurations_go_to_clips_that_bring_none(tmp_path: Path) -> None:
    rows = [{"uri": "/a.mp4", "exemplars": [NAMELESS]}, {"uri": "/b.mp4", "prompts": ["dog"]}, {"uri": "/c.mp4"}]
    own, dog, bare = read(tmp_path, rows, exemplars=[BOLT, {**CAR, "phrase": "DOG"}])
    assert [each.name for each in own.exemplars] == ["exemplar 1"]
    assert (dog.prompts, [each.name for each in dog.exemplars]) == (("dog",), ["bolt", "dog"])
    assert (bare.prompts, bare.exemplars[0]) == (("DOG",), WANTED[0])
    given = config(tmp_path, exemplars=[BOLT])
    assert config_from_text(given.model_dump_json(), "run.json") == given, "as a run's record has it"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"boxes": None}, " has no boxes; allowed: a list of 1 to 64 [xmin, ymin, xmax, ymax]"),
        ({"boxes": []}, ".boxes is a list of 0; allowed: a list of 1 to 64 [xmin, ymin, xmax, ymax]"),
        ({"boxes": [[1, 2, 3, 4]] * 65}, ".boxes is a list of 65; allowed: a list of 1 to 64 [xmin, ymin, xmax, ymax]"),
        ({"boxes": [4, 4, 8, 9]}, ".boxes[0] is 4; allowed: [xmin, ymin, xmax, ymax], pixels from 0"),
        (
            {"boxes": [[4, 4, 4, 9]]},
            ".boxes[0] is [4, 4, 4, 9]; allowed: [xmin, ymin, xmax, ymax] with xmin < xmax and",
        ),
        ({"boxes": [[-1, 4, 8, 9]]}, ".boxes[0] is [-1, 4, 8, 9]; allowed: [xmin, ymin, xmax, ymax], pixels from 0"),
        ({"units": "relative"}, ".boxes[0] is [4, 4, 8, 9]; allowed: [xmin, ymin, xmax, ymax], fractions from 0 to 1"),
        ({"units": None}, " has no units; allowed: 'pixels' or 'relative'"),
        ({"labels": [1, 1]}, ".labels is [1, 1]; allowed: a list of 1, one per box"),
        ({"labels": [2]}, ".labels[0] is 2; allowed: 1 (an instance) or 0 (not an instance)"),
        ({"labels": [0]}, " has only negative boxes; allowed: a positive box beside them, or a phrase"),
        ({"frame": None}, " has neither frame nor time_s; allowed: one of them"),
        ({"time_s": 1}, " has both frame and time_s; allowed: one of them"),
        ({"frame": -1}, ".frame is -1; allowed: a whole number from 0, counted in the source video"),
        ({"phrase": "  "}, ".phrase is '  '; allowed: a phrase such as 'red car'"),
        ({"phrase": "x" * 300}, ".phrase holds a phrase of 300 characters"),
        ({"label": "two\nlines"}, ".label is 'two\\nlines'; allowed: one line of text, at most 256 characters"),
        (
            {"box": [1, 2, 3, 4]},
            ".box is not a known key; the nearest is boxes; allowed: phrase, label, frame, time_s,",
        ),
    ],
)
def test_what_is_refused_is_named_with_its_place(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    item = {key: value for key, value in (BOLT | changed).items() if value is not None}
    sentence = refused(tmp_path, [{"uri": "/a.mp4", "exemplars": [BOLT, item]}])
    assert sentence.startswith(f"{tmp_path}/m.jsonl row 1 (line 1): exemplars[1]{said}")
    with pytest.raises(UserError, match=r"line 1: exemplars\[0\]") as caught:
        config(tmp_path, exemplars=[item])
    assert said in str(caught.value)


def test_lists_and_files_that_are_none(tmp_path: Path) -> None:
    assert parse_exemplars([BOLT] * 257)[1] == [" has 257 exemplars; allowed: at most 256"]
    assert parse_exemplars('[{"frame": NaN}]')[1] == [" is not JSON: NaN is not a number in JSON"]
    assert parse_exemplars({"label": "x"})[1][0].endswith("allowed: a list of exemplars")
    assert parse_exemplars(3)[1] == [" is 3; allowed: a list of exemplars"]
    (tmp_path / "e.jsonl").write_text(json.dumps({"clip_id": "z", **BOLT}))
    lost = refused(tmp_path, [{"uri": "/a.mp4", "clip_id": "a", "prompts": ["x"]}], exemplars=f"{tmp_path}/e.jsonl")
    assert lost.startswith("exemplars are given for clip 'z', which is not in")
    (tmp_path / "e.jsonl").write_text(json.dumps({"clip_id": "a", **BOLT, "boxes": 3}))
    wrong = refused(tmp_path, [{"uri": "/a.mp4", "clip_id": "a"}], exemplars=f"{tmp_path}/e.jsonl", prompts=["x"])
    assert wrong.startswith(f"{tmp_path}/e.jsonl row 1 (line 1): boxes is 3; allowed: a list of 1 to 64")
    both = refused(tmp_path, [{"uri": "/a.mp4", "prompts": ["Bolt"], "exemplars": [BOLT]}])
    assert both.endswith(
        "holds the label 'bolt', which is also a phrase of the clip; allowed: a phrase instead of the "
        "label, or another one"
    )


def test_a_run_keeps_them_and_tells_other_ones_apart(tmp_path: Path) -> None:
    (clip,) = read(tmp_path, [{"uri": "/a.mp4", "exemplars": [BOLT, CAR, NAMELESS], "site": "x"}])
    table = from_parquet(to_parquet([clip], None), "manifest.parquet")
    assert clips_of(table, "manifest.parquet") == [clip]
    assert carried_columns(table).column_names == ["site"]
    assert "exemplars" not in from_parquet(to_parquet([Clip("a", "/a.mp4", ("x",))], None), "m").column_names
    (moved,) = read(tmp_path, [{"uri": "/a.mp4", "exemplars": [{**BOLT, "frame": 1}, CAR, NAMELESS], "site": "x"}])
    assert differences([clip], [moved]).startswith("1 changed")
    job = config(tmp_path)
    here = fingerprint(job, [clip])
    assert here["tracking.exemplars"] == "published"
    assert here["manifest.digest"] != fingerprint(job, [moved])["manifest.digest"]
    assert fingerprint(config(tmp_path, exemplars=[BOLT]), [clip])["exemplars"] == exemplar_items(WANTED[:1])


INFO = VideoInfo(32, 16, Fraction(30), 2.0, 60, Fraction(1, 30), "png")


def test_boxes_are_held_against_their_video(tmp_path: Path) -> None:
    rows = [
        {
            "uri": "s3://b/a.mp4",
            "clip_id": "c",
            "exemplars": [{**BOLT, "frame": 60}, {**BOLT, "boxes": [[0, 0, 33, 9]]}],
        }
    ]
    (clip,) = read(tmp_path, rows)
    assert prompt_problems(clip, INFO, config(tmp_path), {}) == [
        "clip c: the boxes of 'bolt' on frame 0: [0, 0, 33, 9] reaches outside the frame; "
        "allowed: xmax up to 32, ymax up to 16"
    ]
    (late,) = read(tmp_path, [{"uri": "s3://b/a.mp4", "clip_id": "c", "exemplars": [{**BOLT, "frame": 99}]}])
    assert prompt_problems(late, INFO, config(tmp_path), {}) == [
        "clip c: the boxes of 'bolt' on frame 99: the video has 60 frames; allowed: 0 to 59"
    ]
    (shown,) = resolve_exemplars(WANTED[1:2], 32, 16, lambda time_s: round(30 * time_s))
    assert (shown.frame_index, shown.units, shown.boxes[1]) == (15, "pixels", (16, 0, 32, 16))
    with pytest.raises(ClipError, match="reaches outside the frame"):
        resolve_exemplars(WANTED[:1], 6, 16)


def test_a_plan_counts_them_and_says_which_clips_stay_whole(tmp_path: Path) -> None:
    folder = frames_folder(tmp_path / "a")
    rows = [
        {"uri": str(folder), "clip_id": "alone", "exemplars": [{**NAMELESS, "frame": 0}]},
        {"uri": str(folder), "clip_id": "phrase", "exemplars": [{**CAR, "time_s": 0}]},
        {"uri": str(folder), "clip_id": "text", "prompts": ["x"]},
    ]
    clips = read(tmp_path, rows)
    plan = plan_job(config(tmp_path))
    assert plan.asked == {"phrases": 2, "exemplars": 2, "visual prompts": 0}
    assert plan.sequential == {"an exemplar without a phrase": 1}
    assert plan.facts()["sequential"] == plan.sequential
    everywhere = config(tmp_path, tracking={"exemplars": "everywhere"})
    assert [sequential_reason(clip, everywhere) for clip in clips] == [
        "an exemplar without a phrase",
        "tracking.exemplars: everywhere",
        None,
    ]
    rows[0]["exemplars"][0]["frame"] = 5000
    read(tmp_path, rows)
    with pytest.raises(UserError, match="clip alone: the boxes of 'exemplar 1' on frame 5000: the video has"):
        plan_job(config(tmp_path))
