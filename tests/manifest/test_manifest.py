"""Manifests of every kind, right and wrong."""

from __future__ import annotations

import datetime
import json
import os
import pickle
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3ray.config import JobConfig
from sam3ray.failures import UserError
from sam3ray.manifest import Clip, Manifest, derive_clip_id, read_manifest

CONFIG = JobConfig(manifest="m", output="/elsewhere/out", prompts=("person",))
NO_PROMPTS = JobConfig(manifest="m", output="/elsewhere/out")

Write = Callable[[str, str | bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def read(uri: str, config: JobConfig = CONFIG) -> Manifest:
    return read_manifest(uri, config)


def problems(uri: str, config: JobConfig = CONFIG) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_manifest(uri, config)
    return [sentence.replace(f"{uri} ", "").replace(f"{uri}: ", "") for sentence in caught.value.problems]


# the three table formats agree


ROWS: list[dict[str, Any]] = [
    {"uri": "s3://b/a.mp4", "clip_id": "first", "prompts": ["red car", "dog"], "start_s": 1.5, "end_s": 3.0},
    {"uri": "s3://b/b.mp4", "fps": 5.0},
]


def as_csv(write: Write) -> str:
    return write(
        "m.csv", "uri,clip_id,prompts,start_s,end_s,fps\ns3://b/a.mp4,first,red car; dog,1.5,3,\ns3://b/b.mp4,,,,,5\n"
    )


def as_jsonl(write: Write) -> str:
    return write("m.jsonl", "\n".join(json.dumps(row) for row in ROWS))


def as_parquet(write: Write) -> str:
    path = write("m.parquet", "")
    pq.write_table(pa.Table.from_pylist([{k: row.get(k) for k in (*ROWS[0], "fps")} for row in ROWS]), path)
    return path


@pytest.mark.parametrize("make", [as_csv, as_jsonl, as_parquet])
def test_csv_jsonl_and_parquet_give_the_same_clips(make: Callable[[Write], str], write: Write) -> None:
    first, second = read(make(write))
    assert first == Clip("first", "s3://b/a.mp4", ("red car", "dog"), 1.5, 3.0)
    assert second.clip_id.startswith("b-")
    assert second == Clip(second.clip_id, "s3://b/b.mp4", ("person",), fps=5.0)


def test_remote_manifests(write: Write) -> None:
    with fsspec.open("memory://manifests/m.csv", "w") as stream:
        stream.write("uri\nmemory://videos/a.mp4\n")
    assert [clip.uri for clip in read("memory://manifests/m.csv")] == ["memory://videos/a.mp4"]


def test_excels_csv(write: Write) -> None:
    (clip,) = read(write("m.csv", '\ufeffuri,prompts\r\n"/v/a, b.mp4","red ""car"""\r\n'))
    assert (clip.uri, clip.prompts) == ("/v/a, b.mp4", ('red "car"',))


def test_lines_are_counted_through_values_of_several_lines(write: Write) -> None:
    assert problems(write("m.csv", 'uri,note\na.mp4,"one\ntwo"\n\nb.mp4,x\n,y\n')) == [
        "row 3 (line 6): uri is null; allowed: an address or a path of a video"
    ]


def test_relative_videos_are_taken_from_the_current_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("m.csv", "uri\nclips/a.mp4\n")
    monkeypatch.chdir("/")
    (at_root,) = read(path)
    monkeypatch.chdir(tmp_path)
    (here,) = read(path)
    assert here.uri == str(tmp_path / "clips/a.mp4")
    assert at_root.uri == "/clips/a.mp4"
    assert here.clip_id == at_root.clip_id


# ids


def test_derived_ids_do_not_depend_on_the_order_and_can_be_read(write: Write) -> None:
    lines = ["s3://b/x/My Clip (1).MP4,,", "s3://b/y/My Clip (1).MP4,,", "s3://b/x/My Clip (1).MP4,1,2.5"]
    ids = [clip.clip_id for clip in read(write("m.csv", "\n".join(["uri,start_s,end_s", *lines])))]
    backwards = [clip.clip_id for clip in read(write("m.csv", "\n".join(["uri,start_s,end_s", *lines[::-1]])))]
    assert ids == backwards[::-1]
    assert len(set(ids)) == 3
    assert all(clip_id.startswith("My-Clip-1-") for clip_id in ids)
    assert "-1-2.5s-" in ids[2]


def test_derived_ids_are_fixed_for_ever(write: Write) -> None:
    # A change here would make every resumed job start from nothing.
    assert [clip.clip_id for clip in read(write("m.csv", "uri,start_s,end_s\ns3://b/a.mp4,,\nb/ä.mov,2,\n"))] == [
        "a-130363b04e08",
        "a-2s-end-7b3fb62ca769",
    ]


@pytest.mark.parametrize(
    "clip_id", ["../../x", "a/b", "a b", ".", "..", ".hidden", "_private", "", "é", "x" * 201, "a\\b", "a\n"]
)
def test_ids_that_could_leave_the_folder_or_hide_in_it_are_refused(clip_id: str, write: Write) -> None:
    path = write("m.jsonl", json.dumps({"uri": "a.mp4", "clip_id": clip_id}))
    if clip_id in ("", "a\n"):  # white space around an id is no part of it
        assert len(read(path)) == 1
    else:
        assert "allowed: 1 to 200 of A-Z" in problems(path)[0]


def test_ids_are_unique_and_not_by_case_alone(write: Write) -> None:
    found = problems(write("m.csv", "uri,clip_id\na.mp4,x\nb.mp4,y\nc.mp4,x\nd.mp4,Y\n"))
    assert found == [
        "row 3 (line 4): clip_id 'x' is also the id of row 1; allowed: each id once",
        "row 4 (line 5): clip_id 'Y' differs from row 2's 'y' only in case, and some file systems ignore case; "
        "allowed: each id once",
    ]


def test_a_row_given_twice_names_both_rows(write: Write) -> None:
    (sentence,) = problems(write("m.csv", "uri\na.mp4\nb.mp4\na.mp4\n"))
    assert "row 3" in sentence
    assert "the id of row 1" in sentence


def test_numbers_as_ids(write: Write) -> None:
    assert read(write("m.jsonl", '{"uri": "a.mp4", "clip_id": 17}'))[0].clip_id == "17"


# bad values


def test_all_bad_rows_at_once_each_with_row_line_column_and_value(write: Write) -> None:
    found = problems(
        write(
            "m.csv",
            "uri,clip_id,prompts,start_s,end_s,fps\n"
            "a.mp4,a,,-1,,\n"
            "b.mp4,b,,nan,inf,\n"
            "c.mp4,c,,5,5,\n"
            "d.mp4,d,,,,0\n"
            "good.mp4,good,,1,2,3\n"
            ",e,,,,\n"
            "f.mp4,../../x,,,,\n"
            "g.mp4,g,dog;Dog,,,\n"
            "h.mp4,h,,1e3,soon,\n"
            "s4://b/i.mp4,i,,,,\n"
            "j.mp4\n",
        )
    )
    expected = [
        ("row 1 (line 2)", "start_s", "'-1'"),
        ("row 2 (line 3)", "start_s", "'nan'"),
        ("row 2 (line 3)", "end_s", "'inf'"),
        ("row 3 (line 4)", "end_s", "5"),
        ("row 4 (line 5)", "fps", "'0'"),
        ("row 6 (line 7)", "uri", "null"),
        ("row 7 (line 8)", "clip_id", "'../../x'"),
        ("row 8 (line 9)", "prompts", "'dog'"),
        ("row 9 (line 10)", "end_s", "'soon'"),
        ("row 10 (line 11)", "uri", "'s4://b/i.mp4'"),
        ("row 11 (line 12)", "1 fields", "6"),
    ]
    assert len(found) == len(expected)
    for sentence, parts in zip(found, expected, strict=True):
        assert all(part in sentence for part in parts), sentence


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -1.0, True, [1], {"s": 1}, "1_0", "0x10", "1 s", 10**400, b"1"],
)
def test_numbers_that_are_none(value: Any, write: Write) -> None:
    path = write("m.parquet", "")
    try:
        table = pa.table({"uri": ["a.mp4"], "start_s": [value]})
    except (OverflowError, pa.ArrowException):
        path = write("m.jsonl", json.dumps({"uri": "a.mp4", "start_s": value}))
    else:
        pq.write_table(table, path)
    assert "start_s is " in problems(path)[0]


