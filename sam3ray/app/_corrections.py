"""Corrections in words, as Review lists them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_LAST = 2**31 - 1  # of a range without an end

_WORDS = {
    "rename": "{object} is “{label}”",
    "set_id": "{object} becomes {to}",
    "swap": "{object} and {other} swapped",
    "merge": "{other} merged into {object}",
    "split": "{object} is {to} from frame {frame}",
    "delete": "{object} deleted",
    "add": "{object} added",
    "replace_mask": "new mask of {object}",
    "accept": "accepted",
}


def in_words(operations: Iterable[Mapping[str, Any]]) -> str:
    """Args: operations: as JSON (`operation_as_json`)."""
    return "; ".join(_sentence(each) for each in operations)


def _sentence(operation: Mapping[str, Any]) -> str:
    if operation["op"] == "revert":
        return f"undoes {', '.join(map(str, operation['entries']))}"
    said = _WORDS[operation["op"]].format_map(operation)
    if not operation.get("frames"):
        return said
    first, last = operation["frames"]
    if first == last:
        return f"{said} on frame {first}"
    return f"{said} from frame {first}" if last >= _LAST else f"{said} on frames {first} to {last}"
