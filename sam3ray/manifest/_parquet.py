"""Reads untrusted Parquet: manifests, and files of prompts.

A page of a few bytes may unpack to gigabytes, a dictionary with one long text may stand for millions of copies, and
damaged metadata may crash the reader. So a helper process does the reading (`sam3ray.guard.fence`), and counts what it
reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sam3ray.failures import UserError
from sam3ray.guard import fence
from sam3ray.guard.damaged import why_unreadable
from sam3ray.manifest._carried import unstorable
from sam3ray.manifest._rows import KNOWN_COLUMNS, MAX_CELLS, MAX_ROWS, OWN_COLUMNS, Rows, check_header

MAX_FILE_BYTES = 16 * 2**30
MAX_TABLE_BYTES = 16 * 2**30  # decoded bytes of a large file
_TABLE_BYTES = 2**28  # decoded bytes of a small file, and
_FOLD = 64  # multiple of the size of any file: tables with repeated texts unpack to ten times their size
_HELPER_BYTES = 2 * 2**30  # for the pages and rows being read
_BATCH_ROWS = 2_048
_CPU_S = 120.0
_BYTES_PER_CPU_S = 5 * 2**20


def read_parquet(path: str, name: str) -> Rows:
    """Reads all columns of a local file, the carried ones with their Arrow types."""
    return rows_of(read_table(path, name), name)


def rows_of(table: pa.Table, name: str) -> Rows:
    known = {column: table.column(column).to_pylist() for column in KNOWN_COLUMNS if column in table.column_names}
    others = [column for column in table.column_names if column not in (*KNOWN_COLUMNS, *OWN_COLUMNS)]
    if wrong := unstorable(table.select(others)):
        raise UserError(
            f"{name}: the column {column!r} cannot be carried through: {why}" for column, why in wrong.items()
        )
    return Rows(name, table.num_rows, known, table.select(others) if others else None)


def read_table(path: str, name: str, required: str = "uri") -> pa.Table:
    """Reads a local file with the column `required`, within limits on rows, cells and bytes.

    Raises:
        UserError: the file is not Parquet, is damaged, is over the limits, or lacks the column.
    """
    size = os.path.getsize(path)
    if size > MAX_FILE_BYTES:
        raise UserError(f"{name} has over {MAX_FILE_BYTES} bytes (the limit)")
    parts = fence.fenced_items(
        _read_file,
        os.path.abspath(path),
        name,
        required,
        allowed_bytes(size),
        memory_bytes=_HELPER_BYTES,
        cpu_s=_CPU_S + size / _BYTES_PER_CPU_S,
    )
    try:
        return assemble(parts)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error}") from error
    except fence.HelperTimedOut:
        raise UserError(f"{name} cannot be read as Parquet: reading it takes minutes") from None
    except fence.HelperDied as error:
        raise UserError(f"{name} cannot be read as Parquet: the reader {error} on it") from None


def assemble(parts: Iterable[Any]) -> pa.Table:
    """The table of a schema and batches."""
    schema, *batches = parts
    return pa.Table.from_batches(batches, schema=schema)


def allowed_bytes(file_bytes: int) -> int:
    """Bytes that the decoded values of a file of this size may take."""
    return min(MAX_TABLE_BYTES, max(_TABLE_BYTES, _FOLD * file_bytes))


def decoded_bytes(array: pa.Array) -> int:
    """Bytes that the decoded values take. A dictionary's value counts as often as it is used."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        if not _is_text(kind.value_type):
            return array.nbytes + len(array) * 16
        return array.indices.nbytes + (pc.sum(pc.binary_length(array.dictionary).take(array.indices)).as_py() or 0)
    if pa.types.is_struct(kind):
        return array.nbytes + sum(decoded_bytes(array.field(i)) for i in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return array.nbytes + decoded_bytes(array.flatten())
    if pa.types.is_map(kind):
        return array.nbytes + decoded_bytes(array.keys) + decoded_bytes(array.items)
    return array.nbytes


def _is_text(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary)
    )


def _read_file(path: str, name: str, required: str, allowed: int) -> Iterator[Any]:
    with open(path, "rb") as stream:
        yield from read_parts(stream, name, required, allowed)


def read_parts(stream: BinaryIO, name: str, required: str, allowed: int) -> Iterator[Any]:
    """Reads the schema, then batches of rows. Sets no limits, so call it in a process that has some."""
    try:
        file = pq.ParquetFile(stream)
        rows, columns = file.metadata.num_rows, len(file.schema_arrow.names)
        check_header(file.schema_arrow.names, name, required)
        if rows > MAX_ROWS or rows * columns > MAX_CELLS:
            raise UserError(
                f"{name} has {rows} rows of {columns} columns; allowed: {MAX_ROWS} rows, {MAX_CELLS} values"
            )
        yield file.schema_arrow
        held = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            held += sum(map(decoded_bytes, batch.columns))
            if held > allowed:
                raise UserError(f"{name} holds over {allowed} bytes of values (the limit for a file of its size)")
            batch.validate(full=True)  # damage can decode to text that is not UTF-8 or to offsets out of range
            yield batch
    except (MemoryError, pa.ArrowMemoryError):
        raise UserError(f"{name} cannot be read as Parquet: it needs more memory than a table may take") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read as Parquet: {why_unreadable(error)}; write it again") from error