def test_thousands_of_bad_rows_are_counted(write: Write) -> None:
    found = problems(write("m.csv", "uri,fps\n" + "".join(f"{i}.mp4,-1\n" for i in range(3000))))
    assert len(found) == 1001
    assert found[-1] == "... and 2,000 more problems"


def test_addresses_with_a_password_are_refused_and_not_repeated(write: Write) -> None:
    (sentence,) = problems(write("m.csv", "uri\ns3://key:hunter2@bucket/a.mp4\n"))
    assert "hunter2" not in sentence
    assert "environment" in sentence


def test_signatures_in_addresses_are_not_repeated(write: Write) -> None:
    (sentence,) = problems(write("m.csv", "uri,fps\nhttpz://h/a.mp4?X-Amz-Signature=hunter2&x=1,\n"))
    assert "hunter2" not in sentence
    with pytest.raises(UserError) as caught:
        read("https://localhost:1/m.csv?sig=hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", ""),
        ("m.csv", "uri\n"),
        ("m.csv", "url\na.mp4\n"),
        ("m.csv", "uri;prompts\na.mp4;dog\n"),
        ("m.csv", "uri,uri\na,b\n"),
        ("m.csv", "uri,\na,b\n"),
        ("m.csv", 'uri\n"a.mp4\n'),
        ("m.csv", 'uri\n"a"b\n'),
        ("m.csv", b"uri\nca\xe9.mp4\n"),
        ("m.csv", "uri\na.mp4\n".encode("utf-16")),
        ("m.csv", "uri\na\x00.mp4\n"),
        ("m.csv", "uri\n" + "a" * 5000 + "\n"),
        ("m.jsonl", ""),
        ("m.jsonl", "[]"),
        ("m.jsonl", "{}"),
        ("m.jsonl", '{"uri": "a.mp4"'),
        ("m.jsonl", '{"uri": "a.mp4", "uri": "b.mp4"}'),
        ("m.jsonl", '{"uri": "a.mp4", "x": NaN}'),
        ("m.jsonl", '{"uri": "a.mp4", "x": 1e999}'),
        ("m.jsonl", '{"uri": "a.mp4", "x": ' + "9" * 5000 + "}"),
        ("m.jsonl", '{"uri": "a.mp4", "x": 99999999999999999999999}'),
        ("m.jsonl", '{"uri": "a.mp4", "x": ' + "[" * 100_000 + "}"),
        ("m.jsonl", '{"uri": "a.mp4", "x": 1}\n{"uri": "b.mp4", "x": "one"}'),
        ("m.jsonl", '{"uri": ["a.mp4"]}'),
        ("m.jsonl", '{"uri": "a.mp4", "prompts": [1]}'),
        ("m.jsonl", '{"uri": "a.mp4", "prompts": [""]}'),
        ("m.jsonl", '{"uri": "a.mp4", "prompts": [["a"]]}'),
        ("m.jsonl", '{"uri": "a.mp4", "prompts": {"a": 1}}'),
        ("m.jsonl", '{"uri": "a\\u0000.mp4"}'),
        ("m.jsonl", '{"uri": "\\ud800.mp4"}'),
        ("m.parquet", b""),
        ("m.parquet", b"PAR1" + b"\x00" * 50 + b"PAR1"),
        ("m.txt", "a.mp4"),
        ("nothing/here.csv", None),
        ("nothing", None),
    ],
)
def test_what_is_no_manifest_is_refused_with_a_sentence(name: str, content: Any, write: Write, tmp_path: Path) -> None:
    path = str(tmp_path / name) if content is None else write(name, content)
    assert all(problems(path))


