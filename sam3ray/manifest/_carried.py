"""Checks that carried columns can be stored as Parquet and read back."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq


def storage_problem(schema: pa.Schema) -> str | None:
    """Why Parquet cannot hold columns of these types, such as empty structs or types nested 50 deep; None if it can."""
    sink = io.BytesIO()
    try:
        pq.write_table(schema.empty_table(), sink)
        pq.read_table(io.BytesIO(sink.getvalue()))
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        return " ".join(str(error).split())[:200]
    return None


def unstorable(table: pa.Table) -> dict[str, str]:
    """The columns of a table that Parquet cannot hold, with the reason."""
    if storage_problem(table.schema) is None:
        return {}
    schemas = {field.name: pa.schema([field]) for field in table.schema}
    return {name: problem for name, schema in schemas.items() if (problem := storage_problem(schema)) is not None}
