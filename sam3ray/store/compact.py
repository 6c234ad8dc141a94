"""Merging per-clip files into large ones.

Merged files go to `compacted/`. The newest index there says which clips they hold (see `compacted`). What is on storage
if the process dies, step by step:

1. A part is built in a local temporary file, read back, and created under a new name. No reader uses it, because no
   index names it. If the process dies here, the next compaction deletes the part once no index can name it any more.
2. The next version of the index is created, in one step and only if it does not exist yet. From then on,
   `read_annotations`, resume, `status` and `verify` read those clips from the part. Their own files have the same rows,
   and are skipped.
3. Parts that were replaced are deleted, and all indexes except the newest two.
4. With `remove_originals`, the clips' own files are deleted. If the process dies half-way, the next compaction with
   `remove_originals` continues.

What readers see at every moment:

* `read_annotations` sees each clip exactly once: it lists the clips' own files first and reads the index after that.
  A dataset that was opened before step 3 or 4 may later fail with "not found" at a deleted file, but never silently
  omits rows: open it again.
* A plain `annotations/*.parquet` stays complete and correct if originals are kept, which is the default. With
  `remove_originals` it loses clips during step 4: while rows move between files, no order of single-file steps can keep
  a plain listing both complete and free of duplicates. After the compaction, `annotations/*.parquet` and
  `compacted/*.parquet` together have each clip exactly once.

Two compactions at once lose nothing, even if both believe that they hold the lease. Each step checks the lease first.
If the process is suspended between the check and the step, a part under a new name does no harm; the index is not
created, because its version is taken; and deleted files stay replaced, because each version of the index names all
clips of the previous one. A part that no index names may belong to a suspended compaction. Its name has the version of
the index from which it was made: once there is a newer index, the suspended compaction can no longer add the part,
which is deleted.

The compaction holds the lease, so no driver starts meanwhile. If a straggler finishes a clip whose own file has been
removed, `RunStore.commit` rejects it, because it looks at the index first.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sam3ray.failures import JobStopped, UserError
from sam3ray.guard.damaged import why_unreadable
from sam3ray.store import layout
from sam3ray.store.annotation_file import ROW_GROUP_ROWS, parquet_options, read_file_metadata
from sam3ray.store.audit import by_clip
from sam3ray.store.compacted import (
    CompactedClip,
    Index,
    base_version,
    create_index,
    index_path,
    part_name,
    read_newest,
    versions,
)
from sam3ray.store.lease import DriverLease
from sam3ray.store.run import RunStore
from sam3ray.store.scratch import unnamed_file
from sam3ray.store.storage import Storage
from sam3ray.values.annotations import SCHEMA
from sam3ray.values.versions import SCHEMA_VERSION

TARGET_BYTES = 256 * 2**20
_FLUSH_BYTES = 64 * 2**20  # of Arrow data held before a row group is written


@dataclass(frozen=True)
class CompactResult:
    """The result of a compaction: clips merged now, parts and bytes written, own files of clips removed."""

    clips: int
    parts: int
    bytes: int
    removed: int


@dataclass(frozen=True, slots=True)
class _Source:
    clip_id: str
    part: str | None  # None: the clip's own file


def compact_run(
    output: str,
    storage_options: Mapping[str, Any] | None = None,
    target_bytes: int = TARGET_BYTES,
    remove_originals: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> CompactResult:
    """Merge the finished clips that are not merged yet.

    A part is closed at the end of the clip with which it reaches `target_bytes`. The last part may be smaller, and is
    merged again with later clips. Rows in a part are sorted by clip id, frame index and object id.

    Args:
        target_bytes: minimum size of a part; 128 to 512 MiB suit most readers.
        remove_originals: delete the clips' own files afterwards; see above for the effect on plain listings.
        progress: called with (clips merged, clips to merge).

    Raises:
        UserError: there is no run here, or a file cannot be merged: `verify` says what is wrong with it.
        JobStopped: a driver is active.
    """
    store = RunStore(output, storage_options)
    run = store.run_info()
    with store.lease("compact") as lease:
        return _Compaction(store.storage, lease, run["fingerprint"], target_bytes).run(remove_originals, progress)


class _Compaction:
    def __init__(self, storage: Storage, lease: DriverLease, fingerprint: Mapping[str, Any], target_bytes: int) -> None:
        self._storage = storage
        self._lease = lease
        self._fingerprint = fingerprint
        self._target_bytes = target_bytes
        self._own = {c for name in storage.names(layout.ANNOTATIONS) if (c := layout.clip_of(name, ".parquet"))}
        self._parts = {
            e.path.partition("/")[2]: e.size for e in storage.walk(layout.COMPACTED) if e.path.endswith(".parquet")
        }
        self._index = read_newest(storage)  # after the listing of parts, so parts created meanwhile are ignored

    def run(self, remove_originals: bool, progress: Callable[[int, int], None] | None) -> CompactResult:
        sources = self._sources()
        clips = parts = written = 0
        for held, size in self._write_parts(sources):
            self._switch(held)
            clips, parts, written = clips + len(held), parts + 1, written + size
            if progress is not None:
                progress(clips, len(sources))
        self._tidy()
        removed = 0
        if remove_originals:
            redundant = [layout.annotation_path(clip_id) for clip_id in sorted(self._own & self._index.clips.keys())]
            removed = sum(self._storage.each(self._delete, redundant))
        return CompactResult(clips, parts, written, removed)

    def _sources(self) -> list[_Source]:
        """The clips to merge, in the order of their ids."""
        index = self._index.clips
        sources = [_Source(clip_id, None) for clip_id in self._own - index.keys()]
        if sources:  # without new clips, merging small parts again would change nothing
            small = {c.part for c in index.values() if self._parts.get(c.part, 0) < self._target_bytes // 2}
            sources += [_Source(clip.clip_id, clip.part) for clip in index.values() if clip.part in small]
        return sorted(sources, key=lambda source: source.clip_id)

    def _write_parts(self, sources: list[_Source]) -> Iterator[tuple[list[CompactedClip], int]]:
        """Write parts one after the other; yield each one's clips and size once it is on the store."""
        waiting = iter(sources)
        source = next(waiting, None)
        before = self._index.clips
        with contextlib.closing(_OldParts(self._storage)) as replaced:
            while source is not None:
                part = part_name(self._index.version, source.clip_id)
                with unnamed_file() as local:
                    held: list[CompactedClip] = []
                    with _PartWriter(local, self._fingerprint) as writer:
                        # At least one clip: every size ends it.
                        while source is not None and (not held or writer.size < self._target_bytes):
                            rows, metadata = _copy(self._storage, source, before, replaced, writer)
                            held.append(CompactedClip(source.clip_id, part, rows, json.dumps(metadata, sort_keys=True)))
                            source = next(waiting, None)
                    size = _read_back(local, held)
                    self._lease.check()
                    if not self._storage.create(local, layout.part_path(part)):
                        raise AssertionError(f"two merged files have the same random name: {part}")
                yield held, size

    def _switch(self, held: list[CompactedClip]) -> None:
        """Create the next version of the index."""
        clips = self._index.clips | {clip.clip_id: clip for clip in held}
        version = self._index.version + 1
        self._lease.check()
        made = create_index(self._storage, version, clips.values())
        # Guards against creating an old version again that has been deleted.
        if not made or max(versions(self._storage), default=version) > version:
            raise JobStopped(
                f"another compaction of {self._storage.shown()} finished first (it created {index_path(version)}); "
                "nothing is lost: compact again"
            )
        self._index = Index(version, clips)
        self._delete_replaced(clips)

    def _delete_replaced(self, clips: Mapping[str, CompactedClip]) -> None:
        named = {clip.part for clip in clips.values()}
        for part in sorted(self._parts.keys() - named):
            if base_version(part) != self._index.version:
                self._delete(layout.part_path(part))
                del self._parts[part]

    def _tidy(self) -> None:
        """Remove leftovers of earlier compactions. Readers may still use the index before the newest."""
        named = {clip.part for clip in self._index.clips.values()}
        if any(base_version(part) == self._index.version for part in self._parts.keys() - named):
            # Made from the newest index: its compaction may be suspended. A newer index shows that it has lost.
            self._switch([])
        self._delete_replaced(self._index.clips)
        for version in versions(self._storage):
            if 0 < version < self._index.version - 1:
                self._delete(index_path(version))

    def _delete(self, path: str) -> bool:
        self._lease.check()
        return self._storage.delete(path)