def test_a_column_that_is_nearly_uri_is_named(write: Write) -> None:
    assert "the nearest is 'URI'" in problems(write("m.csv", "URI,x\na.mp4,1\n"))[0]


def test_columns_that_look_like_a_slip_are_warned_of(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    read(write("m.csv", "uri,promts,split\na.mp4,dog,train\n"))
    assert "did you mean 'prompts'?" in caplog.text
    assert "split" not in caplog.text


# prompts


def test_no_prompts_anywhere_is_one_problem(write: Write) -> None:
    (sentence,) = problems(write("m.csv", "uri\na.mp4\nb.mp4\n"), NO_PROMPTS)
    assert "no clip has prompts" in sentence


def test_a_clip_without_prompts_among_others_is_named(write: Write) -> None:
    (sentence,) = problems(write("m.csv", "uri,prompts\na.mp4,dog\nb.mp4,\n"), NO_PROMPTS)
    assert sentence.startswith("row 2")


@pytest.mark.parametrize("value", [None, "", " ; ", []])
def test_empty_prompts_mean_the_configurations(value: Any, write: Write) -> None:
    assert read(write("m.jsonl", json.dumps({"uri": "a.mp4", "prompts": value})))[0].prompts == ("person",)


def test_visual_prompts_are_enough(write: Write) -> None:
    marks = [{"object_id": 3, "frame": 0, "units": "pixels", "box": [0, 0, 5, 5]}]
    (clip,) = read(write("m.jsonl", json.dumps({"uri": "a.mp4", "visual_prompts": marks})), NO_PROMPTS)
    assert clip.prompts == ()
    assert clip.visual_prompts[0].object_id == 3


# other columns


def test_carried_columns_keep_type_and_value(write: Write) -> None:
    carried = pa.table(
        {
            "n": pa.array([1, None], pa.int8()),
            "f": pa.array([0.1, None], pa.float32()),
            "when": pa.array([1, 1_700_000_000_000_000_001], pa.timestamp("ns", "UTC")),
            "day": pa.array([datetime.date(2026, 1, 1), None]),
            "price": pa.array([Decimal("1.10"), None], pa.decimal128(10, 2)),
            "tags": pa.array([["a", None], []]),
            "meta": pa.array([{"x": {"y": 1}}, None]),
            "kind": pa.array(["a", "b"]).dictionary_encode(),
            "raw": pa.array([b"\x00\xff", None]),
            "status": pa.array(["ok", "ok"]),
        }
    )
    path = write("m.parquet", "")
    pq.write_table(carried.add_column(0, "uri", [["a.mp4", "b.mp4"]]), path)
    manifest = read(path)
    assert manifest.carried is not None
    assert manifest.carried.equals(carried.cast(manifest.carried.schema))
    assert manifest.carried.schema.types == carried.schema.types
    assert manifest[0].carried["meta"] == {"x": {"y": 1}}
    assert manifest[1].carried["n"] is None
    assert manifest[1].carried["when"] == 1_700_000_000_000_000_001


def test_csv_values_stay_text(write: Write) -> None:
    manifest = read(write("m.csv", "uri,zip,empty\na.mp4,00700,\n"))
    assert manifest[0].carried == {"zip": "00700", "empty": ""}


def test_jsonl_values_stay_what_they_are(write: Write) -> None:
    manifest = read(write("m.jsonl", '{"uri": "a.mp4", "t": "2026-01-01", "n": [1]}\n{"uri": "b.mp4", "n": null}'))
    assert [clip.carried for clip in manifest] == [{"t": "2026-01-01", "n": [1]}, {"t": None, "n": None}]


def test_clips_travel_between_processes(write: Write) -> None:
    (clip,) = read(write("m.csv", "uri,split\na.mp4,train\n"))
    assert pickle.loads(pickle.dumps(clip)) == clip  # noqa: S301


# folders and globs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in (
        "b.mp4",
        "a/c.MOV",
        "a/thumb1.jpg",
        "frames/1.jpg",
        "frames/2.jpg",
        "frames/10.jpg",
        "pictures/cat.jpg",
        ".cache/x.mp4",
        "a/.hidden.mp4",
        "notes.txt",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def names(manifest: Manifest, root: Path) -> list[str]:
    return [clip.uri.removeprefix(f"{root}/") for clip in manifest]


def test_a_folder_is_searched_for_videos_and_numbered_frames(folder: Path) -> None:
    assert names(read(str(folder)), folder) == ["a/c.MOV", "b.mp4", "frames"]
    assert names(read(f"file://{folder}/"), folder)[-1].endswith("frames")


def test_a_moved_folder_gives_the_same_ids(folder: Path, tmp_path: Path) -> None:
    before = [clip.clip_id for clip in read(str(folder))]
    folder.rename(tmp_path / "moved")
    assert [clip.clip_id for clip in read(str(tmp_path / "moved"))] == before


def test_a_folder_of_frames_is_one_clip(folder: Path) -> None:
    assert names(read(str(folder / "frames")), folder) == ["frames"]


def test_links_to_folders_are_followed_once(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)
    assert len(read(str(folder))) == 3


def test_globs(folder: Path) -> None:
    assert names(read(f"{folder}/*.mp4"), folder) == ["b.mp4"]
    assert names(read(f"{folder}/*"), folder) == ["b.mp4", "frames"]
    assert names(read(f"{folder}/**/*.[mM]*"), folder) == ["a/c.MOV", "b.mp4"]


def test_a_name_with_the_characters_of_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "[a].csv").write_text("uri\na.mp4\n")
    assert len(read(str(tmp_path / "[a].csv"))) == 1


