"""The result of a check, as a row of a table in docs/exports.md or docs/installation.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_BEGIN, _END = "<!-- interop: written by make interop -->", "<!-- interop: end -->"


@dataclass(frozen=True)
class Result:
    """What a tool read from one input.

    Attributes:
        tool: the tool's name, as users know it.
        version: the tool's version.
        read: the input: a format with its variant, or whatever else was checked.
        ok: False makes the command fail.
        masks, ids, scores, time: "exact", "kept", "-" if the format has none, or a figure.
        lost: what was lost, in words; empty if nothing was.
    """

    tool: str
    version: str
    read: str
    ok: bool
    masks: str = "-"
    ids: str = "-"
    scores: str = "-"
    time: str = "-"
    lost: str = ""

    def cells(self, today: str) -> list[str]:
        """Its line in the table, in the order of `EXPORTS.columns`."""
        said = _outcome(self.ok, self.lost)
        return [self.tool, self.version, self.read, self.masks, self.ids, self.scores, self.time, said, today]


@dataclass(frozen=True)
class Outcome:
    """Whether sam3ray installs and starts on some platform.

    Attributes:
        what: what was tried.
        how: "run", "resolved" or "schema only": how much the result proves.
        tool: the tool that tried it, with its version.
        ok: False makes the command fail.
        said: the result in words.
    """

    what: str
    how: str
    tool: str
    ok: bool
    said: str = ""

    def cells(self, today: str) -> list[str]:
        """Its line in the table, in the order of `INSTALLATION.columns`."""
        return [self.what, self.how, self.tool, _outcome(self.ok, self.said), today]


@dataclass(frozen=True)
class Sheet:
    """A table that `make interop` writes into a page.

    Attributes:
        key: the columns that identify a line.
    """

    page: Path
    columns: tuple[str, ...]
    key: tuple[int, ...]

    def table(self, results: Iterable[Result | Outcome], today: str) -> dict[tuple[str, ...], str]:
        """The table's lines, by key."""
        rows = [each.cells(today) for each in results]
        return {tuple(cells[place] for place in self.key): f"| {' | '.join(cells)} |" for cells in rows}

    def write(self, results: Iterable[Result | Outcome]) -> None:
        """Writes lines into the page's table. They replace lines with the same key; other lines stay."""
        text = self.page.read_text()
        if _BEGIN not in text or _END not in text:
            raise ValueError(f"{self.page} lacks the markers of the table: {_BEGIN} ... {_END}")
        before, _, rest = text.partition(_BEGIN)
        old, _, after = rest.partition(_END)
        lines: Mapping[tuple[str, ...], str] = self._lines(old) | self.table(results, _today())
        head = f"| {' | '.join(self.columns)} |\n|{' --- |' * len(self.columns)}"
        body = "\n".join([head, *(line for _, line in sorted(lines.items()))])
        self.page.write_text(f"{before}{_BEGIN}\n{body}\n{_END}{after}")

    def _lines(self, text: str) -> dict[tuple[str, ...], str]:
        found = {}
        for line in text.splitlines():
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
            if len(cells) == len(self.columns) and cells[0] != self.columns[0] and not set(cells[0]) <= {"-", " "}:
                found[tuple(cells[place] for place in self.key)] = line
        return found


EXPORTS = Sheet(
    DOCS / "exports.md", ("tool", "version", "read", "masks", "ids", "scores", "time", "lost", "on"), key=(0, 2)
)
INSTALLATION = Sheet(DOCS / "installation.md", ("what", "how", "with", "result", "on"), key=(0,))


def _outcome(ok: bool, said: str) -> str:
    return said if ok else f"**failed**: {said}"


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