def _copy(
    storage: Storage, source: _Source, index: Mapping[str, CompactedClip], replaced: _OldParts, writer: _PartWriter
) -> tuple[int, dict[str, Any]]:
    rows = 0
    if source.part is not None:
        metadata = index[source.clip_id].values()
        for batch in replaced.rows_of(source.part, source.clip_id):
            rows += writer.write(batch)
    else:
        path = layout.annotation_path(source.clip_id)
        with storage.fetched(path) as local:
            if local is None:
                raise UserError(f"{storage.shown(path)} vanished during the compaction; compact again")
            try:
                with pq.ParquetFile(local) as file:
                    if not file.schema_arrow.remove_metadata().equals(SCHEMA):
                        raise ValueError("not the annotations schema, version 1")
                    metadata = read_file_metadata(file.metadata)
                    for batch in file.iter_batches(ROW_GROUP_ROWS):
                        rows += writer.write(batch)
            except (pa.ArrowException, OSError, ValueError) as error:
                place = storage.shown(path)
                raise UserError(
                    f"{place} cannot be merged: {why_unreadable(error)}; run `verify` for details"
                ) from None
    if rows != metadata["clip"].get("rows"):
        raise UserError(
            f"clip {source.clip_id} cannot be merged: it has {rows} rows, but its metadata has another number"
        )
    return rows, metadata