def test_one_video_is_a_manifest(folder: Path) -> None:
    assert names(read(str(folder / "b.mp4")), folder) == ["b.mp4"]


def test_remote_folders_and_globs() -> None:
    fs = fsspec.filesystem("memory")
    for name in ("a.mp4", "deep/b.webm", "frames/0001.png", "x.txt"):
        fs.pipe(f"/bucket-17/{name}", b"x")
    found = read("memory://bucket-17")
    assert [clip.uri.removeprefix("memory://").lstrip("/") for clip in found] == [
        "bucket-17/a.mp4",
        "bucket-17/deep/b.webm",
        "bucket-17/frames",
    ]
    assert all(fsspec.core.url_to_fs(clip.uri)[0].exists(clip.uri) for clip in found)
    assert len(read("memory://bucket-17/*.mp4")) == 1


def test_nothing_found_says_what_is_looked_for(folder: Path) -> None:
    assert ".mp4" in problems(str(folder / "pictures"))[0]
    assert ".mp4" in problems(f"{folder}/*.nothing")[0]


def test_what_is_left_out_of_a_folder_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(str(folder))
    said = caplog.text
    assert "1 file omitted (no known video suffix): 'notes.txt'" in said
    assert "2 images omitted (next to videos" in said
    assert "'a/thumb1.jpg', 'pictures/cat.jpg'" in said
    assert "hidden" not in said
    assert ".cache" not in said
    caplog.clear()
    read(f"{folder}/*")
    assert "'notes.txt'" in caplog.text
    caplog.clear()
    (folder / "notes.txt").unlink()
    read(f"{folder}/*.mp4")
    assert caplog.text == ""


