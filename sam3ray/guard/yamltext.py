"""Explains errors in YAML to people who write it, instead of in the parser's words."""

from __future__ import annotations

import yaml

_PARSER_SAYS = {
    "'\\t'": "a line begins with a tab; indent with spaces",
    "quoted scalar": "a quote is not closed",
    "flow sequence": "a list in [ ] is not closed, or a comma is missing",
    "flow mapping": "a mapping in { } is not closed, or a comma is missing",
    "flow node": "a [ or { is not closed",
    "mapping values are not allowed here": "there is a second ':' on the line; put the value in quotes, or indent it",
    "could not find expected ':'": "a key is not followed by ':'",
    "expected <block end>": "its indentation does not match the lines above",
    "cannot start any token": "a value begins with a character that YAML reserves; put the value in quotes",
}


def line_of(error: yaml.YAMLError) -> int | None:
    """The line, from 1, on which the parser stopped."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return None if mark is None else mark.line + 1


def joined(text: str) -> str:
    """The text with its surrogate pairs as characters.

    JSON, which is YAML, writes a character beyond U+FFFF as two escapes. The parser leaves them as two halves.

    Raises:
        UnicodeDecodeError: half of a pair stands alone.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def why_not_yaml(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        code = error.character if isinstance(error.character, int) else ord(error.character)
        return f"it contains the character U+{code:04X}, which YAML does not allow; remove it"
    problem = str(getattr(error, "problem", None) or "")
    said = f"{getattr(error, 'context', None) or ''} {problem}"
    for words, meaning in _PARSER_SAYS.items():
        if words in said:
            return meaning
    if "constructor for the tag" in said:
        return "a value has an unknown tag; remove what begins with '!'"
    return f"its syntax is wrong ({problem or type(error).__name__})"
