"""A manifest before its values are checked, and the problems found while reading it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sam3ray.display.readable import counted
from sam3ray.failures import UserError

if TYPE_CHECKING:
    import pyarrow as pa

OWN_COLUMNS = ("sam3ray.source",)  # a run adds these to its frozen manifest, which may itself serve as a manifest
KNOWN_COLUMNS = ("uri", "clip_id", "prompts", "start_s", "end_s", "fps", "visual_prompts", "exemplars")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
MAX_ROWS = 10_000_000
MAX_COLUMNS = 1_000
MAX_CELLS = 100_000_000
MAX_PROBLEMS = 1_000  # reported one by one; the rest are counted


@dataclass
class Rows:
    """Columns of a manifest: lists of plain Python values, one per row, None where absent.

    Attributes:
        name: what messages call the manifest.
        columns: the columns known to sam3ray that the manifest has.
        carried: all other columns, with their Arrow types; None if there are none.
        lines: each row's line in a text file, from 1; else None.
        numbers: each row's number, from 1, if some rows could not be read at all.
        problems: one for each row that could not be read.
        sources: each video's sighting (`sam3ray.files.sighting`), if a listing gave it.
        identities: values from which ids are derived, if not from the uri as written (paths within a folder).
    """

    name: str
    count: int
    columns: dict[str, list[Any]]
    carried: pa.Table | None = None
    lines: list[int] | None = None
    identities: list[str] | None = None
    sources: list[str | None] | None = None
    numbers: list[int] | None = None
    problems: Problems = field(default_factory=lambda: Problems())

    def number(self, row: int) -> int:
        return row + 1 if self.numbers is None else self.numbers[row]

    def place(self, row: int) -> str:
        """ "clips.csv row 3 (line 4)", rows counted from 1."""
        line = f" (line {self.lines[row]})" if self.lines is not None else ""
        return f"{self.name} row {self.number(row)}{line}"


@dataclass
class Problems:
    """Collects problems: one by one up to a limit, and counted beyond it."""

    sentences: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, sentence: str) -> None:
        """Adds a problem of the manifest, or of a row: "... row 7 ...". Sentences are sorted by row."""
        self.count += 1
        if len(self.sentences) < MAX_PROBLEMS:
            self.sentences.append(sentence)

    def raise_if_any(self) -> None:
        if not self.count:
            return
        more = self.count - len(self.sentences)
        self.sentences.sort(key=_row_of)
        raise UserError([*self.sentences, *([f"... and {counted(more, 'more problem')}"] if more else [])])


def _row_of(sentence: str) -> int:
    row = re.search(r" row ([0-9]+)", sentence)
    return int(row[1]) if row else 0


def shown(value: Any) -> str:
    """A value for a message: quoted, short, on one line."""
    try:
        text = "null" if value is None else repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits, or lists nested too deep
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_header(names: Sequence[str], name: str, required: str = "uri") -> None:
    """Rejects a table without its `required` column, with two columns of the same name, or a column without a name."""
    problems = Problems()
    if len(names) > MAX_COLUMNS:
        raise UserError(f"{name} has {len(names)} columns; allowed: at most {MAX_COLUMNS}")
    for column in sorted({column for column in names if names.count(column) > 1}):
        problems.add(f"{name}: the column {column!r} appears {names.count(column)} times; allowed: once")
    for column in (column for column in names if _SURROGATE.search(column)):
        problems.add(f"{name}: the column {column!r} has an unpaired surrogate in its name; rename it")
    if any(not column.strip() for column in names):
        problems.add(f"{name}: column {[not c.strip() for c in names].index(True) + 1} has no name")
    if required not in names:
        close = difflib.get_close_matches(required, [column.lower() for column in names], n=1, cutoff=0.6)
        near = [column for column in names if close and column.lower() == close[0]]
        hint = f"; the nearest is {near[0]!r}" if near else ""
        if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
            hint = "; columns must be separated by commas"
        problems.add(f"{name} has no column {required!r}{hint}; its columns are {shown(list(names))}")
    problems.raise_if_any()


def likely_typos(names: Sequence[str]) -> list[tuple[str, str]]:
    """Carried columns whose names look like a known one: (column, known one)."""
    present = set(names)
    return [
        (column, close[0])
        for column in names
        if column not in KNOWN_COLUMNS
        and (close := difflib.get_close_matches(column.strip().lower(), KNOWN_COLUMNS, n=1, cutoff=0.8))
        and close[0] not in present
    ]
