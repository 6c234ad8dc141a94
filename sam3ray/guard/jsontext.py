"""Parses untrusted JSON: returns a value, or raises a ValueError that says what is wrong with the text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MAX_BYTES = 64 * 2**20

_MEANINGS = {
    "Expecting value": "a value is missing",
    "Expecting ',' delimiter": "a comma or a closing bracket is missing",
    "Expecting ':' delimiter": "a colon is missing",
    "Expecting property name enclosed in double quotes": "a key in double quotes is missing",
    "Unterminated string starting at": "a quote is not closed",
    "Extra data": "something follows the value",
    "Invalid control character at": "a text contains a control character",
    "Invalid \\escape": "a backslash is followed by a wrong character",
    "Invalid \\uXXXX escape": "\\u is not followed by four hexadecimal digits",
    "Illegal trailing comma before end of": "a comma is not followed by a value",
    "Unexpected UTF-8 BOM": "it begins with a byte order mark",
}


def parse_json(
    data: bytes | str,
    max_bytes: int = MAX_BYTES,
    *,
    constant: Callable[[str], Any] | None = None,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """The value of the text.

    Args:
        constant: called with NaN, Infinity or -Infinity, which Python accepts but JSON does not have.
        pairs: makes each object from its keys and values.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or is larger than `max_bytes`. The message follows "...
            is not JSON: ".
    """
    if len(data) > max_bytes:
        raise ValueError(f"it has {len(data)} bytes; allowed: at most {max_bytes}")
    try:
        return json.loads(data, parse_constant=constant, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise ValueError(why_not_json(error)) from None


def why_not_json(error: ValueError | RecursionError) -> str:
    """Explains the decoder's error, with its place."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    if not isinstance(error, json.JSONDecodeError):  # of `constant` or `pairs`, or a number beyond Python's limit
        return "a number has thousands of digits" if "set_int_max_str_digits" in str(error) else str(error)
    if not error.doc.strip():
        return "it is empty"
    if error.pos >= len(error.doc.rstrip()):
        return f"it ends too early, at line {error.lineno}, column {error.colno}"
    meaning = next((words for said, words in _MEANINGS.items() if error.msg.startswith(said)), error.msg)
    return f"{meaning} at line {error.lineno}, column {error.colno}"


def no_constant(text: str) -> Any:
    """For `constant`: rejects NaN and infinities."""
    raise ValueError(f"{text} is not a number in JSON")
