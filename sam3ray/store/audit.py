"""Audits one file of a run: in a thread, a process, or on another node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sam3ray.guard.damaged import why_unreadable
from sam3ray.store import layout
from sam3ray.store.annotation_file import read_file_metadata
from sam3ray.store.check_clip import BATCH_ROWS, ClipCheck
from sam3ray.store.compacted import CompactedClip
from sam3ray.store.provenance import Made
from sam3ray.store.storage import Storage
from sam3ray.values.annotations import SCHEMA
from sam3ray.values.clip import Clip


@dataclass(frozen=True)
class Task:
    """One file to check: a clip's own, or a merged one (`part`) with the index's entries for its clips.

    `whole`: check all rows of a merged file, not only those of the one clip.
    """

    clips: tuple[Clip, ...]
    part: str | None = None
    held: tuple[CompactedClip, ...] = ()
    whole: bool = True


@dataclass(frozen=True)
class Checked:
    """The findings about one clip in one file.

    `figures`: frames, objects and rows, if they could be read; `made`: the file's provenance, from its metadata.
    """

    clip_id: str
    digest: str = ""
    figures: tuple[Any, Any, Any] | None = None
    made: Made | None = None


@dataclass(frozen=True)
class Auditor:
    """Checks files of a run. Picklable."""

    storage: Storage
    fingerprint: Mapping[str, Any]

    def check(self, task: Task) -> tuple[list[Checked], list[str]]:
        """Check one file. Returns the findings about each clip, and all problems."""
        return self._own_file(task.clips[0]) if task.part is None else self._part(task.part, task)

    def _own_file(self, clip: Clip) -> tuple[list[Checked], list[str]]:
        path = layout.annotation_path(clip.clip_id)
        nothing = [Checked(clip.clip_id)]
        with self.storage.fetched(path) as local:
            if local is None:
                return nothing, [f"{path}: vanished during the audit"]
            try:
                with pq.ParquetFile(local) as file:
                    if not file.schema_arrow.remove_metadata().equals(SCHEMA):
                        return nothing, [f"{path}: not the annotations schema, version 1"]
                    metadata = read_file_metadata(file.metadata)
                    check = ClipCheck(clip.clip_id, path, metadata, self.fingerprint, _prompts(clip))
                    for batch in file.iter_batches(BATCH_ROWS):
                        check.rows(batch)
            except (pa.ArrowException, OSError, ValueError) as error:
                return nothing, [f"{path}: cannot be read: {why_unreadable(error)}"]
        problems = check.finish()
        return [_checked(check, Made.of(path, metadata))], problems

    def _part(self, part: str, task: Task) -> tuple[list[Checked], list[str]]:
        path = layout.part_path(part)
        problems: list[str] = []
        checks: dict[str, ClipCheck] = {}
        made: dict[str, Made] = {}
        known = {clip.clip_id: clip for clip in task.clips}
        for row in task.held:
            where = f"{path}, clip {row.clip_id}"
            try:
                metadata = row.values()
            except ValueError as error:
                problems.append(f"{where}: {error}")
                continue
            clip = known[row.clip_id]
            made[row.clip_id] = Made.of(where, metadata)
            checks[row.clip_id] = ClipCheck(row.clip_id, where, metadata, self.fingerprint, _prompts(clip))
        try:
            if not task.whole:
                for check in checks.values():
                    for batch in self._rows_of(path, check.clip_id):
                        check.rows(batch)
            else:
                problems += self._whole_part(path, checks)
        except FileNotFoundError:
            return [], [f"{path}: vanished during the audit"]
        except (pa.ArrowException, OSError, ValueError) as error:
            return [], [f"{path}: cannot be read: {why_unreadable(error)}"]
        for check in checks.values():
            problems += check.finish()
        return [_checked(check, made[clip_id]) for clip_id, check in checks.items()], problems

    def _whole_part(self, path: str, checks: Mapping[str, ClipCheck]) -> list[str]:
        problems = []
        with self.storage.fetched(path) as local:
            if local is None:
                raise FileNotFoundError(path)
            with pq.ParquetFile(local) as file:
                _refuse_other_schema(file.schema_arrow)
                for clip_id, batch in by_clip(file):
                    if clip_id in checks:
                        checks[clip_id].rows(batch)
                    else:
                        problems.append(
                            f"{path}: has rows of clip {clip_id!r}, which belong in another file according to the index"
                        )
        return problems

    def _rows_of(self, path: str, clip_id: str) -> list[pa.RecordBatch]:
        """The rows of one clip. Reads only the row groups that may have some."""

        def read() -> list[pa.RecordBatch]:
            import pyarrow.dataset as ds  # see `store.reading`

            dataset = ds.dataset(self.storage.full(path), filesystem=self.storage.arrow(), format="parquet")
            _refuse_other_schema(dataset.schema)
            return dataset.to_table(filter=ds.field("clip_id") == clip_id).to_batches(BATCH_ROWS)

        return self.storage.retrying("read", path, read)


def _refuse_other_schema(schema: pa.Schema) -> None:
    if not schema.remove_metadata().equals(SCHEMA):
        raise ValueError("not the annotations schema, version 1")


def _checked(check: ClipCheck, made: Made) -> Checked:
    return Checked(check.clip_id, check.digest, check.figures, made)


def by_clip(file: pq.ParquetFile) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of a merged file in order, cut where the clip changes."""
    for batch in file.iter_batches(BATCH_ROWS):
        column = batch.column("clip_id")
        if column.null_count:
            raise ValueError("clip_id has missing values")
        names = column.dictionary.to_pylist()
        codes = column.indices.to_pylist()
        start = 0
        for stop in range(1, len(codes) + 1):
            if stop == len(codes) or codes[stop] != codes[start]:
                yield names[codes[start]], batch.slice(start, stop - start)
                start = stop


def _prompts(clip: Clip) -> set[str]:
    return set(clip.names)
