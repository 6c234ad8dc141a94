"""The merged files of a compacted run, and the index that says which clips they hold.

`compacted/index.arrow` is the switch: it is replaced in one step, and a part counts only once the index names it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from sam3ray.failures import UserError
from sam3ray.store import layout
from sam3ray.store.storage import Storage

_SCHEMA = pa.schema([("clip_id", pa.string()), ("part", pa.string()), ("rows", pa.int64()), ("metadata", pa.string())])


@dataclass(frozen=True, slots=True)
class CompactedClip:
    """Where a clip's rows are, and the metadata its own file had (JSON)."""

    clip_id: str
    part: str
    rows: int
    metadata: str

    def values(self) -> dict[str, Any]:
        return json.loads(self.metadata)


def read_index(storage: Storage) -> dict[str, CompactedClip]:
    """The clips held by merged files; empty for a run that was never compacted.

    Raises:
        UserError: the index is damaged.
    """
    data = storage.read(layout.COMPACTED_INDEX)
    if data is None:
        return {}
    try:
        table = pa.ipc.open_file(io.BytesIO(data)).read_all()
        table.validate(full=True)
        columns = [table.column(name).to_pylist() for name in _SCHEMA.names]
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        where = storage.shown(layout.COMPACTED_INDEX)
        raise UserError(f"{where} is damaged: {' '.join(str(error).split())[:200]}") from None
    return {row[0]: CompactedClip(*row) for row in zip(*columns, strict=True)}


def write_index(storage: Storage, clips: Iterable[CompactedClip]) -> None:
    """Switch readers over, in one step."""
    rows = sorted(clips, key=lambda clip: clip.clip_id)
    table = pa.table(
        [pa.array([getattr(row, field.name) for row in rows], field.type) for field in _SCHEMA], schema=_SCHEMA
    )
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, _SCHEMA, options=options) as writer:
        writer.write_table(table)
    storage.replace_bytes(sink.getvalue(), layout.COMPACTED_INDEX)
