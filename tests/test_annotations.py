"""Annotation files: what is written is what every reader sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from sam3ray.annotations import AnnotationWriter, FrameAnnotations, ObjectAnnotation, decode_mask, read_annotations
from sam3ray.failures import UserError
from sam3ray.manifest import Clip
from sam3ray.masks import encode_masks
from sam3ray.store import RunStore
from sam3ray.store import annotation_file as a
from tests.store.store_files import HEIGHT, WIDTH, frames, write_clip


def flat(clip_id: str, found: list[FrameAnnotations]) -> list[dict]:
    """The rows that these frames stand for."""
    return [
        {
            "clip_id": clip_id,
            "frame_index": f.frame_index,
            "pts": f.pts,
            "time_s": f.time_s,
            "object_id": o.object_id,
            "prompt": o.prompt,
            "score": float(np.float32(o.score)),
            "track_score": float(np.float32(o.track_score)),
            "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), map(float, o.bbox), strict=True)),
            "area": o.area,
            "segmentation": {"size": [f.height, f.width], "counts": o.rle},
        }
        for f in found
        for o in f.objects
    ]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), n=st.integers(0, 12), objects=st.integers(1, 4), group=st.integers(1, 9))
def test_what_is_written_is_read(tmp_path, seed, n, objects, group):
    found = frames(seed, n, objects)
    path = tmp_path / "a.parquet"
    old, a.ROW_GROUP_ROWS = a.ROW_GROUP_ROWS, group
    try:
        writer = AnnotationWriter(path, "a", {})
        for frame in found:
            writer.write(frame)
        facts = writer.finish()
    finally:
        a.ROW_GROUP_ROWS = old
    file = pq.ParquetFile(path)
    assert file.read().to_pylist() == flat("a", found)
    assert file.schema_arrow.remove_metadata().equals(a.SCHEMA)
    assert (facts.rows, facts.frames) == (len(flat("a", found)), n)
    assert all(file.metadata.row_group(i).num_rows <= group for i in range(file.metadata.num_row_groups))


def test_the_file_is_built_as_promised(tmp_path):
    path, _ = write_clip(tmp_path, "a", n=50)
    metadata = pq.read_metadata(path)
    assert metadata.num_row_groups == 1
    for i in range(metadata.num_columns):
        column = metadata.row_group(0).column(i)
        assert column.compression == "ZSTD"
        assert column.has_offset_index, column.path_in_schema
        if column.path_in_schema != "segmentation.counts":
            assert column.has_column_index, column.path_in_schema
    assert metadata.row_group(0).sorting_columns == tuple(
        pq.SortingColumn.from_ordering(a.SCHEMA, [("frame_index", "ascending"), ("object_id", "ascending")])
    )
    assert set(a.METADATA_KEYS) <= {key.decode() for key in metadata.metadata}


def item(object_id: int = 1, area: int = 1) -> ObjectAnnotation:
    return ObjectAnnotation(object_id, "x", 0.5, 0.5, (0, 0, 1, 1), area, "01f")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([FrameAnnotations(3, 0, 0, 4, 5), FrameAnnotations(3, 1, 1, 4, 5)], "frame 3 of a comes after frame 3"),
        ([FrameAnnotations(3, 0, 0, 4, 5), FrameAnnotations(2, 1, 1, 4, 5)], "frame 2 of a comes after frame 3"),
        ([FrameAnnotations(0, 0, 0, 4, 5, (item(2), item(1)))], "got 1 after 2 on frame 0"),
        ([FrameAnnotations(0, 0, 0, 4, 5, (item(1), item(1)))], "got 1 after 1 on frame 0"),
        ([FrameAnnotations(0, 0, 0, 4, 5, (item(0),))], "object ids must be >= 1"),
        ([FrameAnnotations(0, 0, 0, 4, 5, (item(area=0),))], "object 1 has no pixels on frame 0"),
    ],
)
def test_rows_out_of_order_are_refused(tmp_path, found, message):
    path = tmp_path / "a.parquet"

    def write() -> None:
        with AnnotationWriter(path, "a", {}) as writer:
            for frame in found:
                writer.write(frame)

    with pytest.raises(ValueError, match=message):
        write()
    assert not path.exists()


def test_a_block_that_fails_leaves_no_file(tmp_path):
    path = tmp_path / "a.parquet"

    def fail() -> None:
        with AnnotationWriter(path, "a", {}) as writer:
            writer.write(frames(0, 2)[1])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not path.exists()


def test_memory_is_bounded_by_a_row_group(tmp_path, monkeypatch):
    monkeypatch.setattr(a, "_FLUSH_BYTES", 10_000)
    monkeypatch.setattr(a, "ROW_GROUP_ROWS", 1000)
    writer = AnnotationWriter(tmp_path / "a.parquet", "a", {})
    rle = "0" + "1" * 300
    held = 0
    for i in range(500):
        writer.write(FrameAnnotations(i, i, i, 400, 400, (ObjectAnnotation(1, "x", 1, 1, (0, 0, 1, 1), 1, rle),)))
        held = max(held, writer._pending_bytes)
    assert writer.finish().rows == 500
    assert held <= 10_000 + len(rle)


def test_credentials_stay_out_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc/def+ghi/SECRET")
    metadata = {
        "clip": {
            "uri": "https://user:hunter22@host/v.mp4?X-Amz-Signature=deadbeef99&code=deadbeef99",
            "note": "abc/def+ghi/SECRET",
        },
        "model": {"hub_token": "hf_abcdefghijklmnopqrstuvwx", "checkpoint": "facebook/sam3"},
    }
    writer = AnnotationWriter(tmp_path / "a.parquet", "a", metadata)
    writer.finish()
    raw = (tmp_path / "a.parquet").read_bytes()
    for secret in (b"hunter22", b"deadbeef99", b"abc/def+ghi/SECRET", b"hf_abcdefgh"):
        assert secret not in raw
    clip = json.loads(pq.read_metadata(tmp_path / "a.parquet").metadata[b"sam3ray.clip"])
    assert clip["uri"] == "https://***@host/v.mp4?***"


@pytest.fixture
def run(tmp_path):
    """An output of three clips, one of them with nothing found, one with several prompts."""
    store = RunStore(str(tmp_path / "run"))
    for i, clip_id in enumerate(["a", "b-2"]):
        store.commit(clip_id, write_clip(tmp_path, clip_id, seed=i, n=9)[0])
    empty = AnnotationWriter(tmp_path / "e.parquet", "empty", {})
    empty.write(FrameAnnotations(0, 0, 0.0, HEIGHT, WIDTH))
    empty.finish()
    store.commit("empty", tmp_path / "e.parquet")
    return store.output, flat("a", frames(0, 9)) + flat("b-2", frames(1, 9))


def keyed(rows):
    return {(row["clip_id"], row["frame_index"], row["object_id"]): row for row in rows}


def test_every_reader_sees_the_same_rows(run):
    output, expected = run
    pattern = f"{output}/annotations/*.parquet"

    assert read_annotations(output).to_table().to_pylist() == expected

    import pyarrow.dataset as ds

    assert ds.dataset(f"{output}/annotations").to_table().to_pylist() == expected

    import duckdb

    found = duckdb.sql(f"select * from '{pattern}'").fetchall()
    names = [column[0] for column in duckdb.sql(f"describe select * from '{pattern}'").fetchall()]
    assert keyed(dict(zip(names, row, strict=True)) for row in found) == keyed(expected)
    ((count,),) = duckdb.sql(
        f"select count(*) from '{pattern}' where bbox.xmax - bbox.xmin > 4 and area > 9"
    ).fetchall()
    assert count == sum(r["bbox"]["xmax"] - r["bbox"]["xmin"] > 4 and r["area"] > 9 for r in expected)

    import polars

    assert keyed(polars.read_parquet(pattern).to_dicts()) == keyed(expected)

    import pandas

    frame = pandas.read_parquet(f"{output}/annotations")
    assert len(frame) == len(expected)
    for (_, row), wanted in zip(frame.iterrows(), expected, strict=True):
        assert (row["prompt"], row["object_id"]) == (wanted["prompt"], wanted["object_id"])
        assert decode_mask(row).sum() == wanted["area"]


def test_pycocotools_decodes_each_mask_to_its_area_and_box(run):
    for row in read_annotations(run[0]).to_table().to_pylist():
        rle = {"size": row["segmentation"]["size"], "counts": row["segmentation"]["counts"].encode()}
        mask = coco.decode(rle).astype(bool)
        ys, xs = np.nonzero(mask)
        assert mask.shape == (HEIGHT, WIDTH)
        assert mask.sum() == row["area"] == coco.area(rle)
        assert list(row["bbox"].values()) == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert np.array_equal(decode_mask(row), mask)
        assert np.array_equal(decode_mask(row["segmentation"]), mask)


def test_filters_reach_the_files(run):
    output, expected = run
    import pyarrow.compute as pc

    table = read_annotations(output).to_table(filter=pc.field("clip_id") == "b-2", columns=["clip_id", "area"])
    assert table.num_rows == sum(row["clip_id"] == "b-2" for row in expected)


def test_an_output_without_finished_clips_reads_as_empty(tmp_path):
    with pytest.raises(UserError, match=r"neither run\.json nor annotations/"):
        read_annotations(str(tmp_path / "nothing"))
    (tmp_path / "truth" / "annotations").mkdir(parents=True)
    assert read_annotations(str(tmp_path / "truth")).to_table().num_rows == 0
    RunStore(str(tmp_path / "young")).create_or_open({}, {}, [Clip("a", "/a.mp4", ("x",))])
    table = read_annotations(str(tmp_path / "young")).to_table()
    assert table.num_rows == 0
    assert table.schema.equals(a.SCHEMA)


def test_reading_needs_no_torch():
    code = "import sys, sam3ray.annotations, sam3ray.store; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0


def test_the_module_is_what_the_package_gives_first_of_all():
    code = "from sam3ray import annotations; annotations.SCHEMA"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_object_counts_and_sizes_reach_the_metadata(tmp_path):
    encoded = encode_masks(np.ones((1, 4, 5), bool))[0]
    writer = AnnotationWriter(tmp_path / "a.parquet", "a", {"clip": {"fps": "30000/1001"}})
    shown = ObjectAnnotation(3, "x", 1, 1, encoded.bbox, encoded.area, encoded.rle)
    writer.write(FrameAnnotations(0, 0, 0.0, 4, 5, (shown,)))
    writer.write(FrameAnnotations(7, 7, 0.3, 4, 5))
    facts = writer.finish(seconds=1.25)
    clip = a.read_file_metadata(pq.read_metadata(tmp_path / "a.parquet"))["clip"]
    assert (clip["rows"], clip["frames"], clip["objects"], clip["seconds"]) == (1, 2, 1, 1.25)
    assert (clip["height"], clip["width"], clip["fps"], clip["clip_id"]) == (4, 5, "30000/1001", "a")
    assert facts.size_bytes == os.path.getsize(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema.field("clip_id").type == pa.dictionary(pa.int32(), pa.string())
