"""Describes the allowed values of each configuration key, for messages and the reference page. Uses the models."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

Key = tuple[str, ...]


def walk(model: type[BaseModel], prefix: Key = ()) -> Iterator[tuple[Key, FieldInfo]]:
    """Every key with its field, in the order of the models. A section comes before its keys."""
    for name, info in model.model_fields.items():
        yield (*prefix, name), info
        if (section := _section(info)) is not None:
            yield from walk(section, (*prefix, name))


def known_keys(model: type[BaseModel]) -> list[Key]:
    return [key for key, _ in walk(model)]


def field_at(path: Key, model: type[BaseModel]) -> FieldInfo | None:
    """The field of this key, or, for an item of a list, of the nearest key above it."""
    fields = dict(walk(model))
    while path and path not in fields:
        path = path[:-1]
    return fields.get(path)


def section_at(path: Key, model: type[BaseModel]) -> type[BaseModel]:
    """The section of a model that is at this key; () is the model itself."""
    info = field_at(path, model)
    return (_section(info) if info is not None else None) or model


def allowed(info: FieldInfo | None) -> str:
    """A field's allowed values in words: "a number from 0 to 1, or null"."""
    if info is None:
        return "a mapping of keys"
    options = [o for o in _options(info.annotation) if o is not types.NoneType]
    nullable = len(options) < len(_options(info.annotation))
    words = " or ".join(_words(option, info) for option in options)
    return f"{words}, or null" if nullable else words


def _section(info: FieldInfo) -> type[BaseModel] | None:
    annotation = info.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _options(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return list(typing.get_args(annotation))
    return [annotation]


def _words(option: Any, info: FieldInfo) -> str:
    origin = typing.get_origin(option)
    if origin is Literal:
        values = [repr(value) for value in typing.get_args(option)]
        return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"
    if option is bool:
        return "true or false"
    if option is int or option is float:
        return ("a whole number" if option is int else "a number") + _range(info)
    if option is str:
        return _pattern_words(info) or "text, not empty"
    if option == tuple[dict[str, Any], ...]:
        return "a list of exemplars, such as [{label: bolt, frame: 0, units: pixels, boxes: [[10, 20, 50, 60]]}]"
    if origin is tuple:
        return "a list of phrases, such as [person, red car]"
    if isinstance(option, type) and issubclass(option, BaseModel):
        return f"a mapping with the keys {', '.join(option.model_fields)}"
    return "a mapping"


def _pattern_words(info: FieldInfo) -> str | None:
    if any(getattr(item, "pattern", None) for item in info.metadata):
        return "'auto', 'cpu', 'cuda' or one GPU such as 'cuda:0'"
    return None


def _range(info: FieldInfo) -> str:
    low = next((f"from {_number(m.ge)}" for m in info.metadata if isinstance(m, annotated_types.Ge)), "")
    low = low or next((f"above {_number(m.gt)}" for m in info.metadata if isinstance(m, annotated_types.Gt)), "")
    high = next((f"to {_number(m.le)}" for m in info.metadata if isinstance(m, annotated_types.Le)), "")
    if high and low.startswith("above"):
        high = f"up {high}"
    if low.startswith("from") and not high:
        low = low.replace("from", "of at least")
    return "".join(f" {part}" for part in (low, high) if part)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