def test_kinds_of_files_that_a_folder_may_have(tmp_path: Path) -> None:
    for name in ("a.gif", "b.dv", "c.h264", "d.M2V", "frames/1.webp", "frames/2.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(read(str(tmp_path)), tmp_path) == ["a.gif", "b.dv", "c.h264", "d.M2V", "frames"]


def test_the_output_must_not_be_among_the_videos(folder: Path) -> None:
    inside = JobConfig(manifest=str(folder), output=str(folder / "labels"), prompts=("a",))
    assert "inside" in problems(str(folder), inside)[0]
    assert "inside" in problems(f"{folder}/**/*.mp4", inside)[0]
    assert len(read(f"{folder}/*.mp4", inside)) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_manifest_that_may_not_be_read(write: Write) -> None:
    path = write("m.csv", "uri\na.mp4\n")
    os.chmod(path, 0)
    assert "permission denied" in problems(path)[0]


def test_what_signs_an_address_is_not_in_the_clips_id() -> None:
    def ids(*queries: str) -> set[str]:
        return {derive_clip_id(f"https://h/v.mp4{query}", None, None) for query in queries}

    assert len(ids("", "?X-Amz-Signature=1&X-Amz-Date=2", "?sig=3&se=4&sv=5", "?Expires=1&Key-Pair-Id=K&Policy=p")) == 1
    assert len(ids("?id=1", "?id=2", "?id=1&versionId=3", "?se=2")) == 4
    assert ids("?id=1&token=a&part=2") == ids("?id=1&part=2&token=b") == ids("?id=1&part=2")


def test_a_file_name_that_is_not_utf_8_is_one_bad_row_and_named(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    for name in (b"good.mp4", b"caf\xe9.mp4", b"clips\xff/a.mp4"):
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(os.fsdecode(path)).touch()
    for manifest in (str(tmp_path), f"{tmp_path}/**/*.mp4"):
        first, second = problems(manifest)
        assert first == "row 1: uri is 'caf\\udce9.mp4'; allowed: names in UTF-8; rename this file"
        assert second.startswith("row 2: uri is 'clips\\udcff'; allowed: names in UTF-8")
