"""Annotation files: the annotations of one clip as Parquet, written and read frame by frame."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sam3ray.guard.jsontext import parse_json
from sam3ray.guard.redact import redact_values
from sam3ray.values.annotations import SCHEMA, FrameAnnotations
from sam3ray.values.versions import SCHEMA_VERSION

ROW_GROUP_ROWS = 65_536
_FLUSH_BYTES = 32 * 2**20  # of RLE text in memory before a row group is written, however few its rows
_BATCH_ROWS = 1024  # rows of an annotation file in memory at once

METADATA_KEYS = tuple(f"sam3ray.{name}" for name in ("schema_version", "fingerprint", "clip", "model", "software"))

# Dictionary pages pay off for repeated values; run lengths, boxes and track scores rarely repeat.
_DICTIONARY_COLUMNS = ["clip_id", "prompt", "frame_index", "pts", "time_s", "object_id", "score"]
_DICTIONARY_COLUMNS += ["segmentation.size.list.element"]
_STATISTICS_COLUMNS = [
    *_DICTIONARY_COLUMNS,
    "track_score",
    "area",
    *(f"bbox.{n}" for n in ("xmin", "ymin", "xmax", "ymax")),
]


def parquet_options(schema: pa.Schema = SCHEMA) -> dict[str, Any]:
    """Options of annotation files for `pyarrow.parquet.ParquetWriter`."""
    return {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": _DICTIONARY_COLUMNS,
        "write_statistics": [*_STATISTICS_COLUMNS, *schema.names[len(SCHEMA) :]],
        "write_page_index": True,
        "version": "2.6",
    }


@dataclass(frozen=True)
class FileFacts:
    """The content of a finished file in numbers."""

    rows: int
    frames: int
    objects: int
    size_bytes: int


class AnnotationWriter:
    """Streams the annotations of one clip to a local Parquet file.

    Memory is bounded by one row group. The file is usable only after `finish`, which writes the footer. If the process
    dies before that, a local file without a footer remains; nothing is on the store. As a context manager, it deletes
    the file when the block raises or ends without `finish`.

    Args:
        path: local file; an existing one is replaced.
        clip_id: the clip id of every row.
        metadata: the file's metadata, as JSON values under the keys "fingerprint", "clip" (uri, range,
            size, fps, time base), "model" (checkpoint, revision, dtype) and "software" (versions). Credentials in
            strings are masked.
        schema: `SCHEMA` for a model's annotations, or `TRUTH_SCHEMA`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        clip_id: str,
        metadata: Mapping[str, Mapping[str, Any]],
        schema: pa.Schema = SCHEMA,
    ) -> None:
        unknown = set(metadata) - {"fingerprint", "clip", "model", "software"}
        if unknown:
            raise ValueError(f"metadata has the keys fingerprint, clip, model, software; got {sorted(unknown)}")
        self.path = os.fspath(path)
        self.clip_id = clip_id
        self._metadata = metadata
        self._schema = schema
        self._writer = pq.ParquetWriter(
            self.path,
            schema,
            sorting_columns=pq.SortingColumn.from_ordering(
                schema, [("frame_index", "ascending"), ("object_id", "ascending")]
            ),
            **parquet_options(schema),
        )
        self._frames: list[FrameAnnotations] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self._rows = 0
        self._frame_count = 0
        self._last_frame = -1
        self._object_ids: set[int] = set()
        self._size: tuple[int, int] | None = None
        self._finished = False

    def __enter__(self) -> AnnotationWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            self.abort()

    def write(self, frame: FrameAnnotations) -> None:
        """Add the next frame. Also call it for frames without objects, because frames are counted here.

        Raises:
            ValueError: frames or objects out of order, an object id below 1, or an empty mask.
        """
        if frame.frame_index <= self._last_frame:
            raise ValueError(f"frame {frame.frame_index} of {self.clip_id} comes after frame {self._last_frame}")
        last_id = 0
        for item in frame.objects:
            if item.object_id <= last_id:
                raise ValueError(
                    f"object ids must be >= 1 and ascending, got {item.object_id} after {last_id} "
                    f"on frame {frame.frame_index} of {self.clip_id}"
                )
            if item.area < 1:
                raise ValueError(
                    f"object {item.object_id} has no pixels on frame {frame.frame_index} of {self.clip_id}"
                )
            last_id = item.object_id
        self._last_frame = frame.frame_index
        self._frame_count += 1
        self._size = (frame.height, frame.width)
        if not frame.objects:
            return
        self._object_ids.update(item.object_id for item in frame.objects)
        self._frames.append(frame)
        self._pending_rows += len(frame.objects)
        self._pending_bytes += sum(len(item.rle) for item in frame.objects)
        if self._pending_rows >= ROW_GROUP_ROWS or self._pending_bytes >= _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending_rows:
            table = _to_table(self.clip_id, self._frames, self._schema)
            self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._rows += self._pending_rows
        self._frames, self._pending_rows, self._pending_bytes = [], 0, 0

    def finish(self, **facts: Any) -> FileFacts:
        """Write the footer. `facts` known only now (seconds, timings, dropped objects) go into the "clip" metadata.

        The metadata also gets `rows`, `frames` and `objects`, `height` and `width` unless given, `finished_at` (Unix
        seconds) and `attempt_id`, a random number that identifies this file among others of the clip, unless given.
        """
        self._flush()
        clip = {
            "clip_id": self.clip_id,
            **({"height": self._size[0], "width": self._size[1]} if self._size else {}),
            **self._metadata.get("clip", {}),
            "finished_at": round(time.time(), 3),
            "attempt_id": uuid.uuid4().hex,
            **facts,
            "rows": self._rows,
            "frames": self._frame_count,
            "objects": len(self._object_ids),
        }
        values = {**self._metadata, "clip": clip}
        pairs = {"sam3ray.schema_version": str(SCHEMA_VERSION)}
        for key in ("fingerprint", "clip", "model", "software"):
            pairs[f"sam3ray.{key}"] = json.dumps(redact_values(values.get(key, {})), sort_keys=True, default=str)
        self._writer.add_key_value_metadata(pairs)
        self._writer.close()
        self._finished = True
        return FileFacts(self._rows, self._frame_count, len(self._object_ids), os.path.getsize(self.path))

    def abort(self) -> None:
        """Give up: close and delete the local file."""
        self._frames = []
        self._writer.close()
        self._finished = True
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def _to_table(clip_id: str, frames: list[FrameAnnotations], schema: pa.Schema) -> pa.Table:
    rows = [(frame, item) for frame in frames for item in frame.objects]
    n = len(rows)
    boxes = np.array([item.bbox for _, item in rows], dtype=np.float32).reshape(n, 4)
    sizes = np.array([(frame.height, frame.width) for frame, _ in rows], dtype=np.int32)
    size_lists = pa.ListArray.from_arrays(np.arange(0, 2 * n + 1, 2, dtype=np.int32), sizes.reshape(-1))
    counts = pa.array([item.rle for _, item in rows], pa.string())
    columns = [
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([clip_id], pa.string())),
        pa.array([frame.frame_index for frame, _ in rows], pa.int32()),
        pa.array([frame.pts for frame, _ in rows], pa.int64()),
        pa.array([frame.time_s for frame, _ in rows], pa.float64()),
        pa.array([item.object_id for _, item in rows], pa.int32()),
        pa.array([item.prompt for _, item in rows], pa.string()).dictionary_encode(),
        pa.array([item.score for _, item in rows], pa.float32()),
        pa.array([item.track_score for _, item in rows], pa.float32()),
        pa.StructArray.from_arrays([pa.array(boxes[:, i]) for i in range(4)], fields=list(SCHEMA.field("bbox").type)),
        pa.array([item.area for _, item in rows], pa.int32()),
        pa.StructArray.from_arrays([size_lists, counts], fields=list(SCHEMA.field("segmentation").type)),
    ]
    if "visibility" in schema.names:
        columns.append(pa.array([item.visibility for _, item in rows], pa.float32()))
    return pa.table(columns, schema=schema)


