"""Checks text prompts as people write them: lists of noun phrases."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from sam3ray.failures import UserError

MAX_PHRASE_CHARS = 256  # the text encoder reads 32 tokens, which rarely have more than 8 letters
MAX_PHRASES = 256  # in one clip


def split_phrases(text: str) -> tuple[str, ...]:
    """Splits a text into phrases at `;`. Empty parts, as after a trailing `;`, are dropped."""
    return tuple(phrase for part in text.split(";") if (phrase := part.strip()))


def as_phrases(value: Any, name: str = "prompts") -> tuple[str, ...]:
    """Phrases from a caller of the Python API: a list, or a text, which is one phrase.

    Raises:
        UserError: it is neither, or a phrase is invalid.
    """
    if isinstance(value, str):
        phrases = split_phrases(value)
        if not phrases:
            raise UserError(f"{name} is {value!r}; allowed: a phrase, or a list such as ['person', 'red car']")
    elif isinstance(value, Iterable) and not isinstance(value, bytes | dict | set | frozenset):
        given = tuple(value)
        if wrong := [each for each in given if not isinstance(each, str)]:
            raise UserError(f"{name} holds {wrong[0]!r:.80}; allowed: phrases, such as ['person', 'red car']")
        phrases = tuple(each.strip() for each in given)
    else:
        raise UserError(f"{name} is {value!r:.80}; allowed: a phrase, or a list such as ['person', 'red car']")
    if problem := phrases_problem(phrases):
        raise UserError(f"{name} {problem}")
    return phrases


def as_names(value: Any, name: str) -> tuple[str, ...] | None:
    """Ids or labels that select some of many: a list, or a text, which is a single one; None selects all.

    Raises:
        UserError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return (value,)
    given = tuple(value) if isinstance(value, Iterable) and not isinstance(value, bytes | dict) else (value,)
    if wrong := [each for each in given if not isinstance(each, str)]:
        raise UserError(f"{name} holds {wrong[0]!r:.80}; allowed: text, or a list of texts")
    return given


def label_problem(label: Any) -> str | None:
    """What is wrong with the label of an object, as "is ...; allowed: ...", or None.

    Every phrase is also a valid label, since rows have phrases as labels.
    """
    allowed = f"allowed: one line of 1 to {MAX_PHRASE_CHARS} characters"
    if not isinstance(label, str) or not label.strip():
        return f"is {label!r:.80}; {allowed}"
    if len(label) > MAX_PHRASE_CHARS:
        return f"has {len(label)} characters, {label[:40]!r}...; {allowed}"
    if _has_control(label):
        return f"is {label!r:.120}, with a control character; {allowed}"
    return None


def _has_control(text: str) -> bool:
    return any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text)


def comma_warning(text: object) -> str | None:
    """Why a text with commas may not mean what its author wants; None if there is no doubt.

    `prompts: person, car` is one phrase in YAML, and so is a cell `person, car` of a CSV file.
    """
    if not isinstance(text, str) or "," not in text or ";" in text:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) < 2:
        return None
    return f"{text!r:.120} is one phrase; for {len(parts)} phrases write {'; '.join(parts)!r:.200}, or a list"


def phrases_problem(phrases: Sequence[str]) -> str | None:
    """What is wrong with these trimmed phrases, as "is ...; allowed: ...", or None."""
    if len(phrases) > MAX_PHRASES:
        return f"holds {len(phrases)} phrases; allowed: at most {MAX_PHRASES}"
    seen: dict[str, str] = {}
    for phrase in phrases:
        if not phrase:
            return "holds an empty phrase; allowed: phrases such as 'red car'"
        if len(phrase) > MAX_PHRASE_CHARS:
            return (
                f"holds a phrase of {len(phrase)} characters, {phrase[:40]!r}...; allowed: at most {MAX_PHRASE_CHARS}"
            )
        if _has_control(phrase):
            return f"holds a control character in {phrase!r}; allowed: one line of text"
        # The tokenizer lowers case and joins white space, so these would be the same prompt twice.
        same = " ".join(phrase.lower().split())
        if same in seen:
            return f"holds the same phrase twice, {seen[same]!r} and {phrase!r}; allowed: each once"
        seen[same] = phrase
    return None
