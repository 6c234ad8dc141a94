"""A run folder with the corrections in its rows: whatever reads a run reads it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3ray import read_annotations
from sam3ray.exports import export, import_labels
from sam3ray.failures import UserError
from sam3ray.revisions import Delete, Edits, Rename
from sam3ray.store import RunStore, read_status, verify_run
from tests.exports.labels import make_run

CLIP = "a-clip"


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    return make_run(tmp_path, ("other", "a-clip", "empty"))


def rows(output: str, revision: Any = None) -> list[dict[str, Any]]:
    table = read_annotations(output, revision=revision).to_table().to_pylist()
    return sorted(table, key=lambda r: (r["clip_id"], r["frame_index"], r["object_id"]))


def test_its_rows_are_those_of_the_revision(run, tmp_path):
    Edits(run).append([Delete(CLIP, 1), Rename(CLIP, 2, "bars")])
    done = export(run.output, tmp_path / "out", "parquet", revision="latest", workers=2)
    assert (done.failed, done.lost, done.clips) == ({}, {}, 3)
    assert rows(str(tmp_path / "out")) == rows(run.output, "latest") != rows(run.output)
    naive = pa.concat_tables(pq.read_table(p) for p in sorted((tmp_path / "out" / "annotations").glob("*.parquet")))
    assert naive.num_rows == len(rows(run.output, "latest"))


def test_it_is_a_run(run, tmp_path):
    Edits(run).append([Rename(CLIP, 2, "bars")])
    export(run.output, tmp_path / "out", "parquet", revision="latest", names={"ring": "hoop"}, min_score=0.7)
    out = str(tmp_path / "out")
    assert verify_run(out) == []
    status = read_status(out)
    assert (status.done, status.clips) == (3, 3)
    store = RunStore(out)
    assert store.clip_ids() == ["other", "a-clip", "empty"]
    assert {row["prompt"] for row in rows(out)} == {"hoop"}
    assert store.run_info()["fingerprint"]["export.run"] == run.run_id()
    export(out, tmp_path / "coco", "coco")
    Edits(store).append([Delete(CLIP, 1)])
    assert len(rows(out, "latest")) == len(rows(out)) - 6


def test_it_is_the_same_whenever_it_is_written(run, tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        export(run.output, tmp_path / name, "parquet", workers=workers)
    files = [
        {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "two")
    ]
    for each in files:
        run_json = each.pop("run.json")
        assert run.run_id().encode() in run_json
    assert files[0] == files[1]


def test_rows_changed_by_another_program_come_back(run, tmp_path):
    export(run.output, tmp_path / "out", "parquet")
    path = tmp_path / "out" / "annotations" / f"{CLIP}.parquet"
    changed = [r for r in pq.read_table(path).to_pylist() if r["object_id"] != 2 or r["frame_index"] != 4]
    changed = [r | {"prompt": "hoop"} if r["object_id"] == 1203 else r for r in changed]
    plain = [{k: r[k] for k in ("frame_index", "object_id", "prompt", "segmentation")} for r in reversed(changed)]
    pq.write_table(pa.Table.from_pylist(plain), path)
    done = import_labels(run.output, tmp_path / "out", "parquet")
    assert done.clips == {CLIP: {"delete": 1, "rename": 1}}


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda rows: [r | {"frame_index": 77} for r in rows], "row 1: frame 77 was not exported"),
        (lambda rows: [{k: v for k, v in r.items() if k != "prompt"} for r in rows], "has no column prompt"),
        (lambda rows: [*rows, rows[0]], "appears twice on frame 0"),
        (lambda rows: [r | {"segmentation": {"size": [9, 9], "counts": "x"}} for r in rows], "not a mask of 128x96"),
        (None, "cannot be read as Parquet: it is another kind of file"),
    ],
)
def test_damaged_rows_are_a_sentence(run, tmp_path, damage, sentence):
    export(run.output, tmp_path / "out", "parquet")
    path = tmp_path / "out" / "annotations" / f"{CLIP}.parquet"
    if damage is None:
        path.write_bytes(b"nothing")
    else:
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(damage(pq.read_table(path).to_pylist())), out)
        path.write_bytes(out.getvalue())
    with pytest.raises(UserError) as caught:
        import_labels(run.output, tmp_path / "out", "parquet")
    assert sentence in str(caught.value)
    assert not Path(run.output, "edits").exists()
