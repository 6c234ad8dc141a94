"""The outcome of each clip: the rows of `clips.parquet`."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from sam3ray.guard.jsontext import parse_json
from sam3ray.guard.redact import redact
from sam3ray.store import frozen

Outcome = Literal["done", "failed", "left"]

_TIMINGS_KEY = b"sam3ray.timings"


@dataclass(frozen=True, slots=True)
class ClipSummary:
    """The outcome of one clip.

    Attributes:
        status: "done"; "failed": settled by its last failure record; "left": open.
        reason, message: those of the last failed attempt, unless the clip is done.
        frames, objects, rows: counts of its annotations.
        seconds: duration of the successful attempt.
        attempts: number of failure records, plus one if the clip is done.
        timings: seconds of each stage.
        finished_at: Unix seconds when its annotations were finished.
        source: its video's sighting (`sam3ray.files.sighting`).
    """

    clip_id: str
    status: Outcome = "left"
    reason: str = ""
    message: str = ""
    frames: int = 0
    objects: int = 0
    rows: int = 0
    seconds: float = 0.0
    attempts: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)
    finished_at: float | None = None
    source: str = ""


def from_clip_metadata(clip_id: str, clip: Mapping[str, Any], failed_attempts: int) -> ClipSummary:
    """The summary of a finished clip from the "clip" metadata of its file.

    Raises:
        ValueError: the metadata is damaged.
    """
    try:
        finished_at = clip.get("finished_at")
        if finished_at is not None and not 0 <= finished_at < 1e11:
            raise ValueError(f"the metadata of clip {clip_id} is damaged: it was finished at {finished_at!r:.40}")
        return ClipSummary(
            clip_id,
            "done",
            frames=int(clip.get("frames", 0)),
            objects=int(clip.get("objects", 0)),
            rows=int(clip.get("rows", 0)),
            seconds=float(clip.get("seconds", 0.0)),
            attempts=failed_attempts + 1,
            timings={str(k): float(v) for k, v in (clip.get("timings") or {}).items() if isinstance(v, (int, float))},
            finished_at=None if finished_at is None else float(finished_at),
            source=json.dumps(clip["source"], sort_keys=True) if isinstance(clip.get("source"), dict) else "",
        )
    except (AttributeError, TypeError, OverflowError) as error:
        raise ValueError(f"the metadata of clip {clip_id} is damaged: {error}") from None


_FIXED: dict[str, pa.DataType] = {
    "clip_id": pa.string(),
    "uri": pa.string(),
    "status": pa.string(),
    "reason": pa.string(),
    "message": pa.string(),
    "frames": pa.int64(),
    "objects": pa.int64(),
    "rows": pa.int64(),
    "seconds": pa.float64(),
    "attempts": pa.int64(),
    "finished_at": pa.timestamp("ms", tz="UTC"),
}
_SOURCE = "sam3ray.source"  # a name that no manifest uses; tables of 0.1.0 lack the column


def to_parquet(manifest: pa.Table, summaries: Mapping[str, ClipSummary]) -> bytes:
    """`clips.parquet`: one row per clip in the manifest's order.

    The columns are those of `ClipSummary` and the uri, one `<stage>_s` for each stage, and the manifest's other columns
    with their own types. A carried column whose name is taken is renamed to `manifest.<name>`.
    """
    ids = manifest.column("clip_id").to_pylist()
    rows = [summaries.get(clip_id) or ClipSummary(clip_id) for clip_id in ids]
    stages = sorted({stage for row in rows for stage in row.timings})
    finished = [None if row.finished_at is None else int(row.finished_at * 1000) for row in rows]
    values: dict[str, list[Any]] = {
        "clip_id": ids,
        "uri": [redact(uri) for uri in manifest.column("uri").to_pylist()],
        "status": [row.status for row in rows],
        "reason": [row.reason or None for row in rows],
        "message": [redact(row.message) if row.message else None for row in rows],
        "frames": [row.frames for row in rows],
        "objects": [row.objects for row in rows],
        "rows": [row.rows for row in rows],
        "seconds": [row.seconds for row in rows],
        "attempts": [row.attempts for row in rows],
        "finished_at": finished,
    }
    table = pa.table({name: pa.array(values[name], kind) for name, kind in _FIXED.items()})
    table = table.append_column(_SOURCE, pa.array([row.source or None for row in rows], pa.string()))
    for stage in stages:
        table = table.append_column(f"{stage}_s", pa.array([row.timings.get(stage) for row in rows], pa.float64()))
    taken = set(table.column_names)
    carried = frozen.carried_columns(manifest)
    for field_, column in zip(carried.schema, carried.columns, strict=True):
        table = table.append_column(field_.with_name(_free_name(field_.name, taken)), column)
    table = table.replace_schema_metadata({_TIMINGS_KEY: json.dumps(stages).encode()})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _free_name(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"manifest.{name}"
    taken.add(name)
    return name


def from_parquet(data: bytes) -> dict[str, ClipSummary]:
    """The summaries in a `clips.parquet`; none if it is damaged, because it can be rebuilt."""
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        stages = parse_json((file.schema_arrow.metadata or {}).get(_TIMINGS_KEY, b"[]"))
        has_sources = _SOURCE in file.schema_arrow.names
        columns = [*_FIXED, *(f"{stage}_s" for stage in stages), *([_SOURCE] if has_sources else [])]
        table = file.read(columns=columns).select(columns)
        finished = table.column("finished_at").cast(pa.int64()).to_pylist()
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return {}
    names = ("clip_id", "status", "reason", "message", "frames", "objects", "rows", "seconds", "attempts")
    own = [table.column(name).to_pylist() for name in names]
    timings = [table.column(f"{stage}_s").to_pylist() for stage in stages]
    sources = table.column(_SOURCE).to_pylist() if has_sources else [None] * table.num_rows
    found = {}
    for i, (clip_id, status, reason, message, frames, objects, rows, seconds, attempts) in enumerate(
        zip(*own, strict=True)
    ):
        found[clip_id] = ClipSummary(
            clip_id,
            status,
            reason or "",
            message or "",
            frames,
            objects,
            rows,
            seconds,
            attempts,
            {stage: column[i] for stage, column in zip(stages, timings, strict=True) if column[i] is not None},
            None if finished[i] is None else finished[i] / 1000,
            sources[i] or "",
        )
    return found
