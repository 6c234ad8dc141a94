"""Manifests as Parquet."""

from __future__ import annotations

from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from sam3ray.failures import UserError
from sam3ray.manifest._rows import KNOWN_COLUMNS, MAX_CELLS, MAX_ROWS, Rows, check_header

MAX_TABLE_BYTES = 16 * 2**30  # decoded


def read_parquet(stream: BinaryIO, name: str) -> Rows:
    """All columns; the carried ones with their Arrow types."""
    table = read_table(stream, name)
    known = {column: table.column(column).to_pylist() for column in KNOWN_COLUMNS if column in table.column_names}
    others = [column for column in table.column_names if column not in KNOWN_COLUMNS]
    return Rows(name, table.num_rows, known, table.select(others) if others else None)


def read_table(stream: BinaryIO, name: str, required: str = "uri") -> pa.Table:
    """The whole table, which must have the column `required`, within limits on rows, cells and decoded bytes.

    Raises:
        UserError: it is not Parquet, is damaged, or is over the limits.
    """
    try:
        file = pq.ParquetFile(stream)
        rows, columns = file.metadata.num_rows, len(file.schema_arrow.names)
        check_header(file.schema_arrow.names, name, required)
        if rows > MAX_ROWS or rows * columns > MAX_CELLS:
            raise UserError(
                f"{name} has {rows} rows of {columns} columns; allowed: {MAX_ROWS} rows, {MAX_CELLS} values"
            )
        batches, size = [], 0
        for batch in file.iter_batches(batch_size=65_536):
            size += batch.nbytes
            if size > MAX_TABLE_BYTES:
                raise UserError(f"{name} holds over {MAX_TABLE_BYTES} bytes of values, which is the limit")
            batches.append(batch)
        table = pa.Table.from_batches(batches, schema=file.schema_arrow)
        table.validate(full=True)  # a damaged file can decode to text that is not UTF-8 or to offsets out of range
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise UserError(f"{name} cannot be read as Parquet: {' '.join(str(error).split())[:300]}") from error
    return table
