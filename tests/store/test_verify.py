"""The audit finds what is wrong, and only that."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3ray.annotations import SCHEMA
from sam3ray.failures import Failure, Reason, UserError
from sam3ray.store import (
    ClipSummary,
    RunStore,
    check_clip,
    compact_run,
    read_status,
    spread_over_processes,
    verify,
    verify_run,
)
from tests.servers import Place
from tests.store.conftest import QUICK
from tests.store.store_files import CONFIG, FINGERPRINT, clips, write_clip


def finished_run(store: RunStore, folder: Path, n: int = 3) -> None:
    store.create_or_open(FINGERPRINT, CONFIG, clips(n))
    for i, clip in enumerate(clips(n)):
        store.commit(clip.clip_id, write_clip(folder, clip.clip_id, seed=i, n=9)[0])


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    store = RunStore(str(tmp_path / "run"), None, QUICK)
    finished_run(store, tmp_path)
    return store


def test_a_sound_run_has_no_problems_anywhere(place: Place, tmp_path: Path):
    store = RunStore(place.uri, place.options, QUICK)
    finished_run(store, tmp_path)
    store.write_clips_table(store.summaries())
    seen = []
    assert verify_run(place.uri, place.options, progress=lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (3, 3)


def rewrite(store: RunStore, change: Callable[[list[dict[str, Any]], dict[str, Any]], object], schema=SCHEMA) -> None:
    """Replace clip-001's file by one with other rows or metadata."""
    path = f"{store.output}/annotations/clip-001.parquet"
    file = pq.ParquetFile(path)
    rows = file.read().to_pylist()
    values = {k: json.loads(v) for k, v in file.metadata.metadata.items() if k.startswith(b"sam3ray.")}
    values = {k.decode().removeprefix("sam3ray."): v for k, v in values.items()}
    result = change(rows, values)
    rows = result if isinstance(result, list) else rows
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table.replace_schema_metadata({f"sam3ray.{k}": json.dumps(v) for k, v in values.items()}), path)


CORRUPTIONS: dict[str, Callable[[list[dict[str, Any]], dict[str, Any]], object]] = {
    "area is": lambda rows, _: rows[2].update(area=rows[2]["area"] + 1),
    "bbox is": lambda rows, _: rows[2]["bbox"].update(xmax=rows[2]["bbox"]["xmax"] + 1),
    "the RLE does not decode": lambda rows, _: rows[2]["segmentation"].update(counts="oo0"),
    "mask sizes": lambda rows, _: rows[2]["segmentation"].update(size=[64, 48]),
    "a mask's size is not": lambda rows, _: rows[2]["segmentation"].update(size=[64]),
    "the mask is empty": lambda rows, _: rows[2]["segmentation"].update(counts="PP3"),
    "must ascend": lambda rows, _: rows.__setitem__(slice(0, 2), rows[1::-1]),
    "each pair once": lambda rows, _: rows.insert(1, dict(rows[0])),
    "ids start at 1": lambda rows, _: rows[0].update(object_id=0),
    "indices start at 0": lambda rows, _: rows[0].update(frame_index=-1),
    "score is 1.5": lambda rows, _: rows[3].update(score=1.5),
    "track_score is nan": lambda rows, _: rows[3].update(track_score=float("nan")),
    "not one of the clip's": lambda rows, _: [r.update(prompt="cat") for r in rows if r["object_id"] == 1] and None,
    "two prompts": lambda rows, _: rows[2].update(prompt="blue box"),
    "rows of clip 'clip-002'": lambda rows, _: rows[2].update(clip_id="clip-002"),
    "missing values": lambda rows, _: rows[2].update(time_s=None),
    "bbox has missing values": lambda rows, _: rows[2]["bbox"].update(xmin=None),
    "disagree about its time": lambda rows, _: rows[0].update(pts=rows[0]["pts"] + 1),
    "frame 2 is at 0.08 s (pts 512)": lambda rows, _: [r.update(pts=512) for r in rows[2:4]] and None,
    "time does not increase: frame 4 is at 0.01 s": lambda rows, _: [r.update(time_s=0.01) for r in rows[4:6]] and None,
    "times count from the video's start": lambda rows, _: [r.update(time_s=-0.5) for r in rows[:2]] and None,
    "time_s has values that are not finite": lambda rows, _: [r.update(time_s=float("inf")) for r in rows[:2]] and None,
    "rows, its metadata says": lambda rows, _: rows.pop(),
    "objects, its metadata says": lambda _, values: values["clip"].update(objects=9),
    "frames were processed": lambda _, values: values["clip"].update(frames=2),
    "metadata says clip 'x'": lambda _, values: values["clip"].update(clip_id="x"),
    "a different fingerprint": lambda _, values: values["fingerprint"].update(fps=3),
    "schema version is 2": lambda _, values: values.update(schema_version=2),
    "the file's metadata has no sam3ray.model": lambda _, values: values.pop("model"),
}


