"""The merged files of a compacted run, and the index that says which clips they hold.

`compacted/index-<version>.arrow` is the switch: a part counts only once the newest index names it. A version is only
created if it does not exist, and never replaced: of two compactions that started from the same version, one continues
and the other learns that it has lost. Every version names all clips of the previous version. Runs of sam3ray 0.1.0 have
a single `compacted/index.arrow` instead, which counts as version 0.
"""

from __future__ import annotations

import bisect
import io
import json
import re
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from sam3ray.failures import UserError
from sam3ray.guard.damaged import why_unreadable
from sam3ray.guard.jsontext import parse_json
from sam3ray.store import layout
from sam3ray.store.storage import Entry, Storage

_SCHEMA = pa.schema([("clip_id", pa.string()), ("part", pa.string()), ("rows", pa.int64()), ("metadata", pa.string())])
_NAME = re.compile(r"index-([0-9]{8})\.arrow", re.ASCII)
_FIRST_IDS = b"sam3ray.first_ids"  # rows of each batch, so that one clip is found without reading all of them
_BATCH_CLIPS = 512
_TAIL_BYTES = 64 * 2**10  # enough for the footer of an index of a million clips


@dataclass(frozen=True, slots=True)
class CompactedClip:
    """Where a clip's rows are, and the metadata of its own file (JSON)."""

    clip_id: str
    part: str
    rows: int
    metadata: str

    def values(self) -> dict[str, Any]:
        """The metadata as values. Raises ValueError if it is damaged."""
        found = parse_json(self.metadata)
        if not isinstance(found, dict):
            raise ValueError(f"the index has no metadata of clip {self.clip_id}")
        return found


@dataclass(frozen=True)
class Index:
    """One version of the index. `clips` is empty, and `version` 0, for a run that was never compacted."""

    version: int
    clips: dict[str, CompactedClip]


def version_of(name: str) -> int | None:
    """The version of an index file in `compacted/`; None for other files."""
    if name == layout.COMPACTED_INDEX.rpartition("/")[2]:
        return 0
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else None


def index_path(version: int) -> str:
    return f"{layout.COMPACTED}/index-{version:08}.arrow" if version else layout.COMPACTED_INDEX


_PART = re.compile(r"part-([0-9]{8})-.*\.parquet", re.ASCII | re.DOTALL)


def part_name(version: int, first_clip_id: str) -> str:
    """A new name for a merged file that is made from this version of the index."""
    return f"part-{version:08}-{first_clip_id[:40]}-{uuid.uuid4().hex[:12]}.parquet"


def base_version(part: str) -> int:
    """The version of the index that a merged file was made from; -1 for those of sam3ray 0.1.0."""
    found = _PART.fullmatch(part)
    return int(found[1]) if found else -1


def versions(storage: Storage) -> dict[int, Entry]:
    """The existing versions, by one listing."""
    found = {}
    for entry in storage.listed(layout.COMPACTED, "index"):
        version = version_of(entry.path.rpartition("/")[2])
        if version is not None:
            found[version] = entry
    return found


def read_newest(storage: Storage) -> Index:
    """The newest version of the index.

    Raises:
        UserError: it is damaged.
    """
    while there := versions(storage):
        newest = max(there)
        data = storage.read(index_path(newest))
        if data is not None:  # gone: a compaction has created a newer version and deleted this one
            return Index(newest, _clips(storage, newest, data))
    return Index(0, {})


def read_index(storage: Storage) -> dict[str, CompactedClip]:
    """The clips in merged files; empty for a run that was never compacted.

    Raises:
        UserError: the index is damaged.
    """
    return read_newest(storage).clips


def create_index(storage: Storage, version: int, clips: Iterable[CompactedClip]) -> bool:
    """Switch readers to this version, in one step. False if another process has created it."""
    rows = sorted(clips, key=lambda clip: clip.clip_id)
    starts = range(0, len(rows), _BATCH_CLIPS)
    schema = _SCHEMA.with_metadata({_FIRST_IDS: json.dumps([rows[i].clip_id for i in starts])})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for start in starts:
            batch = rows[start : start + _BATCH_CLIPS]
            columns = [pa.array([getattr(row, field.name) for row in batch], field.type) for field in _SCHEMA]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return storage.create_bytes(sink.getvalue(), index_path(version))


class Lookup:
    """Finds single clips in the newest index, with one listing and, if there is an index, at most two small reads."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._read = (0, 0)  # version and size of the index that is open in `_reader`
        self._reader: pa.ipc.RecordBatchFileReader | None = None
        self._first_ids: list[str] = []

    def find(self, clip_id: str) -> CompactedClip | None:
        """Where the clip is; None if no merged file holds it.

        Raises:
            UserError: the index is damaged.
        """
        while there := versions(self._storage):
            newest = max(there)
            try:
                with self._lock:
                    return self._find(newest, there[newest].size, clip_id)
            except FileNotFoundError:
                continue  # a compaction has created a newer version and deleted this one
            except (pa.ArrowException, OSError, ValueError, KeyError) as error:
                raise _damaged(self._storage, newest, error) from None
        return None

    def _find(self, version: int, size: int, clip_id: str) -> CompactedClip | None:
        size = size or self._storage.size(index_path(version)) or 0  # local listings have no sizes
        if (version, size) != self._read or self._reader is None:
            window = _Window(self._storage, index_path(version), size)
            self._reader = pa.ipc.open_file(pa.PythonFile(window, "r"))
            self._read = (version, size)
            named = (self._reader.schema.metadata or {}).get(_FIRST_IDS)
            self._first_ids = [str(first) for first in parse_json(named)] if named is not None else []
            if named is None:  # written by sam3ray 0.1.0, in one batch
                self._first_ids = [""] * self._reader.num_record_batches
        at = bisect.bisect_right(self._first_ids, clip_id) - 1
        if at < 0:
            return None
        batch = self._reader.get_batch(at)
        ids = batch.column("clip_id").to_pylist()
        if clip_id not in ids:
            return None
        row = batch.slice(ids.index(clip_id), 1).to_pylist()[0]
        return CompactedClip(*(row[name] for name in _SCHEMA.names))


class _Window(io.RawIOBase):
    """A file on the store that is read in ranges: its end first, then each requested range with some more."""

    def __init__(self, storage: Storage, path: str, size: int) -> None:
        super().__init__()
        self._storage, self._path, self._size = storage, path, size
        self._at = 0
        self._start, self._data = size, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + {0: 0, 1: self._at, 2: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        if self._at < self._start or end > self._start + len(self._data):
            first = max(0, self._size - _TAIL_BYTES) if not self._data else self._at
            first = min(first, self._at)
            last = min(self._size, max(end, first + _TAIL_BYTES))
            data = self._storage.read_range(self._path, first, last)
            if data is None:
                raise FileNotFoundError(self._path)
            self._start, self._data = first, data
        found = self._data[self._at - self._start : end - self._start]
        self._at += len(found)
        return found


def _clips(storage: Storage, version: int, data: bytes) -> dict[str, CompactedClip]:
    try:
        table = pa.ipc.open_file(io.BytesIO(data)).read_all()
        table.validate(full=True)
        columns = [table.column(name).to_pylist() for name in _SCHEMA.names]
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise _damaged(storage, version, error) from None
    return {row[0]: CompactedClip(*row) for row in zip(*columns, strict=True)}


def _damaged(storage: Storage, version: int, error: Exception) -> UserError:
    where = storage.shown(index_path(version))
    return UserError(f"{where} is damaged: {why_unreadable(error)}")
