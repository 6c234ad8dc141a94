"""Makes untrusted text safe for a terminal, a log, a page or a picture. All such text goes through here.

File names, labels, messages of servers and quotes of libraries may contain escape sequences that repaint a terminal,
marks that reverse the direction of writing, or halves of characters that cannot be encoded. Nothing is dropped:
characters that are not plainly visible are shown as escapes, such as `\\x1b` or `\\u202e`.
"""

from __future__ import annotations

import json
import re
from typing import Any

# Not a line feed, which in JSON is between values, never within them.
_HIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\uffff\U00010000-\U0010ffff]")


# Words in Persian or Hindi, and emoji, need these to join letters or keep them apart.
_JOINERS = re.compile("(?<=[^\x00-\u024f])[\u200c\u200d](?=[^\x00-\u024f])")


def printable(text: str) -> str:
    """The text on one line, with escapes for everything that is not plainly visible."""
    if text.isprintable():
        return text
    kept = {found.start() for found in _JOINERS.finditer(text)}
    return "".join(
        c if c.isprintable() or i in kept else c.encode("unicode_escape", "surrogatepass").decode()
        for i, c in enumerate(text)
    )


def printable_lines(text: str) -> str:
    """The same, but keeping lines, for tracebacks."""
    return "\n".join(printable(line.replace("\t", "    ")) for line in text.split("\n"))


def json_text(data: Any, indent: int | None = None) -> str:
    """JSON for exactly the same data, in which all characters are plainly visible."""
    return _HIDDEN.sub(_as_json_escape, json.dumps(data, indent=indent, ensure_ascii=False, default=str))


def _as_json_escape(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else json.dumps(character)[1:-1].replace("\x7f", "\\u007f")
