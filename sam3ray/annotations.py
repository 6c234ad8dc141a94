"""Annotations: what is known of every object on every frame of a clip, as values and as Parquet."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sam3ray import html
from sam3ray.colors import color_of
from sam3ray.jsontext import parse_json
from sam3ray.masks import decode_rle
from sam3ray.redact import redact_values

if TYPE_CHECKING:
    import pyarrow.dataset

    from sam3ray.config import RunSource


_SHOWN_OBJECTS = 20  # of a frame in a notebook
_SHOWN_HEIGHT = 240


@dataclass(frozen=True, slots=True)
class ObjectAnnotation:
    """One object on one frame.

    Attributes:
        object_id: >= 1, one object through the clip, unique across prompts.
        prompt: the phrase that found it, or the label of a visual prompt.
        score: detection score of the object, 0..1 (1 for an object that a visual prompt defined).
        track_score: the tracker's score of this object on this frame, 0..1.
        bbox: (xmin, ymin, xmax, ymax) in pixels of the displayed source frame, max exclusive,
            tight around the mask.
        area: pixels of the mask, > 0.
        rle: COCO compressed RLE of the mask at the size of the displayed source frame.
        visibility: in truth, the share of the object that is seen, 0..1; None where unknown, and in what a model found.
    """

    object_id: int
    prompt: str
    score: float
    track_score: float
    bbox: tuple[float, float, float, float]
    area: int
    rle: str
    visibility: float | None = None


@dataclass(frozen=True, slots=True)
class FrameAnnotations:
    """All objects of one frame, by ascending object id.

    Attributes:
        frame_index: 0-based, display order, in the source video (not in the sampled sequence).
        pts: presentation timestamp in the stream's time base.
        time_s: the same in seconds from the video's start.
        height, width: of the displayed frame (rotation applied), in pixels.
    """

    frame_index: int
    pts: int
    time_s: float
    height: int
    width: int
    objects: tuple[ObjectAnnotation, ...] = field(default=())

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, Any]]) -> FrameAnnotations:
        """From the rows (see `SCHEMA`) of one frame, at least one."""
        first = rows[0]
        height, width = first["segmentation"]["size"]
        objects = tuple(
            ObjectAnnotation(
                object_id=row["object_id"],
                prompt=row["prompt"],
                score=row["score"],
                track_score=row["track_score"],
                bbox=(row["bbox"]["xmin"], row["bbox"]["ymin"], row["bbox"]["xmax"], row["bbox"]["ymax"]),
                area=row["area"],
                rle=row["segmentation"]["counts"],
                visibility=row.get("visibility"),
            )
            for row in rows
        )
        return cls(first["frame_index"], first["pts"], first["time_s"], height, width, objects)

    def _repr_html_(self) -> str:
        """For notebooks: the masks in their colours, and the objects. `sam3ray.draw` puts them on the frame itself."""
        shown = self.objects[:_SHOWN_OBJECTS]
        canvas = np.full((self.height, self.width, 3), 40, np.uint8)
        for item in self.objects:
            canvas[decode_rle(item.rle, self.height, self.width)] = color_of(item.object_id)
        count = "1 object" if len(self.objects) == 1 else f"{len(self.objects)} objects"
        caption = f"frame {self.frame_index}, {self.time_s:.3f} s, {self.width}x{self.height}, {count}"
        rows = [(o.object_id, o.prompt, f"{o.score:.2f}", f"{o.track_score:.2f}", o.area) for o in shown]
        more = len(self.objects) - len(shown)
        return (
            html.picture(canvas, caption, _SHOWN_HEIGHT)
            + html.table(("id", "prompt", "score", "track score", "pixels"), rows)
            + (f"<div>and {more} more</div>" if more else "")
        )


# ---- storage ----------------------------------------------------------------------------------------------------

SCHEMA_VERSION = 1
ROW_GROUP_ROWS = 65_536
_FLUSH_BYTES = 32 * 2**20  # of RLE text held before a row group is written, however few the rows

_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("clip_id", _TEXT),
        pa.field("frame_index", pa.int32()),
        pa.field("pts", pa.int64()),
        pa.field("time_s", pa.float64()),
        pa.field("object_id", pa.int32()),
        pa.field("prompt", _TEXT),
        pa.field("score", pa.float32()),
        pa.field("track_score", pa.float32()),
        pa.field("bbox", pa.struct([(name, pa.float32()) for name in ("xmin", "ymin", "xmax", "ymax")])),
        pa.field("area", pa.int32()),
        pa.field("segmentation", pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])),
    ]
)
"""Version 1: one row per frame and object, sorted by (frame_index, object_id)."""

TRUTH_SCHEMA = SCHEMA.append(pa.field("visibility", pa.float32()))
"""Of true tracks: the share of the object that is seen comes last; null where it is unknown."""

METADATA_KEYS = tuple(f"sam3ray.{name}" for name in ("schema_version", "fingerprint", "clip", "model", "software"))

# Dictionary pages pay for values that repeat; run lengths, boxes and track scores hardly do.
_DICTIONARY_COLUMNS = ["clip_id", "prompt", "frame_index", "pts", "time_s", "object_id", "score"]
_DICTIONARY_COLUMNS += ["segmentation.size.list.element"]
_STATISTICS_COLUMNS = [
    *_DICTIONARY_COLUMNS,
    "track_score",
    "area",
    *(f"bbox.{n}" for n in ("xmin", "ymin", "xmax", "ymax")),
]


def parquet_options(schema: pa.Schema = SCHEMA) -> dict[str, Any]:
    """How annotation files are written, for `pyarrow.parquet.ParquetWriter`."""
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
    """What a finished file holds."""

    rows: int
    frames: int
    objects: int
    size_bytes: int


class AnnotationWriter:
    """Streams the annotations of one clip to a local Parquet file.

    Memory is bounded by one row group. The file is of use only after `finish`: until then it has no footer. If the
    process dies before that, a local file without a footer is left behind; nothing is on the store. As a context
    manager it deletes the file when the block raises or ends without `finish`.

    Args:
        path: local file, replaced if there.
        clip_id: of every row.
        metadata: what the file's metadata says, as JSON values under the keys "fingerprint", "clip" (uri, range,
            size, fps, time base), "model" (checkpoint, revision, dtype) and "software" (versions). Credentials in
            strings are masked.
        schema: `SCHEMA` of what a model found, or `TRUTH_SCHEMA`.
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
        """Add the next frame, also one without objects: frames are counted here.

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
        """Write the footer; `facts` known only now (seconds, timings, dropped objects) join the "clip" metadata.

        The metadata also gets `rows`, `frames` and `objects`, `height` and `width` unless given, `finished_at` (Unix
        seconds) and `attempt_id`, a random number that tells this file from any other of the same clip.
        """
        self._flush()
        clip = {
            "clip_id": self.clip_id,
            **({"height": self._size[0], "width": self._size[1]} if self._size else {}),
            **self._metadata.get("clip", {}),
            **facts,
            "rows": self._rows,
            "frames": self._frame_count,
            "objects": len(self._object_ids),
            "finished_at": round(time.time(), 3),
            "attempt_id": uuid.uuid4().hex,
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
        ValueError: a key is missing or is no JSON.
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
            raise ValueError(f"the file's metadata has no JSON in {key}") from None
    return values


def read_annotations(
    output: RunSource, storage_options: Mapping[str, Any] | None = None, *, revision: int | str | None = None
) -> pyarrow.dataset.Dataset:
    """The annotations of a run as a pyarrow dataset, lazily: `.to_table(filter=..., columns=...)`, `.to_batches()`.

    Lists the folder once and opens no file before data are asked for. A compacted run is read from its merged files.
    Row order within a clip is kept; clips come in the order of their ids.

    Args:
        output: the run's output folder, on any fsspec storage; or the job's YAML file, dict or `JobConfig`.
        storage_options: fsspec options; they win over those of the configuration.
        revision: None is what the model found; "latest" or a number also applies the corrections up to there, for
            which touched clips are resolved into local files now.

    Raises:
        UserError: there is neither a run nor a folder of annotations; no such revision; or the log of corrections is
            damaged.
        JobStopped, ClipError: the store refuses, or is out of reach.
    """
    from sam3ray.config import run_place

    output, storage_options = run_place(output, storage_options)
    if revision is not None:
        from sam3ray.revisions import read_revision

        return read_revision(output, revision, storage_options)
    from sam3ray.store.reading import annotations_dataset

    return annotations_dataset(output, storage_options)


_BATCH_ROWS = 1024


def read_frames(
    source: str | os.PathLike[str] | BinaryIO | pa.Table, clip_id: str | None = None
) -> Iterator[FrameAnnotations]:
    """The annotations in a Parquet file or table by frame, in order; a batch of rows at a time is in memory.

    Frames without objects are not among them.

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


def decode_mask(row: Mapping[str, Any]) -> np.ndarray:
    """The mask of one row as a bool array of shape (height, width), at the size of the displayed source frame.

    Args:
        row: anything indexable by column name: a dict of `to_pylist()`, a pandas Series, a Polars named row; or the
            value of its `segmentation` column.
    """
    segmentation = row.get("segmentation", row)
    height, width = (int(v) for v in segmentation["size"])
    counts = segmentation["counts"]
    return decode_rle(counts.decode("ascii") if isinstance(counts, bytes) else counts, height, width)
