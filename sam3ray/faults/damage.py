"""Explains why pydantic rejects a file of ours, in a reader's words instead of pydantic's."""

from __future__ import annotations

from pydantic import ValidationError

_MOST = 80  # characters of a place, because its keys come from the file


def damage(error: ValidationError) -> str:
    """The first problem: its place in the file, and what it is."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where, kind = ".".join(map(str, problem["loc"]))[:_MOST], problem["type"]
    if kind == "json_invalid":
        return "it is not JSON, or not all of it"
    if kind in ("value_error", "assertion_error"):  # the sentence of a check of ours
        said = str(problem["ctx"]["error"])
        return f"{where}: {said}" if where else said
    if not where:
        return "it does not have the form of such a file"
    if kind in ("missing", "missing_argument"):
        return f"{where} is missing"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{where} does not belong there"
    return f"{where} has a value that is not allowed there"
