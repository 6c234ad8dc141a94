"""Text of strangers on its way to a terminal, a log, a page or a picture: all of it goes through here.

File names, labels, what a server says and what a library quotes may hold escape sequences that repaint a terminal,
marks that turn the direction of writing round, or halves of characters that cannot be encoded at all. Nothing is
dropped: what is not plainly visible is shown as an escape, such as `\\x1b` or `\\u202e`.
"""

from __future__ import annotations

import json
import re
from typing import Any

# Not a line feed, which JSON has between values and never within them.
_HIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\uffff\U00010000-\U0010ffff]")


# Within words of Persian or Hindi and within an emoji these join letters or keep them apart: no word without them.
_JOINERS = re.compile("(?<=[^\x00-\u024f])[\u200c\u200d](?=[^\x00-\u024f])")


def printable(text: str) -> str:
    """The text on one line, all that is not plainly visible in it as escapes."""
    if text.isprintable():
        return text
    kept = {found.start() for found in _JOINERS.finditer(text)}
    return "".join(
        c if c.isprintable() or i in kept else c.encode("unicode_escape", "surrogatepass").decode()
        for i, c in enumerate(text)
    )


def printable_lines(text: str) -> str:
    """Likewise, its lines kept: tracebacks."""
    return "\n".join(printable(line.replace("\t", "    ")) for line in text.split("\n"))


def json_text(data: Any, indent: int | None = None) -> str:
    """JSON whose characters are all plainly visible; it stands for exactly the same data."""
    return _HIDDEN.sub(_as_json_escape, json.dumps(data, indent=indent, ensure_ascii=False, default=str))


def _as_json_escape(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else json.dumps(character)[1:-1].replace("\x7f", "\\u007f")
