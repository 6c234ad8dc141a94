"""Puts tables into the documentation, each between two markers that name its benchmark."""

from __future__ import annotations

from pathlib import Path

_DOCS = Path(__file__).parent.parent / "docs"


def put(page: str, name: str, table: str) -> None:
    """Replaces what is between `<!-- NAME: begin -->` and `<!-- NAME: end -->` on a page of docs/."""
    path, begin, end = _DOCS / page, f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, rest = path.read_text().split(begin)
    path.write_text(f"{head}{begin}\n\n{table}\n\n{end}{rest.split(end)[1]}")
