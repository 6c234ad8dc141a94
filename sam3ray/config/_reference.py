"""Makes the tables of all configuration keys in `docs/configuration.md`.

`python -m sam3ray.config._reference docs/configuration.md` writes them there, between the markers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sam3ray.config._fields import allowed, walk
from sam3ray.config._models import JobConfig

BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"


def key_tables() -> str:
    """Markdown: one table per section, every key with its default, what is allowed and what it means."""
    sections: dict[tuple[str, ...], list[str]] = {(): []}
    titles: dict[tuple[str, ...], str] = {}
    for key, info in walk(JobConfig):
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            sections[key] = []
            titles[key] = info.description or ""
        else:
            sections[key[:-1]].append(_row(key, info))
    parts = []
    for section, rows in sections.items():
        title = f"`{'.'.join(section)}`: {titles[section]}" if section else "Top level"
        head = "| key | default | allowed | meaning |\n| --- | --- | --- | --- |"
        if rows:
            parts.append("\n".join([f"### {title}", "", head, *rows]))
    return "\n\n".join(parts)


def with_tables(page: str) -> str:
    """The page with new tables between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page lacks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{key_tables()}\n{END}{after}"


def _row(key: tuple[str, ...], info: FieldInfo) -> str:
    default = "required" if info.is_required() else f"`{_shown(info.get_default(call_default_factory=True))}`"
    cells = [f"`{'.'.join(key)}`", default, allowed(info), info.description or ""]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shown(value: Any) -> str:
    if isinstance(value, float) and value == int(value):
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text()))
