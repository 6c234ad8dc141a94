"""Reads manifests in text form: CSV and JSON lines."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from sam3ray.failures import UserError
from sam3ray.guard.jsontext import no_constant, why_not_json
from sam3ray.manifest._carried import unstorable
from sam3ray.manifest._rows import KNOWN_COLUMNS, MAX_CELLS, MAX_COLUMNS, MAX_ROWS, Problems, Rows, check_header, shown

MAX_TEXT_BYTES = 2 * 2**30
MAX_FIELD_CHARS = 16 * 2**20  # a visual_prompts cell may hold many masks


def read_csv(text: str, name: str) -> Rows:
    """Reads CSV by RFC 4180: commas, double quotes, a header. All carried values stay text as written."""
    _check_values(text, name, ",\n")
    csv.field_size_limit(MAX_FIELD_CHARS)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    problems = Problems()
    records: list[list[str]] = []
    lines: list[int] = []
    numbers: list[int] = []
    header: list[str] | None = None
    try:
        end = row = 0
        for record in reader:
            start, end = end + 1, reader.line_num
            if not record or record == [""]:
                continue  # an empty line
            if header is None:
                header = [column.strip() for column in record]
                check_header(header, name)
                continue
            row += 1
            if row > MAX_ROWS or row * len(header) > MAX_CELLS:
                raise UserError(f"{name} has over {row - 1} rows of {len(header)} columns (the limit)")
            if len(record) != len(header):
                problems.add(
                    f"{name} row {row} (line {start}) has {len(record)} fields, but the header has {len(header)}; "
                    "quote values that contain commas"
                )
                continue
            records.append(record)
            lines.append(start)
            numbers.append(row)
    except csv.Error as error:
        problems.add(f"{name} line {reader.line_num}: not CSV: {_why_not_csv(error)}")
    if header is None:
        problems.raise_if_any()
        raise UserError(f"{name} is empty; it needs a header with a column 'uri'")
    columns = map(list, zip(*records, strict=True)) if records else ([] for _ in header)
    by_column: dict[str, list[str]] = dict(zip(header, columns, strict=True))
    known = {column: [v or None for v in by_column[column]] for column in KNOWN_COLUMNS if column in by_column}
    others = [column for column in header if column not in KNOWN_COLUMNS]
    carried = pa.table({column: pa.array(by_column[column], pa.string()) for column in others}) if others else None
    return Rows(name, len(records), known, carried, lines, numbers=numbers, problems=problems)


def read_jsonl(text: str, name: str) -> Rows:
    """Reads one JSON object per line. Carried values get the type that Arrow infers for their column."""
    problems = Problems()
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    numbers: list[int] = []
    for number, line, record in json_objects(text, name, problems):
        records.append(record)
        lines.append(line)
        numbers.append(number)
    names = list(dict.fromkeys(key for record in records for key in record))
    if not names:
        problems.raise_if_any()
        raise UserError(f'{name} has no rows; it needs JSON objects such as {{"uri": "a.mp4"}}, one per line')
    check_header(names, name)
    if len(names) * len(records) > MAX_CELLS or len(names) > MAX_COLUMNS:
        raise UserError(f"{name} has {len(records)} rows of {len(names)} columns (over the limit)")
    known = {column: [record.get(column) for record in records] for column in KNOWN_COLUMNS if column in names}
    others = [column for column in names if column not in KNOWN_COLUMNS]
    rows = Rows(name, len(records), known, lines=lines, numbers=numbers, problems=problems)
    if others:
        table = pa.table({column: _as_arrow(column, records, rows) for column in others})
        for column in unstorable(table):
            # Checked as written, because Parquet has no type for some columns, such as `{}` in every row.
            texts = [_as_text(record.get(column)) for record in records]
            table = table.set_column(others.index(column), column, pa.array(texts, pa.string()))
        rows.carried = table
    return rows


def _check_values(text: str, name: str, marks: str) -> None:
    """Rejects text with too many values before parsing, because parsed values take fifty times as much memory."""
    values = sum(map(text.count, marks))
    if values > MAX_CELLS:
        raise UserError(f"{name} has up to {values} values; allowed: {MAX_CELLS}")


def _as_text(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _why_not_csv(error: csv.Error) -> str:
    if "field larger than" in str(error):
        return f"a value has more than {csv.field_size_limit()} characters; is a quote not closed?"
    return "it contains NUL characters, so it is not text; save it as text"


def json_objects(text: str, name: str, problems: Problems) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(row, line, object) for each line with a JSON object, both counted from 1. All other lines are problems."""
    _check_values(text, name, ",[{")
    row = 0
    for line, content in enumerate(io.StringIO(text), start=1):
        if not content.strip():
            continue
        row += 1
        if row > MAX_ROWS:
            raise UserError(f"{name} has over {MAX_ROWS} rows (the limit)")
        try:
            record = _DECODER.decode(content.strip())
        except (ValueError, RecursionError) as error:
            reason = why_not_json(error)
            problems.add(f"{name} row {row} (line {line}): not JSON: {reason}; allowed: one JSON object per line")
            continue
        if isinstance(record, dict):
            yield row, line, record
        else:
            problems.add(f"{name} row {row} (line {line}) is {shown(record)}; allowed: a JSON object")


def _as_arrow(column: str, records: list[dict[str, Any]], rows: Rows) -> pa.Array:
    """The values of one column, in the Arrow type that holds them all unchanged."""
    values = [record.get(column) for record in records]
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, ValueError, RecursionError) as error:
        first = next((type(value).__name__ for value in values if value is not None), "null")
        odd = next((i for i, value in enumerate(values) if value is not None and type(value).__name__ != first), None)
        if odd is None:
            reason = " ".join(str(error).split())[:200]
            rows.problems.add(f"{rows.name}: the values of column {column!r} have more than one type: {reason}")
        else:
            rows.problems.add(
                f"{rows.place(odd)}: {column} is {shown(values[odd])}, but earlier rows have "
                f"values such as {shown(next(v for v in values if v is not None))}; allowed: one type per column"
            )
        return pa.nulls(len(values))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} appears twice")
    return record


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=no_constant, parse_float=_finite)
