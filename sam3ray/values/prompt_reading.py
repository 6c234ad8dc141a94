"""Reads visual prompts from JSON or from the rows of a table. Checks every field, but needs no video."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from sam3ray.guard.addresses import AddressError, one_form
from sam3ray.guard.jsontext import no_constant, parse_json
from sam3ray.guard.redact import redact
from sam3ray.guard.secrets import has_password
from sam3ray.masks import rle_area
from sam3ray.values.prompts import UNRESOLVED, BoxPrompt, MaskPrompt, PointPrompt, Units, VisualPrompt

KEYS = ("object_id", "label", "frame", "time_s", "units", "points", "labels", "box", "mask")
MAX_ITEMS = 10_000  # per clip
MAX_POINTS = 1_000  # per item
MAX_COORDINATE = 1e6
MAX_OBJECT_ID = 2**31 - 1
MAX_LABEL_CHARS = 256
_CLICKS: dict[Any, bool] = {1: True, 0: False, "positive": True, "negative": False}  # true and false equal 1 and 0


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt as written. Its object may be named by a label only.

    `shapes` are prompts with `object_id` 0, which is filled in once all items of the clip are known.
    """

    object_id: int | None
    label: str | None
    shapes: tuple[VisualPrompt, ...]
    place: str


_CLICKED = "1 (part of the object) or 0 (not part of it)"


class WrongField(ValueError):
    """One bad field: " .points[2] is ...; allowed: ..."."""


def parse_visual_prompts(value: Any, *, refines: bool = False) -> tuple[tuple[VisualPrompt, ...], list[str]]:
    """The prompts of one clip, from JSON text or a parsed list.

    Returns the prompts and their problems, sentences that begin with the place in the value, as in "[2].box is".

    Args:
        refines: the objects exist already, so that all clicks may be negative.
    """
    entries, problem = listed(value, "prompts", MAX_ITEMS)
    if problem:
        return (), [problem]
    items, wrong = [], []
    for i, entry in enumerate(entries):
        try:
            items.append(parse_item(entry, f"[{i}]"))
        except ValueError as error:
            wrong.append(f"[{i}]{error}")
    if wrong:
        return (), wrong
    return assemble(items, refines=refines)


def listed(value: Any, what: str, most: int) -> tuple[list[Any], str]:
    """The entries of a list or of its JSON text; and its problem, as " is ...; allowed: ..."."""
    if isinstance(value, str):
        if not value.strip():
            return [], ""
        try:
            value = parse_json(value, constant=no_constant, pairs=_once)
        except ValueError as error:
            return [], f" is not JSON: {error}"
    if not isinstance(value, list):
        return [], f" is {shown_value(value)}; allowed: a list of {what}"
    if len(value) > most:
        return [], f" has {len(value)} {what}; allowed: at most {most}"
    return value, ""


def parse_item(entry: Any, place: str) -> Item:
    """One prompt.

    Raises:
        ValueError: its first problem, beginning with the field: ".box is ...; allowed: ...".
    """
    if not isinstance(entry, Mapping):
        raise WrongField(f" is {shown_value(entry)}; allowed: a mapping with keys such as object_id, frame and points")
    fields = known_fields(entry, KEYS)
    object_id, label = _object(fields)
    frame_index, time_s = frame_of(fields)
    units = units_of(fields, ("points", "box"))
    at: dict[str, Any] = {"frame_index": frame_index, "object_id": 0, "label": "", "time_s": time_s}
    shapes: list[VisualPrompt] = []
    if "box" in fields:
        shapes.append(BoxPrompt(box_of(fields["box"], units), units=units, **at))
    if "points" in fields:
        points = _points(fields["points"], units)
        shapes.append(
            PointPrompt(points, signs_of(fields.get("labels"), len(points), "point", _CLICKED), units=units, **at)
        )
    elif "labels" in fields:
        raise WrongField(".labels is given without points; allowed: both, one label per point")
    if "mask" in fields:
        if shapes:
            raise WrongField(" has a mask beside points or a box; allowed: a mask alone (refine it on another frame)")
        shapes.append(_mask(fields["mask"], at))
    if not shapes:
        raise WrongField(" has no points, box or mask; allowed: points, a box, both, or a mask")
    return Item(object_id, label, tuple(shapes), place)