@pytest.mark.parametrize("message", CORRUPTIONS)
def test_each_corruption_is_found(run: RunStore, monkeypatch, message: str):
    monkeypatch.setattr(check_clip, "_SLICE_CHARS", 20)
    rewrite(run, CORRUPTIONS[message])
    problems = verify_run(run.output)
    assert any(message in problem for problem in problems), problems
    assert all("clip-001" in problem for problem in problems), problems


def test_another_schema_is_found(run: RunStore):
    rewrite(run, lambda rows, _: None, SCHEMA.set(9, pa.field("area", pa.int64())))
    assert verify_run(run.output) == ["annotations/clip-001.parquet: not the annotations schema, version 1"]


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_file_is_found(run: RunStore, keep: int):
    path = Path(run.output, "annotations/clip-001.parquet")
    path.write_bytes(path.read_bytes()[:keep])
    (problem,) = verify_run(run.output)
    assert "annotations/clip-001.parquet: cannot be read" in problem


def test_a_flipped_byte_never_crashes_the_audit(run: RunStore):
    path = Path(run.output, "annotations/clip-001.parquet")
    good = path.read_bytes()
    for at in range(0, len(good), max(1, len(good) // 60)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x5A]) + good[at + 1 :])
        verify_run(run.output)


def test_clips_that_are_neither_done_nor_failed_are_found(run: RunStore):
    Path(run.output, "annotations/clip-001.parquet").unlink()
    assert verify_run(run.output) == ["clip clip-001: not done, and has no failure record"]
    run.record_failure(Failure("clip-001", Reason.CRASHED, "", final=True))
    assert verify_run(run.output) == []


def test_strangers_are_found(run: RunStore, tmp_path: Path):
    run.commit("stranger", write_clip(tmp_path, "stranger")[0])
    run.record_failure(Failure("ghost", Reason.CRASHED, ""))
    run.publish_video("ghost", tmp_path / "run" / "run.json")
    (tmp_path / "run" / "annotations" / "clip-000.parquet.tmp").write_bytes(b"half")
    (tmp_path / "run" / "notes.txt").write_bytes(b"")
    assert sorted(verify_run(run.output)) == [
        "annotations/clip-000.parquet.tmp: not a file of a run",
        "clip ghost: has a video, and is not in the manifest",
        "clip ghost: has failure records, and is not in the manifest",
        "clip stranger: has annotations, and is not in the manifest",
        "notes.txt: not a file of a run",
    ]


def test_a_damaged_failure_record_is_found(run: RunStore, tmp_path: Path):
    run.record_failure(Failure("clip-000", Reason.CRASHED, ""))
    (tmp_path / "run" / "failures" / "clip-000" / "1.json").write_bytes(b"{")
    assert verify_run(run.output) == ["failures/clip-000/1.json: the failure record is damaged"]


def test_a_table_that_claims_more_than_there_is_is_found(run: RunStore):
    run.write_clips_table(run.summaries())
    Path(run.output, "annotations/clip-001.parquet").unlink()
    run.record_failure(Failure("clip-001", Reason.CRASHED, ""))
    assert verify_run(run.output) == ["clip clip-001: clips.parquet says done, but there are no annotations"]


def test_merged_rows_that_differ_from_the_clips_own_are_found(run: RunStore):
    compact_run(run.output)
    rewrite(run, lambda rows, _: [r.update(track_score=0.125) for r in rows[:1]] and None)
    assert verify_run(run.output) == ["clip clip-001: its own file and the merged one have different rows"]


def test_a_missing_part_is_found(run: RunStore):
    compact_run(run.output)
    (part,) = Path(run.output, "compacted").glob("*.parquet")
    part.unlink()
    assert verify_run(run.output) == [f"compacted/{part.name}: listed in the index but missing"]


def test_a_table_with_other_figures_than_the_files_is_found(run: RunStore):
    summaries = run.summaries()
    summaries["clip-001"] = dataclasses.replace(summaries["clip-001"], frames=0, rows=7)
    summaries["clip-002"] = ClipSummary("clip-002")  # finished since: no mistake
    run.write_clips_table(summaries)
    rows = run.summary_of("clip-001").rows
    assert verify_run(run.output) == [
        "clip clip-001: clips.parquet says 0 frames, its file has 9",
        f"clip clip-001: clips.parquet says 7 rows, its file has {rows}",
    ]


@pytest.mark.parametrize("compacted", [False, True])
def test_a_sample_looks_into_some_files_and_at_all_names(run: RunStore, compacted: bool):
    rewrite(run, lambda rows, _: rows[2].update(area=rows[2]["area"] + 1))
    if compacted:
        compact_run(run.output, remove_originals=True)
    seen = []
    for _ in range(60):
        checked: list[tuple[int, ...]] = []
        problems = verify_run(run.output, None, lambda *numbers, to=checked: to.append(numbers), sample=1)
        assert checked == [(1, 1)]
        seen.append(len(problems))
    assert set(seen) == {0, 1}  # another clip each time
    assert len(verify_run(run.output, sample=10)) == 1
    Path(run.output, "notes.txt").write_bytes(b"")
    assert "notes.txt: not a file of a run" in verify_run(run.output, sample=1)


def test_the_work_may_be_done_by_processes(run: RunStore, monkeypatch):
    rewrite(run, lambda rows, _: rows[2].update(area=rows[2]["area"] + 1))
    monkeypatch.setattr(verify, "WORTH_PROCESSES", 1)
    (problem,) = verify_run(run.output, spread=spread_over_processes(2))
    assert "area is" in problem


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{" * 5, b'{"clip": []}'])
def test_metadata_of_strangers_are_a_problem_of_their_file(run: RunStore, content: bytes):
    path = Path(run.output, "annotations/clip-001.parquet")
    table = pq.ParquetFile(path).read()
    metadata = {k: v for k, v in pq.read_metadata(path).metadata.items() if k.startswith(b"sam3ray.")}
    pq.write_table(table.replace_schema_metadata({**metadata, b"sam3ray.clip": content}), path)
    problems = verify_run(run.output)
    assert problems
    assert all("annotations/clip-001.parquet" in problem for problem in problems)
    assert run.summaries()["clip-001"].status == "done"
    assert read_status(run.output).done == 3


def test_records_with_strange_names_are_no_records(run: RunStore):
    folder = Path(run.output, "failures", "clip-000")
    folder.mkdir(parents=True)
    names = ["\u00b2\u00b3.json", "\u0663.json", "0.json", "01.json", "1.JSON", "9" * 30 + ".json", "-1.json"]
    for name in names:
        (folder / name).write_bytes(b"{}")
    assert run.failures() == []
    assert verify_run(run.output) == [f"failures/clip-000/{name}: not a file of a run" for name in sorted(names)]
    assert run.record_failure(Failure("clip-000", Reason.CRASHED, "")) == 1


def test_no_run_is_the_users_error(tmp_path: Path):
    with pytest.raises(UserError, match="there is no run"):
        verify_run(str(tmp_path))


NAMED = {**FINGERPRINT, "model.dtype": "bfloat16"}


def run_of(folder: Path, facts: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Three clips of one video; `facts`: each one's model, and how its video looked."""
    store = RunStore(str(folder / "run"), None, QUICK)
    of_one = [replace(clip, uri="/v.mp4", source='{"size": 5}') for clip in clips(len(facts))]
    store.create_or_open(NAMED, CONFIG, of_one, extra={"device": "cuda"})
    for clip, (model, source) in zip(of_one, facts, strict=True):
        path, _ = write_clip(folder, clip.clip_id, fingerprint=NAMED, model=model, source=source)
        store.commit(clip.clip_id, path)
    return store.output


MADE = ({"dtype": "bfloat16", "device_kind": "cuda", "rules": "published"}, {"size": 5})


def test_files_that_agree_with_the_run_and_among_themselves_are_sound(tmp_path: Path):
    assert verify_run(run_of(tmp_path, [MADE, ({}, {}), MADE])) == []


@pytest.mark.parametrize(
    ("model", "source", "says"),
    [
        ({"dtype": "float32"}, {}, "clip-001.parquet: was made with dtype float32, but the run has bfloat16"),
        ({"device_kind": "cpu"}, {}, "clip-001.parquet: was made with device_kind cpu, but the run has cuda"),
        (
            {"rules": "transformers"},
            {},
            "different values of rules: published (clip clip-000), transformers (clip clip-001)",
        ),
        ({}, {"size": 6}, "a different version of its video than the run first saw (it had 5 bytes, and has 6)"),
        ({}, {"size": 6}, "clips clip-000 and clip-001 are from one video, whose content changed between them"),
    ],
)
@pytest.mark.parametrize("compacted", [False, True])
def test_a_file_that_was_made_otherwise_is_found(
    tmp_path: Path, model: dict[str, Any], source: dict[str, Any], says: str, compacted: bool
):
    output = run_of(tmp_path, [MADE, ({**MADE[0], **model}, {**MADE[1], **source}), MADE])
    if compacted:
        compact_run(output, remove_originals=True)
        says = says.replace("clip-001.parquet", "clip clip-001")
    assert any(says in problem for problem in verify_run(output))