class _OldParts:
    """Reads the clips of parts that are merged again, each part once from beginning to end.

    Request clips in the order of their ids, which is their order within a part.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._open: dict[str, tuple[contextlib.ExitStack, Iterator[tuple[str, pa.RecordBatch]]]] = {}
        self._ahead: dict[str, tuple[str, pa.RecordBatch] | None] = {}

    def rows_of(self, part: str, clip_id: str) -> Iterator[pa.RecordBatch]:
        if part not in self._open:
            stack = contextlib.ExitStack()
            local = stack.enter_context(self._storage.fetched(layout.part_path(part)))
            if local is None:
                raise UserError(f"{self._storage.shown(layout.part_path(part))} is missing; run `verify` for details")
            self._open[part] = (stack, by_clip(stack.enter_context(pq.ParquetFile(local))))
            self._ahead[part] = next(self._open[part][1], None)
        rows = self._open[part][1]
        while (ahead := self._ahead[part]) is not None and ahead[0] == clip_id:
            yield ahead[1]
            self._ahead[part] = next(rows, None)

    def close(self) -> None:
        for stack, _ in self._open.values():
            stack.close()


def _read_back(local: str, held: list[CompactedClip]) -> int:
    """Check that the part holds the rows of its clips. Returns its size in bytes."""
    counts: dict[str, int] = {}
    with pq.ParquetFile(local) as file:
        for clip_id, batch in by_clip(file):
            counts[clip_id] = counts.get(clip_id, 0) + batch.num_rows
    if counts != {clip.clip_id: clip.rows for clip in held if clip.rows}:
        folder = tempfile.gettempdir()
        raise OSError(f"a merged file in {folder} does not hold what was written to it; check the disk")
    return os.path.getsize(local)


class _PartWriter:
    """Gathers rows into row groups of up to 65,536 rows."""

    def __init__(self, path: str, fingerprint: Mapping[str, Any]) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed by __exit__
        self._writer = pq.ParquetWriter(
            self._file,
            SCHEMA,
            sorting_columns=pq.SortingColumn.from_ordering(
                SCHEMA, [("clip_id", "ascending"), ("frame_index", "ascending"), ("object_id", "ascending")]
            ),
            **parquet_options(),
        )
        self._fingerprint = fingerprint
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0

    def __enter__(self) -> _PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                pairs = {"schema_version": SCHEMA_VERSION, "fingerprint": self._fingerprint}
                self._writer.add_key_value_metadata({f"sam3ray.{k}": json.dumps(v) for k, v in pairs.items()})
        finally:
            with contextlib.closing(self._file):
                self._writer.close()

    @property
    def size(self) -> int:
        """Bytes written, plus an estimate of the buffered ones."""
        return self._file.tell() + self._bytes // 4

    def write(self, batch: pa.RecordBatch) -> int:
        if self._rows + batch.num_rows > ROW_GROUP_ROWS or self._bytes > _FLUSH_BYTES:
            self._flush()
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        return batch.num_rows

    def _flush(self) -> None:
        if self._batches:
            table = pa.Table.from_batches(self._batches, SCHEMA).unify_dictionaries().combine_chunks()
            self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        self._batches, self._rows, self._bytes = [], 0, 0