def known_fields(entry: Mapping[Any, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The given fields of an entry. null counts as absent."""
    fields = {key: value for key, value in entry.items() if value is not None}
    for key in fields:
        if key not in keys:
            close = difflib.get_close_matches(str(key), keys, n=1, cutoff=0.0)
            raise WrongField(f"{_field(key)} is not a known key; the nearest is {close[0]}; allowed: {', '.join(keys)}")
    return fields


def assemble(items: Sequence[Item], *, refines: bool = False) -> tuple[tuple[VisualPrompt, ...], list[str]]:
    """Gives each item its object, by id, or by label if it has no id. A new label gets the next free id."""
    wrong: list[str] = []
    label_of: dict[int, str] = {}
    ids_of: dict[str, list[int]] = {}
    for item in items:
        if item.object_id is None or item.label is None:
            continue
        earlier = label_of.setdefault(item.object_id, item.label)
        if earlier != item.label:
            wrong.append(
                f"{item.place}.label is {item.label!r}, but object {item.object_id} is {earlier!r} elsewhere; "
                "allowed: one label per object"
            )
        elif item.object_id not in ids_of.setdefault(item.label, []):
            ids_of[item.label].append(item.object_id)
    used = {item.object_id for item in items if item.object_id is not None}
    following = 1
    prompts: list[VisualPrompt] = []
    positive: dict[int, bool] = {}
    for item in items:
        object_id = item.object_id
        if object_id is None:
            assert item.label is not None
            same = ids_of.get(item.label, [])
            if len(same) > 1:
                wrong.append(
                    f"{item.place} has label {item.label!r} of objects {same}; allowed: an object_id beside it"
                )
                continue
            if not same:
                while following in used:
                    following += 1
                used.add(following)
                same = ids_of[item.label] = [following]
                label_of[following] = item.label
            object_id = same[0]
        label = label_of.get(object_id) or f"object {object_id}"
        for shape in item.shapes:
            positive[object_id] = (
                positive.get(object_id, False) or not isinstance(shape, PointPrompt) or any(shape.labels)
            )
            prompts.append(_of_object(shape, object_id, label))
    for object_id, defined in positive.items():
        if not (defined or refines):
            name = f"object {object_id}" + (f" ({label_of[object_id]!r})" if object_id in label_of else "")
            wrong.append(f": {name} has only negative clicks; allowed: at least one positive click, box or mask")
    return tuple(prompts), wrong


def _of_object(shape: VisualPrompt, object_id: int, label: str) -> VisualPrompt:
    return replace(shape, object_id=object_id, label=label)


def _object(fields: Mapping[str, Any]) -> tuple[int | None, str | None]:
    object_id = _whole(fields.get("object_id"))
    if object_id is not None and (not _is_int(object_id) or not 1 <= object_id <= MAX_OBJECT_ID):
        raise WrongField(f".object_id is {shown_value(object_id)}; allowed: a whole number from 1 to {MAX_OBJECT_ID}")
    label = label_of(fields)
    if object_id is None and label is None:
        raise WrongField(" names no object; allowed: an object_id, a label, or both")
    return (None if object_id is None else int(object_id)), label


def label_of(fields: Mapping[str, Any]) -> str | None:
    label = fields.get("label")
    if label is None:
        return None
    if not isinstance(label, str) or not label.strip() or len(label) > MAX_LABEL_CHARS or not label.isprintable():
        raise WrongField(
            f".label is {shown_value(label)}; allowed: one line of text, at most {MAX_LABEL_CHARS} characters"
        )
    return label.strip()


def frame_of(fields: Mapping[str, Any]) -> tuple[int, float | None]:
    frame, time_s = _whole(fields.get("frame")), fields.get("time_s")
    if (frame is None) == (time_s is None):
        given = "both frame and time_s" if frame is not None else "neither frame nor time_s"
        raise WrongField(f" has {given}; allowed: one of them")
    if frame is not None:
        if not _is_int(frame) or not 0 <= frame <= MAX_OBJECT_ID:
            raise WrongField(
                f".frame is {shown_value(frame)}; allowed: a whole number from 0, counted in the source video"
            )
        return int(frame), None
    if not _is_number(time_s) or not 0 <= time_s <= 1e9:
        raise WrongField(f".time_s is {shown_value(time_s)}; allowed: seconds from the video's start, a number from 0")
    return UNRESOLVED, float(time_s)


def units_of(fields: Mapping[str, Any], wanted_by: Sequence[str]) -> Units:
    units = fields.get("units")
    if units is None and not any(key in fields for key in wanted_by):
        return "pixels"
    if units is None:
        raise WrongField(" has no units; allowed: 'pixels' or 'relative' (fractions of width and height)")
    if units not in ("pixels", "relative"):
        raise WrongField(
            f".units is {shown_value(units)}; allowed: 'pixels' or 'relative' (fractions of width and height)"
        )
    return "pixels" if units == "pixels" else "relative"


def _points(value: Any, units: Units) -> tuple[tuple[float, float], ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_POINTS:
        raise WrongField(f".points is {shown_value(value)}; allowed: a list of 1 to {MAX_POINTS} [x, y]")
    points = []
    for i, point in enumerate(value):
        if not isinstance(point, list | tuple) or len(point) != 2 or not all(_is_coordinate(v, units) for v in point):
            raise WrongField(f".points[{i}] is {shown_value(point)}; allowed: [x, y], {_coordinates(units)}")
        points.append((float(point[0]), float(point[1])))
    return tuple(points)


def signs_of(value: Any, count: int, each: str, meaning: str) -> tuple[bool, ...]:
    """One label for each of `count` points or boxes; all positive if no labels are given."""
    if value is None:
        return (True,) * count
    if not isinstance(value, list | tuple) or len(value) != count:
        raise WrongField(f".labels is {shown_value(value)}; allowed: a list of {count}, one per {each}")
    for i, label in enumerate(value):
        if not isinstance(label, int | float | str) or label not in _CLICKS:
            raise WrongField(f".labels[{i}] is {shown_value(label)}; allowed: {meaning}")
    return tuple(_CLICKS[label] for label in value)


def box_of(value: Any, units: Units, field: str = ".box") -> tuple[float, float, float, float]:
    if not isinstance(value, list | tuple) or len(value) != 4 or not all(_is_coordinate(v, units) for v in value):
        raise WrongField(f"{field} is {shown_value(value)}; allowed: [xmin, ymin, xmax, ymax], {_coordinates(units)}")
    xmin, ymin, xmax, ymax = map(float, value)
    if xmin >= xmax or ymin >= ymax:
        raise WrongField(
            f"{field} is {shown_value(value)}; allowed: [xmin, ymin, xmax, ymax] with xmin < xmax and ymin < ymax"
        )
    return xmin, ymin, xmax, ymax


def _mask(value: Any, at: Mapping[str, Any]) -> MaskPrompt:
    wanted = 'a COCO compressed RLE {"size": [height, width], "counts": "..."} or {"png": address}'
    fields = {k: v for k, v in value.items() if v is not None} if isinstance(value, Mapping) else {}
    sha256 = fields.pop("sha256", "")  # in a run's frozen manifest
    if set(fields) == {"png"} and isinstance(fields["png"], str) and fields["png"].strip():
        if not isinstance(sha256, str) or not re.fullmatch(r"([0-9a-f]{64})?", sha256):
            raise WrongField(f".mask.sha256 is {shown_value(sha256)}; allowed: 64 of 0-9 a-f, the digest of the file")
        png = fields["png"].strip()
        if has_password(png):
            raise WrongField(".mask.png has user and password in its address; set them in the environment instead")
        try:
            return MaskPrompt("", 0, 0, png=one_form(png), sha256=sha256, **at)
        except AddressError as error:
            raise WrongField(f".mask.png {redact(shown_value(png))} {error}") from None
    size, counts = fields.get("size"), fields.get("counts")
    if (
        sha256
        or set(fields) != {"size", "counts"}
        or not isinstance(counts, str)
        or not isinstance(size, list | tuple)
        or len(size) != 2
        or not all(_is_int(side) and 1 <= side <= 65_536 for side in size)
    ):
        raise WrongField(f".mask is {shown_value(value)}; allowed: {wanted}")
    height, width = map(int, size)
    try:
        area = rle_area(counts, height, width)
    except ValueError as error:
        raise WrongField(f".mask cannot be decoded: {error}; allowed: {wanted}") from error
    if area == 0:
        raise WrongField(".mask is empty; allowed: a mask of at least one pixel")
    return MaskPrompt(counts, height, width, **at)


def _whole(value: Any) -> Any:
    """Turns 3.0 into 3, since tables store whole numbers as floats if a column has gaps."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, int):  # a number in JSON may have thousands of digits
        return not isinstance(value, bool) and -1e300 < value < 1e300
    return isinstance(value, float) and math.isfinite(value)


def _is_coordinate(value: Any, units: Units) -> bool:
    return _is_number(value) and 0 <= value <= (1 if units == "relative" else MAX_COORDINATE)


def _coordinates(units: Units) -> str:
    return "fractions from 0 to 1" if units == "relative" else "pixels from 0"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twice := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        raise ValueError(f"the key {twice[0]!r} appears twice")
    return dict(pairs)


def _field(key: Any) -> str:
    return (
        f".{key}"
        if isinstance(key, str) and len(key) <= 40 and key.isprintable()
        else f" has the key {shown_value(key)}, which"
    )


def shown_value(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 80 else f"{text[:77]}..."
