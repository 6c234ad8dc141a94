"""Visual prompts: what is taken, what is refused and with which words, and how they meet their video."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sam3ray.config import JobConfig
from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.manifest import read_manifest
from sam3ray.masks import decode_rle, encode_masks
from sam3ray.prompts import (
    UNRESOLVED,
    BoxPrompt,
    MaskPrompt,
    PointPrompt,
    check_prompts,
    parse_visual_prompts,
    prompt_items,
    resolve_prompts,
)
from sam3ray.video import VideoInfo

POINT = {"object_id": 1, "frame": 0, "units": "pixels", "points": [[1, 2]]}
INFO = VideoInfo(
    width=100, height=50, fps=Fraction(10), duration_s=3.0, frame_count=30, time_base=Fraction(1, 10), codec="h264"
)
MASK = np.zeros((50, 100), bool)
MASK[10:20, 30:60] = True
RLE = encode_masks(MASK[None])[0].rle


def parsed(*items: dict[str, Any]) -> tuple[Any, ...]:
    prompts, wrong = parse_visual_prompts(json.dumps(items))
    assert wrong == []
    return prompts


def refused(*items: Any) -> str:
    prompts, wrong = parse_visual_prompts(json.dumps(items))
    assert prompts == () or wrong
    return "\n".join(wrong)


def test_the_documented_example_is_taken_as_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/prompts.md").read_text()
    example = re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0]
    assert parse_visual_prompts(example) == (
        (
            PointPrompt(((410, 220),), (True,), 0, 1, "ball"),
            PointPrompt(((455, 260), (300, 250)), (True, False), 40, 1, "ball"),
            BoxPrompt((0.1, 0.2, 0.25, 0.9), UNRESOLVED, 2, "goalkeeper", 2.5, "relative"),
        ),
        [],
    )


def test_a_box_with_clicks_in_one_item() -> None:
    box, points = parsed({**POINT, "box": [0, 0, 9, 9], "labels": [0]})
    assert box == BoxPrompt((0, 0, 9, 9), 0, 1, "object 1")
    assert points == PointPrompt(((1, 2),), (False,), 0, 1, "object 1")


def test_objects_named_by_label_get_the_next_free_ids_in_order() -> None:
    base = {key: value for key, value in POINT.items() if key != "object_id"}
    prompts = parsed(
        {**base, "label": "b"}, {**base, "label": "a"}, {**base, "label": "b", "frame": 3}, {**POINT, "object_id": 2}
    )
    assert [(p.object_id, p.label) for p in prompts] == [(1, "b"), (3, "a"), (1, "b"), (2, "object 2")]


def test_a_label_finds_the_object_that_has_it() -> None:
    base = {key: value for key, value in POINT.items() if key != "object_id"}
    first, second = parsed({**base, "label": "ball"}, {**POINT, "object_id": 7, "label": "ball", "frame": 5})
    assert first.object_id == second.object_id == 7


def test_whole_numbers_as_tables_with_gaps_store_them() -> None:
    assert parsed({**POINT, "object_id": 3.0, "frame": 7.0}) == (PointPrompt(((1, 2),), (True,), 7, 3, "object 3"),)


def test_a_key_is_given_once() -> None:
    text = '[{"object_id": 1, "frame": 0, "frame": 9, "units": "pixels", "points": [[1, 2]]}]'
    assert parse_visual_prompts(text)[1] == [" is not JSON: the key 'frame' appears twice"]


_COORDINATE = st.floats(0, 1e6, allow_nan=False)
_WHERE = st.one_of(
    st.builds(lambda frame: {"frame_index": frame, "time_s": None}, st.integers(0, 2**31 - 1)),
    st.builds(lambda time_s: {"frame_index": UNRESOLVED, "time_s": time_s}, st.floats(0, 1e9)),
)
_PROMPT = st.one_of(
    st.builds(
        lambda points, where: PointPrompt(
            tuple(p for p, _ in points), (True, *(shown for _, shown in points[1:])), object_id=1, label="a", **where
        ),
        st.lists(st.tuples(st.tuples(_COORDINATE, _COORDINATE), st.booleans()), min_size=1, max_size=4),
        _WHERE,
    ),
    st.builds(lambda x, where: BoxPrompt((x, 1, x + 9, 2), object_id=2, label="b", **where), st.floats(0, 9e5), _WHERE),
    st.builds(lambda where: MaskPrompt(RLE, 50, 100, object_id=3, label="c", **where), _WHERE),
    st.builds(lambda where: MaskPrompt("", 0, 0, object_id=4, label="d", png="/a/m.png", **where), _WHERE),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine
@given(st.lists(_PROMPT, max_size=6))
def test_prompts_written_down_are_read_as_the_same(prompts: list[Any]) -> None:
    assert parse_visual_prompts(json.dumps(prompt_items(prompts))) == (tuple(prompts), [])


def test_masks_as_rle() -> None:
    (prompt,) = parsed({"object_id": 1, "frame": 4, "mask": {"size": [50, 100], "counts": RLE}})
    assert prompt == MaskPrompt(RLE, 50, 100, 4, 1, "object 1")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"object_id": 0}, ".object_id is 0"),
        ({"object_id": True}, ".object_id is True"),
        ({"object_id": 2**31}, ".object_id"),
        ({"object_id": "1"}, ".object_id is '1'"),
        ({"object_id": None}, "names no object"),
        ({"label": ""}, ".label is ''"),
        ({"label": "a\nb"}, ".label"),
        ({"frame": -1}, ".frame is -1"),
        ({"frame": 1.5}, ".frame is 1.5"),
        ({"frame": None}, "neither frame nor time_s"),
        ({"time_s": 1}, "both frame and time_s"),
        ({"frame": None, "time_s": -1}, ".time_s is -1"),
        ({"units": None}, "has no units"),
        ({"units": "px"}, ".units is 'px'"),
        ({"points": []}, ".points is []"),
        ({"points": [[1]]}, ".points[0] is [1]"),
        ({"points": [[1, 2], [1, -2]]}, ".points[1] is [1, -2]"),
        ({"points": [[1, "2"]]}, ".points[0]"),
        ({"points": [[1.5, 0.5]], "units": "relative"}, "fractions from 0 to 1"),
        ({"labels": [2]}, ".labels[0] is 2"),
        ({"labels": ["maybe"]}, ".labels[0] is 'maybe'"),
        ({"labels": [1, 1]}, "one per point"),
        ({"points": None, "labels": [1]}, "without points"),
        ({"points": None}, "has no points, box or mask"),
        ({"box": [5, 5, 1, 9]}, "xmin < xmax"),
        ({"box": [1, 2, 3]}, ".box is [1, 2, 3]"),
        ({"mask": {"size": [1, 1], "counts": "01"}}, "mask beside points"),
        ({"points": None, "mask": {"size": [50, 100], "counts": "xyz!"}}, ".mask cannot be decoded"),
        ({"points": None, "mask": {"size": [2, 2], "counts": "4"}}, ".mask is empty"),
        ({"points": None, "mask": {"size": [50], "counts": RLE}}, ".mask is"),
        ({"points": None, "mask": {"size": [50, 100], "counts": [1, 2]}}, ".mask is"),
        ({"pionts": [[1, 2]]}, ".pionts is not a known key; the nearest is points"),
    ],
)
def test_what_is_refused_and_how(change: dict[str, Any], part: str) -> None:
    sentence = refused({**POINT, **change})
    assert sentence.startswith("[0]")
    assert part in sentence


def test_an_object_with_only_negative_clicks_is_refused() -> None:
    negative = {**POINT, "labels": [0]}
    assert "object 1 has only negative clicks" in refused(negative, {**negative, "frame": 2})
    assert len(parsed(negative, {**POINT, "frame": 2})) == 2


def test_one_label_per_object_and_no_guessing_between_objects() -> None:
    assert "one label per object" in refused({**POINT, "label": "a"}, {**POINT, "label": "b"})
    unnamed = {**POINT, "object_id": None, "label": "a"}
    assert "of objects [1, 2]" in refused({**POINT, "label": "a"}, {**POINT, "object_id": 2, "label": "a"}, unnamed)


def test_all_bad_items_at_once() -> None:
    assert len(refused({**POINT, "frame": -1}, POINT, {**POINT, "units": "px"}).splitlines()) == 2


@pytest.mark.parametrize("text", ["{", "NaN", "[NaN]", '{"object_id": 1}', "3", "[3]", "[" * 100_000, "nul"])
def test_what_is_no_list_of_prompts(text: str) -> None:
    assert parse_visual_prompts(text)[1]


def test_nothing_is_no_prompt() -> None:
    assert parse_visual_prompts("") == parse_visual_prompts("[]") == ((), [])


# against the video


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        (PointPrompt(((1, 1),), (True,), 30, 1), "the video has 30 frames; allowed: 0 to 29"),
        (PointPrompt(((1, 1),), (True,), UNRESOLVED, 1, time_s=3.0), "the video ends at 3 s"),
        (PointPrompt(((100, 1),), (True,), 0, 1), "[100, 1] lies outside the frame; allowed: x from 0 to below 100"),
        (PointPrompt(((1, 1), (1, 50)), (True, True), 0, 1), "outside"),
        (BoxPrompt((0, 0, 101, 50), 0, 2, "ball"), "the box of object 2 ('ball') on frame 0"),
        (MaskPrompt(RLE, 50, 99, 0, 1), "99x50"),
    ],
)
def test_prompts_outside_their_video(prompt: Any, part: str) -> None:
    (problem,) = check_prompts([prompt], INFO)
    assert part in problem


def test_prompts_inside_their_video() -> None:
    inside = [
        PointPrompt(((99.9, 0),), (True,), 29, 1),
        BoxPrompt((0, 0, 100, 50), 0, 1),
        MaskPrompt(RLE, 50, 100, 0, 1),
        PointPrompt(((1, 1),), (True,), UNRESOLVED, 1, time_s=2.99, units="relative"),
    ]
    assert check_prompts(inside, INFO) == []
    assert check_prompts([replace(inside[0], frame_index=99)], replace(INFO, frame_count=None)) == []


def test_times_outside_the_range_of_the_clip() -> None:
    prompt = PointPrompt(((1, 1),), (True,), UNRESOLVED, 1, time_s=1.0)
    assert check_prompts([prompt], INFO, 1.0, 2.0) == []
    assert "from 0 s to 1 s" in check_prompts([prompt], INFO, None, 1.0)[0]
    assert "from 1.5 s to its end" in check_prompts([prompt], INFO, 1.5, None)[0]


def test_resolving_gives_frames_and_pixels() -> None:
    point, box = resolve_prompts(
        [
            PointPrompt(((0.5, 1.0),), (True,), UNRESOLVED, 1, time_s=1.25, units="relative"),
            BoxPrompt((0.0, 0.5, 0.25, 1.0), 3, 1, units="relative"),
        ],
        100,
        50,
        lambda time_s: int(time_s * 10),
    )
    assert isinstance(point, PointPrompt)
    assert point.frame_index == 12
    assert point.points[0][0] == 50
    assert 49.99 < point.points[0][1] < 50  # the far edge lies inside the last pixel
    assert box == BoxPrompt((0, 25, 25, 50), 3, 1)


def test_resolving_reads_masks_from_png(tmp_path: Path) -> None:
    Image.fromarray(MASK.astype(np.uint8) * 255).save(tmp_path / "m.png")
    (prompt,) = resolve_prompts([MaskPrompt("", 0, 0, 2, 1, png=str(tmp_path / "m.png"))], 100, 50)
    assert isinstance(prompt, MaskPrompt)
    assert np.array_equal(decode_rle(prompt.rle, prompt.height, prompt.width), MASK)
    assert prompt.png == ""


@pytest.mark.parametrize("kind", ["missing", "no image", "colour", "empty", "jpeg", "another size"])
def test_resolving_refuses_bad_masks(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    if kind == "no image":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\x00" * 40)
    elif kind == "colour":
        Image.new("RGB", (100, 50)).save(path)
    elif kind == "empty":
        Image.new("L", (100, 50)).save(path)
    elif kind == "jpeg":
        Image.new("L", (100, 50), 255).save(path, format="JPEG")
    elif kind == "another size":
        Image.new("L", (50, 100), 255).save(path)
    with pytest.raises(ClipError) as caught:
        resolve_prompts([MaskPrompt("", 0, 0, 2, 1, png=str(path))], 100, 50)
    assert caught.value.reason is (Reason.NOT_FOUND if kind == "missing" else Reason.OVER_LIMITS)
    assert "object at 0x" not in caught.value.message


def test_mask_files_are_named_from_where_the_job_starts_and_without_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    item = {"object_id": 1, "frame": 0}
    (prompt,) = parsed({**item, "mask": {"png": "masks/m.png"}})
    assert prompt.png == str(tmp_path / "masks/m.png")
    assert "set them in the environment" in refused({**item, "mask": {"png": "https://me:secret@host/m.png"}})


# in manifests and files of their own


def clips_of(tmp_path: Path, rows: list[dict[str, Any]], prompts: str | None = None) -> list[Any]:
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = JobConfig(manifest="m", output="/elsewhere", visual_prompts=prompts)
    return read_manifest(str(tmp_path / "m.jsonl"), config)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_file_of_prompts_is_joined_by_clip_id(kind: str, tmp_path: Path) -> None:
    mask = {"object_id": 3, "frame": 1, "mask": {"size": [50, 100], "counts": RLE}}
    rows = [{"clip_id": "b", **POINT}, {"clip_id": "a", **POINT, "labels": [1]}, {"clip_id": "b", **mask}]
    path = tmp_path / f"p.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        keys = sorted({key for row in rows for key in row})
        pq.write_table(pa.Table.from_pylist([{key: row.get(key) for key in keys} for row in rows]), path)
    a, b = clips_of(tmp_path, [{"uri": "a.mp4", "clip_id": "a"}, {"uri": "b.mp4", "clip_id": "b"}], str(path))
    assert [p.object_id for p in a.visual_prompts] == [1]
    assert [type(p) for p in b.visual_prompts] == [PointPrompt, MaskPrompt]


def test_every_bad_row_of_a_prompt_file_is_named(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"clip_id": "a", **POINT, "frame": -1},
        {**POINT},
        {"clip_id": "nobody", **POINT},
        {"clip_id": "a", **POINT, "labels": [0]},
        7,
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError) as caught:
        clips_of(tmp_path, [{"uri": "a.mp4", "clip_id": "a"}], str(tmp_path / "p.jsonl"))
    text = "\n".join(caught.value.problems)
    for part in ("row 1 (line 1): frame is -1", "row 2 (line 2): clip_id is None", "negative clicks", "row 5 (line 5)"):
        assert part in text


def test_prompts_for_a_clip_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"clip_id": "nobody", **POINT}))
    with pytest.raises(UserError, match="'nobody', which is not in"):
        clips_of(tmp_path, [{"uri": "a.mp4", "clip_id": "a", "prompts": "x"}], str(tmp_path / "p.jsonl"))


def test_numbered_clips_are_joined_too(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"clip_id": 7, **POINT}))
    (clip,) = clips_of(tmp_path, [{"uri": "a.mp4", "clip_id": 7}], str(tmp_path / "p.jsonl"))
    assert (clip.clip_id, len(clip.visual_prompts)) == ("7", 1)


@pytest.mark.parametrize("name", ["p.csv", "missing.jsonl", "missing.parquet"])
def test_a_prompt_file_that_is_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="visual_prompts"):
        clips_of(tmp_path, [{"uri": "a.mp4", "prompts": "x"}], str(tmp_path / name))


def test_bad_prompts_in_a_manifest_name_row_and_item(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row 1 \(line 1\): visual_prompts\[1\]\.units is 'px'"):
        clips_of(tmp_path, [{"uri": "a.mp4", "visual_prompts": [POINT, {**POINT, "units": "px"}]}])


def test_a_column_of_structs_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(
        pa.table({"uri": ["a.mp4", "b.mp4"], "visual_prompts": [[POINT], None], "prompts": [None, "x"]}), path
    )
    first, second = read_manifest(str(path), JobConfig(manifest="m", output="/elsewhere"))
    assert first.visual_prompts == (PointPrompt(((1, 2),), (True,), 0, 1, "object 1"),)
    assert second.visual_prompts == ()
