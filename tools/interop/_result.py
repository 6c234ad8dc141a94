"""What a check found, as a row of the table in docs/exports.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "exports.md"
COLUMNS = ("tool", "version", "read", "masks", "ids", "scores", "time", "lost", "on")
_BEGIN, _END = "<!-- interop: written by make interop -->", "<!-- interop: end -->"


@dataclass(frozen=True)
class Result:
    """One thing that a tool was given, and what it made of it.

    Attributes:
        tool: its name, as users know it.
        version: that was run.
        read: what it was given: a format with its variant, or whatever else the check is about.
        ok: False fails the command.
        masks, ids, scores, time: "exact", "kept", "-" where the format has none, or a figure.
        lost: in words; empty: nothing.
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


def table(results: Iterable[Result], today: str) -> dict[tuple[str, str], str]:
    """(tool, read) -> its line."""
    lines = {}
    for each in results:
        cells = [each.tool, each.version, each.read, each.masks, each.ids, each.scores, each.time]
        cells += [each.lost if each.ok else f"**failed**: {each.lost}", today]
        lines[each.tool, each.read] = f"| {' | '.join(cells)} |"
    return lines


def write(results: Iterable[Result], page: Path = PAGE) -> None:
    """Puts the lines into the page's table: new ones in place of those of the same tool and format, others stay."""
    text = page.read_text()
    if _BEGIN not in text or _END not in text:
        raise ValueError(f"{page} has no place for the table: {_BEGIN} ... {_END}")
    before, _, rest = text.partition(_BEGIN)
    old, _, after = rest.partition(_END)
    lines: Mapping[tuple[str, str], str] = _lines(old) | table(results, datetime.now(UTC).date().isoformat())
    head = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"
    body = "\n".join([head, *(line for _, line in sorted(lines.items()))])
    page.write_text(f"{before}{_BEGIN}\n{body}\n{_END}{after}")


def _lines(text: str) -> dict[tuple[str, str], str]:
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if len(cells) == len(COLUMNS) and cells[0] != COLUMNS[0] and not set(cells[0]) <= {"-", " "}:
            found[cells[0], cells[2]] = line
    return found
