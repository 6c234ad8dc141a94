"""Ranks the objects and clips of a run, and writes the table.

Processes read the run's files clip by clip, without masks unless another run is compared. Memory grows with the number
of objects, not of rows: some 200 bytes per object.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sam3ray.config import RunSource, run_place
from sam3ray.display.console import add_row
from sam3ray.evaluate import object_agreement
from sam3ray.failures import UserError
from sam3ray.files import resolve
from sam3ray.guard.damaged import why_unreadable
from sam3ray.guard.processes import in_processes
from sam3ray.guard.redact import redact
from sam3ray.screening._signals import SIGNALS, Rows, Track, measure_tracks
from sam3ray.screening._weights import clip_suspicion, reasons, suspicion
from sam3ray.store import RunStore, layout
from sam3ray.store.labelled_frames import labelled_frames
from sam3ray.store.storage import Storage

if TYPE_CHECKING:
    from rich.table import Table

Each = Callable[[Callable[[str], Any], Sequence[str]], Iterable[Any]]
"""Applies a function to clip ids, in threads or in processes."""

_COLUMNS = ["frame_index", "time_s", "object_id", "prompt", "score", "track_score", "bbox", "area", "segmentation.size"]
SCHEMA = pa.schema(
    [
        pa.field("level", pa.string()),
        pa.field("rank", pa.int32()),
        pa.field("suspicion", pa.float32()),
        pa.field("clip_id", pa.string()),
        pa.field("object_id", pa.int32()),
        pa.field("prompt", pa.string()),
        pa.field("frame_index", pa.int32()),
        pa.field("time_s", pa.float64()),
        pa.field("rows", pa.int64()),
        pa.field("objects", pa.int32()),
        pa.field("why", pa.string()),
        *(pa.field(name, pa.float32()) for name in SIGNALS),
    ]
)
"""`level` is "clip" or "object", ranked apart from 1; `frame_index` and `time_s` are the place to look at first."""


@dataclass(frozen=True)
class Triage:
    """The ranking of a run.

    Attributes:
        ranking: see `SCHEMA`; clips first, then objects, each by rank.
        address: where it was written.
        damaged: clip -> why it could not be read. Check these first; they are not ranked.
    """

    ranking: pa.Table
    address: str
    damaged: dict[str, str]

    def top(self, level: str = "clip", most: int = 10) -> list[dict[str, Any]]:
        """The first rows of a level."""
        chosen = self.ranking.filter(pc.equal(self.ranking["level"], level)).slice(0, most)
        return [{k: v for k, v in row.items() if k not in SIGNALS} for row in chosen.to_pylist()]

    def as_json(self, most: int = 10) -> dict[str, Any]:
        return {
            "table": redact(self.address),
            "clips": self.top("clip", most),
            "objects": self.top("object", most),
            "damaged": self.damaged,
        }

    def table(self, most: int = 10) -> list[Table]:
        from rich.table import Table

        clips = Table(title="Clips to look at first", title_justify="left", box=None, pad_edge=False)
        for name in ("", "clip", "suspicion", "objects", "look at", "why"):
            clips.add_column(name, justify="right" if name in ("", "suspicion", "objects") else "left")
        for row in self.top("clip", most):
            add_row(
                clips, str(row["rank"]), row["clip_id"], f"{row['suspicion']:.2f}", str(row["objects"]),
                _place(row), row["why"],
            )  # fmt: skip
        objects = Table(title="Objects to look at first", title_justify="left", box=None, pad_edge=False)
        for name in ("", "clip", "object", "prompt", "suspicion", "look at", "why"):
            objects.add_column(name, justify="right" if name in ("", "object", "suspicion") else "left")
        for row in self.top("object", most):
            add_row(
                objects, str(row["rank"]), row["clip_id"], str(row["object_id"]), row["prompt"],
                f"{row['suspicion']:.2f}", _place(row), row["why"],
            )  # fmt: skip
        return [clips, objects]


def _place(row: Mapping[str, Any]) -> str:
    return "" if row["frame_index"] is None else f"frame {row['frame_index']} ({row['time_s']:.1f} s)"


def triage(
    run: RunSource,
    storage_options: Mapping[str, Any] | None = None,
    *,
    against: RunSource | None = None,
    to: str | os.PathLike[str] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Triage:
    """Ranks a run's clips and objects by how likely they are wrong, from their rows alone.

    Args:
        run: the output folder, on any fsspec storage, or the job's YAML file, dict or `JobConfig`.
        storage_options: fsspec options; they override those of the configuration.
        against: another run of the same clips: objects on which the two disagree rank higher.
        to: the table to write, a `.parquet` file that must not exist yet. None: `triage.parquet` in the run, which is
            replaced.
        workers: processes. The table does not depend on it.
        progress: called with the number of clips done, and of all clips.

    Raises:
        UserError: there is no finished clip, `against` shares none, or `to` exists or is not a .parquet file.
    """
    output, options = run_place(run, storage_options)
    store = RunStore(output, options)
    done = sorted(store.done_ids())
    if not done:
        raise UserError(f"{redact(output)} holds no annotations: it is not a run, or no clip is done yet")
    other = None if against is None else RunStore(*run_place(against, storage_options))
    if other is not None and not (theirs := other.done_ids()):
        raise UserError(f"{redact(other.output)} holds no annotations: it is not a run, or no clip is done yet")
    if other is not None and not theirs & set(done):
        raise UserError(f"{redact(output)} and {redact(other.output)} have no clip in common")
    storage, path = _target(store, to, options)
    ranking, damaged = rank_clips(store, done, other=other, workers=workers, progress=progress)
    sink = io.BytesIO()
    pq.write_table(ranking, sink, compression="zstd")
    if to is None:
        storage.replace_bytes(sink.getvalue(), path)
    elif not storage.create_bytes(sink.getvalue(), path):
        raise UserError(f"{storage.shown(path)} already exists: choose another name for --to")
    return Triage(ranking, storage.address(path), damaged)


def rank_clips(
    store: RunStore,
    clip_ids: Sequence[str],
    *,
    other: RunStore | None = None,
    each: Each | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[pa.Table, dict[str, str]]:
    """The ranking of some finished clips, see `SCHEMA`; and unreadable clips with the reason.

    Args:
        each: applies a function to items and returns the results in their order, for example `RunStore.storage.each`;
            None: `workers` processes.
    """
    clips: list[dict[str, Any]] = []
    objects: list[pa.Table] = []
    damaged: dict[str, str] = {}
    look = _Look(store, other, frozenset(other.done_ids() if other is not None else ()))
    results = in_processes(look, clip_ids, workers, at_once=8) if each is None else each(look, clip_ids)
    for count, found in enumerate(results, 1):
        if isinstance(found, _Damaged):
            damaged[found.clip_id] = found.problem
        else:
            clips.append(found[0])
            objects.append(found[1])
        if progress is not None:
            progress(count, len(clip_ids))
    tables = (pa.Table.from_pylist(clips, SCHEMA), pa.concat_tables([SCHEMA.empty_table(), *objects]))
    return pa.concat_tables([_ranked(table) for table in tables]), damaged


def _target(
    store: RunStore, to: str | os.PathLike[str] | None, options: Mapping[str, Any] | None
) -> tuple[Storage, str]:
    if to is None:
        return store.storage, layout.TRIAGE
    folder, _, name = resolve(os.fspath(to)).rpartition("/")
    if not name.endswith(".parquet") or folder.endswith(":/"):
        raise UserError(f"--to {redact(os.fspath(to))}: allowed: the address of a .parquet file in a folder")
    storage = Storage(folder or "/", options)
    if storage.exists(name):
        raise UserError(f"{storage.shown(name)} already exists: choose another name for --to")
    return storage, name


def _ranked(table: pa.Table) -> pa.Table:
    """By decreasing suspicion; among equals, by clip and object."""
    keys = [("suspicion", "descending"), ("clip_id", "ascending"), ("object_id", "ascending")]
    table = table.take(pc.sort_indices(table, keys))
    return table.set_column(1, SCHEMA.field("rank"), pa.array(np.arange(1, len(table) + 1), pa.int32()))


@dataclass(frozen=True)
class _Damaged:
    clip_id: str
    problem: str


@dataclass(frozen=True)
class _Look:
    """One clip's row and its objects'."""

    store: RunStore
    other: RunStore | None
    shared: frozenset[str]

    def __call__(self, clip_id: str) -> tuple[dict[str, Any], pa.Table] | _Damaged:
        try:
            tracks, rows = self._tracks(clip_id)
        except (ValueError, TypeError, KeyError, ArithmeticError, OSError, UserError) as error:
            return _Damaged(clip_id, redact(why_unreadable(error)))
        found = [_object_row(clip_id, track, rows) for track in tracks]
        return _clip_row(clip_id, found), pa.Table.from_pylist(found, SCHEMA)

    def _tracks(self, clip_id: str) -> tuple[list[Track], Rows]:
        facts = self.store.read_clip_metadata(clip_id).get("clip", {})
        table = self.store.read_clip(clip_id, _COLUMNS)
        indices = labelled_frames(facts, set(pc.unique(table["frame_index"]).to_pylist()))
        rows = _rows(table, indices)
        if not len(rows.place):
            return [], rows
        height, width = table["segmentation"][0].as_py()["size"]
        tracks = measure_tracks(rows, len(indices), (height, width))
        if self.other is not None and clip_id in self.shared:
            agreement = object_agreement(self.store, self.other, clip_id)
            for track in tracks:
                share, row = agreement.get(track.object_id, (0.0, 0))
                track.signals["disagreement"] = 1 - share
                track.where["disagreement"] = row
        return tracks, rows


def _rows(table: pa.Table, indices: list[int]) -> Rows:
    frame_index = table["frame_index"].to_numpy()
    boxes = table["bbox"].combine_chunks()
    return Rows(
        place=np.searchsorted(np.array(indices, np.int64), frame_index),
        frame_index=frame_index,
        time_s=table["time_s"].to_numpy(),
        object_id=table["object_id"].to_numpy().astype(np.int64),
        prompt=np.array(table["prompt"].to_pylist(), object),
        score=table["score"].to_numpy().astype(float),
        track_score=table["track_score"].to_numpy().astype(float),
        boxes=np.stack([boxes.field(n).to_numpy() for n in ("xmin", "ymin", "xmax", "ymax")], 1).astype(float),
        area=table["area"].to_numpy().astype(float),
    )


def _object_row(clip_id: str, track: Track, rows: Rows) -> dict[str, Any]:
    names = reasons(track.signals)
    row = track.rows[track.where[names[0]]] if names else track.rows[0]
    return {
        "level": "object",
        "suspicion": suspicion(track.signals),
        "clip_id": clip_id,
        "object_id": track.object_id,
        "prompt": track.prompt,
        "frame_index": int(rows.frame_index[row]),
        "time_s": float(rows.time_s[row]),
        "rows": len(track.rows),
        "objects": 1,
        "why": "; ".join(SIGNALS[name].format(1 - track.signals[name]) for name in names),
        **track.signals,
    }


def _clip_row(clip_id: str, objects: list[dict[str, Any]]) -> dict[str, Any]:
    worst = max(objects, key=lambda row: (row["suspicion"], -row["object_id"]), default=None)
    return {
        "level": "clip",
        "suspicion": clip_suspicion(row["suspicion"] for row in objects),
        "clip_id": clip_id,
        "rows": sum(row["rows"] for row in objects),
        "objects": len(objects),
        "frame_index": None if worst is None else worst["frame_index"],
        "time_s": None if worst is None else worst["time_s"],
        "why": "" if worst is None or not worst["why"] else f"object {worst['object_id']}: {worst['why']}",
        **{name: max((row[name] for row in objects), default=0.0) for name in SIGNALS},
    }
