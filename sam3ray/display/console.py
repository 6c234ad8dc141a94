"""Prints for people: tables on stdout, sentences and counters on stderr, all through `printable`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import Any

from sam3ray.guard.printable import json_text, printable

PLAIN_WIDTH = 160  # if stdout is not a terminal, so that nothing is cut
LINE_EVERY_S = 10.0


def complain(sentences: Iterable[str]) -> None:
    """Prints sentences to stderr, one per line."""
    for sentence in sentences:
        print(f"sam3ray: {printable(sentence)}", file=sys.stderr)


def say(line: str) -> None:
    """Prints a line of a result to stdout."""
    print(printable(line))


def print_result(data: Any, renderable: Any, as_json: bool) -> None:
    """Prints a result to stdout: as JSON, or `renderable` (a table, a text, or a list of them) by rich."""
    if as_json:
        print_json(data)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    for part in renderable if isinstance(renderable, list | tuple) else [renderable]:
        shown = Text(printable(part)) if isinstance(part, str) else part
        console.print(shown, soft_wrap=isinstance(shown, Text))


def print_json(data: Any) -> None:
    print(json_text(data, indent=2))


def add_row(table: Any, *cells: object) -> None:
    """Adds a row to a rich table, with its cells unchanged: without markup and emoji codes."""
    from rich.text import Text

    table.add_row(*(Text(printable(str(cell))) for cell in cells))


def plain(value: Any) -> dict[str, Any]:
    """A result as JSON data: its own `as_json`, else the fields of a dataclass."""
    if hasattr(value, "as_json"):
        return dict(value.as_json())
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"no JSON for a {type(value).__name__}")


def facts_table(facts: Mapping[str, Any]) -> Any:
    """Names and values, one per line. Mappings are shown as "a 3, b 1"; empty values are omitted."""
    from rich.text import Text

    kept = {
        printable(name.replace("_", " ")): printable(_shown(value))
        for name, value in facts.items()
        if value is not None and value != "" and not (isinstance(value, Mapping | list | tuple) and not value)
    }
    width = max(map(len, kept), default=0) + 2
    return Text("\n".join(f"{name:<{width}}{value}" for name, value in kept.items()))


@contextmanager
def counter(what: str) -> Iterator[Callable[..., None]]:
    """Counts on stderr: a live line on a terminal, elsewhere a plain line from time to time."""
    live = sys.stderr.isatty()
    last = time.monotonic()

    def show(done: int, total: int | None = None) -> None:
        nonlocal last
        count = f"{done}" if total is None else f"{done}/{total}"
        if live:
            print(f"\r{count} {what}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            print(f"{count} {what}", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