def read_file_metadata(metadata: pq.FileMetaData) -> dict[str, Any]:
    """The metadata of an annotation file: {"schema_version": 1, "fingerprint": {...}, "clip": {...}, ...}.

    Raises:
        ValueError: a key is missing, or its value is not JSON.
    """
    raw = metadata.metadata or {}
    values: dict[str, Any] = {}
    for key in METADATA_KEYS:
        text = raw.get(key.encode())
        if text is None:
            raise ValueError(f"the file's metadata has no {key}")
        try:
            values[key.removeprefix("sam3ray.")] = parse_json(text)
        except ValueError:
            raise ValueError(f"the file's metadata has a {key} that is not JSON") from None
    return values


def read_frames(
    source: str | os.PathLike[str] | BinaryIO | pa.Table, clip_id: str | None = None
) -> Iterator[FrameAnnotations]:
    """Yield the annotations in a Parquet file or table frame by frame, with one batch of rows in memory.

    Frames without objects are skipped.

    Args:
        source: local path, open file, or table, sorted by frame index and object id.
        clip_id: only this clip's rows, for tables with several.

    Raises:
        ValueError: the rows are not sorted.
    """
    batches = source.to_batches(_BATCH_ROWS) if isinstance(source, pa.Table) else _batches(source)
    rows: list[dict[str, Any]] = []
    for batch in batches:
        for row in batch.to_pylist():
            if clip_id is not None and row["clip_id"] != clip_id:
                continue
            if rows and rows[0]["frame_index"] != row["frame_index"]:
                if rows[0]["frame_index"] > row["frame_index"]:
                    raise ValueError(
                        f"frame {row['frame_index']} comes after frame {rows[0]['frame_index']}; sort the rows by "
                        "frame_index, then object_id"
                    )
                yield FrameAnnotations.of_rows(rows)
                rows = []
            rows.append(row)
    if rows:
        yield FrameAnnotations.of_rows(rows)


def _batches(source: str | os.PathLike[str] | BinaryIO) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(source) as file:
        yield from file.iter_batches(_BATCH_ROWS)
