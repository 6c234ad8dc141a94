"""Exemplars: their JSON form, their names, and their checks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sam3ray.values.phrases import MAX_PHRASES, phrases_problem
from sam3ray.values.prompt_reading import (
    MAX_LABEL_CHARS,
    WrongField,
    box_of,
    frame_of,
    known_fields,
    label_of,
    listed,
    shown_value,
    signs_of,
    units_of,
)
from sam3ray.values.prompts import UNRESOLVED, ExemplarPrompt

KEYS = ("phrase", "label", "frame", "time_s", "units", "boxes", "labels")
MAX_EXEMPLARS = 256  # exemplars of a clip
MAX_BOXES = 64  # boxes of an exemplar: each is a token of the detector
_SIGNS = "1 (an instance) or 0 (not an instance)"


def parse_exemplars(value: Any) -> tuple[tuple[ExemplarPrompt, ...], list[str]]:
    """The exemplars of one clip, from JSON text or a parsed list, each with a phrase or a label.

    Returns the exemplars and their problems, sentences that begin with the place in the value, as in "[2].boxes".
    """
    entries, problem = listed(value, "exemplars", MAX_EXEMPLARS)
    if problem:
        return (), [problem]
    found, wrong = [], []
    for i, entry in enumerate(entries):
        try:
            found.append(parse_exemplar(entry))
        except WrongField as error:
            wrong.append(f"[{i}]{error}")
    return ((), wrong) if wrong else (named_exemplars(found), [])


def parse_exemplar(entry: Any) -> ExemplarPrompt:
    """Reads one exemplar, which may lack a name.

    Raises:
        ValueError: its first problem, beginning with the field: ".boxes is ...; allowed: ...".
    """
    if not isinstance(entry, Mapping):
        raise WrongField(f" is {shown_value(entry)}; allowed: a mapping with keys such as label, frame and boxes")
    fields = known_fields(entry, KEYS)
    phrase = fields.get("phrase", "")
    if "phrase" in fields:
        if not isinstance(phrase, str) or not phrase.strip():
            raise WrongField(f".phrase is {shown_value(phrase)}; allowed: a phrase such as 'red car'")
        phrase = phrase.strip()
        if problem := phrases_problem((phrase,)):
            raise WrongField(f".phrase {problem}")
    frame_index, time_s = frame_of(fields)
    boxes = fields.get("boxes")
    if boxes is None:
        raise WrongField(f" has no boxes; allowed: a list of 1 to {MAX_BOXES} [xmin, ymin, xmax, ymax]")
    units = units_of(fields, ("boxes",))
    if not isinstance(boxes, list | tuple) or not 1 <= len(boxes) <= MAX_BOXES:
        count = f"a list of {len(boxes)}" if isinstance(boxes, list | tuple) else shown_value(boxes)
        raise WrongField(f".boxes is {count}; allowed: a list of 1 to {MAX_BOXES} [xmin, ymin, xmax, ymax]")
    corners = tuple(box_of(box, units, f".boxes[{i}]") for i, box in enumerate(boxes))
    signs = signs_of(fields.get("labels"), len(boxes), "box", _SIGNS)
    if not phrase and not any(signs):
        raise WrongField(" has only negative boxes; allowed: a positive box beside them, or a phrase")
    return ExemplarPrompt(corners, signs, frame_index, phrase, label_of(fields) or "", time_s, units)


def named_exemplars(exemplars: Iterable[ExemplarPrompt], first: int = 1) -> tuple[ExemplarPrompt, ...]:
    """Labels each exemplar that has neither phrase nor label "exemplar N", where N is its place, from `first`."""
    return tuple(each if each.name else replace(each, label=f"exemplar {n}") for n, each in enumerate(exemplars, first))


def with_exemplar_phrases(
    phrases: Sequence[str], exemplars: Sequence[ExemplarPrompt]
) -> tuple[tuple[str, ...], tuple[ExemplarPrompt, ...], str | None]:
    """The phrases of a clip, those of its exemplars last, and the exemplars with the phrases' spelling.

    The third value is the problem of the combination, as "holds ...; allowed: ...", or None.
    """
    spelled = {_as_read(phrase): phrase for phrase in phrases}
    for each in exemplars:
        if each.phrase:
            spelled.setdefault(_as_read(each.phrase), each.phrase)
    if len(spelled) > MAX_PHRASES:
        return tuple(phrases), tuple(exemplars), f"hold {len(spelled)} phrases; allowed: at most {MAX_PHRASES}"
    for each in exemplars:
        if not each.phrase and _as_read(each.label) in spelled:
            problem = f"holds the label {each.label!r}, which is also a phrase of the clip; "
            return tuple(phrases), tuple(exemplars), f"{problem}allowed: a phrase instead of the label, or another one"
    said = (replace(each, phrase=spelled[_as_read(each.phrase)]) if each.phrase else each for each in exemplars)
    return tuple(spelled.values()), tuple(said), None


def exemplar_items(exemplars: Iterable[ExemplarPrompt]) -> list[dict[str, Any]]:
    """One JSON object per exemplar, in a manifest's form. If the frame is known, it replaces the time."""
    return [_item(each) for each in exemplars]


