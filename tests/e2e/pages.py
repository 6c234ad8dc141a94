"""The code of a page of the documentation, run as its reader runs it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"


def sections(page: str, language: str, instead: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(heading without its number, code) for each block of a language ("" where it has none), in order.

    Args:
        instead: what the page says -> what a test puts in its place. Each has to be there.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    for written, meant in instead.items():
        assert written in text, f"{page} no longer says {written!r}"
        text = text.replace(written, meant)
    heading = ""
    # Blocks of other languages are matched, too, so that the end of one is not taken for the start of another.
    for title, kind, code in re.findall(r"^## (.+?)$|^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        if title:
            heading = title.partition(". ")[2] or title
        elif kind == language:
            yield heading, code


def run_cell(code: str, name: str, held: dict[str, Any]) -> None:
    """As a notebook does: the value of a last expression is what it shows, kept as `_`."""
    body = ast.parse(code, name).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), name, "exec"), held)  # noqa: S102
    if isinstance(last, ast.Expr):
        held["_"] = eval(compile(ast.Expression(last.value), name, "eval"), held)  # noqa: S307
