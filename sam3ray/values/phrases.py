"""Text prompts as people write them: lists of noun phrases."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

MAX_PHRASE_CHARS = 256  # the text encoder reads 32 tokens, of rarely more than 8 letters
MAX_PHRASES = 256  # in one clip


def split_phrases(text: str) -> tuple[str, ...]:
    """Phrases of one text, separated by `;`. Empty parts (a trailing `;`) are no phrases."""
    return tuple(phrase for part in text.split(";") if (phrase := part.strip()))


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
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in phrase):
            return f"holds a control character in {phrase!r}; allowed: one line of text"
        # The tokenizer lowers case and joins white space, so these would be the same prompt twice.
        same = " ".join(phrase.lower().split())
        if same in seen:
            return f"holds the same phrase twice, {seen[same]!r} and {phrase!r}; allowed: each once"
        seen[same] = phrase
    return None