def _item(each: ExemplarPrompt) -> dict[str, Any]:
    item: dict[str, Any] = {key: value for key, value in (("phrase", each.phrase), ("label", each.label)) if value}
    if each.time_s is not None and each.frame_index == UNRESOLVED:
        item["time_s"] = each.time_s
    else:
        item["frame"] = each.frame_index
    return item | {
        "units": each.units,
        "boxes": [list(box) for box in each.boxes],
        "labels": [int(sign) for sign in each.signs],
    }


def exemplar_problem(each: ExemplarPrompt) -> str | None:
    """The problem of an exemplar made in Python, apart from its frame and the frame's size; None if there is none."""
    if not isinstance(each.boxes, list | tuple) or not 1 <= len(each.boxes) <= MAX_BOXES:
        count = len(each.boxes) if isinstance(each.boxes, list | tuple) else shown_value(each.boxes)
        return f"boxes is {count}; allowed: 1 to {MAX_BOXES} of (xmin, ymin, xmax, ymax)"
    if each.units not in ("pixels", "relative"):
        return f"units is {each.units!r:.40}; allowed: 'pixels' or 'relative'"
    for box in each.boxes:
        try:
            box_of(tuple(map(float, box)), each.units, "a box")
        except WrongField as error:
            return str(error)
        except (TypeError, ValueError):
            return f"a box is {shown_value(box)}; allowed: (xmin, ymin, xmax, ymax)"
    if len(each.signs) != len(each.boxes):
        return f"labels has {len(each.signs)} values for {len(each.boxes)} boxes; allowed: one per box"
    if not each.phrase and not any(each.signs):
        return "all its boxes are negative; allowed: a positive box beside them, or a phrase"
    if not isinstance(each.phrase, str) or not isinstance(each.label, str):
        return f"phrase and label are {each.phrase!r:.40} and {each.label!r:.40}; allowed: text"
    if each.phrase and (problem := phrases_problem((each.phrase.strip(),))):
        return f"phrase {problem}"
    if len(each.label) > MAX_LABEL_CHARS or not each.label.isprintable():
        return f"label is {shown_value(each.label)}; allowed: one line of text, at most {MAX_LABEL_CHARS} characters"
    if each.time_s is not None and not (math.isfinite(each.time_s) and each.time_s >= 0):
        return f"time_s is {each.time_s}; allowed: seconds from the video's start, a number from 0"
    return None


def _as_read(phrase: str) -> str:
    """A phrase as the tokenizer reads it: lower case, one space between words."""
    return " ".join(phrase.lower().split())
