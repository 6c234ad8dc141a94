"""Reads untrusted YAML: plain data only, within limits, with the line of every key."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from sam3ray.guard.yamltext import joined, line_of, why_not_yaml

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16
MAX_NODES = 100_000
_LARGEST = 10**100
_HALF = "has half of a surrogate pair; write the character itself"

Path = tuple[str, ...]


@dataclass
class Document:
    """A parsed mapping.

    Attributes:
        data: nested dicts, lists and scalars.
        lines: the line of each key, from 1, by the key's path.
        problems: one sentence each. `data` lacks only the keys with problems.
    """

    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class _Loader(yaml.SafeLoader):
    """SafeLoader, except that `1e3` is a number, as in YAML 1.2, and dates stay text."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_document(text: str, name: str) -> Document:
    """Parses a YAML mapping. Never raises, but lists `problems`.

    Rejects anchors and aliases (a few lines of them can expand to gigabytes), keys given twice, tags of Python objects,
    and documents that are too deep or too large.
    """
    document = Document()
    node = _compose(text, name, document.problems)
    if node is None:
        if not document.problems:
            document.problems.append(f"{name} is empty; allowed: a mapping of keys such as `manifest:` and `output:`")
        return document
    if not isinstance(node, yaml.MappingNode):
        document.problems.append(f"{name} is not a mapping; allowed: keys such as `manifest:` and `output:`")
        return document
    document.data = _build(node, (), name, document)
    return document


def parse_value(text: str, name: str) -> tuple[Any, list[str]]:
    """Parses one YAML value from the command line. Returns the value and its problems."""
    document = Document()
    node = _compose(text, name, document.problems)
    return (None if node is None else _build(node, (), name, document)), document.problems


def _compose(text: str, name: str, problems: list[str]) -> yaml.Node | None:
    if len(text) > MAX_BYTES:
        problems.append(f"{name} has {len(text)} characters; allowed: at most {MAX_BYTES}")
        return None
    try:
        # The event stream is checked first, without recursion, since composing recurses as deep as the text nests.
        depth = nodes = 0
        for event in yaml.parse(text, Loader=_Loader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                problems.append(
                    f"{name} line {line}: anchors and aliases (& and *) are not allowed; write the value out"
                )
                return None
            nodes += isinstance(event, yaml.NodeEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH or nodes > MAX_NODES:
                problems.append(f"{name} line {line}: nested deeper than {MAX_DEPTH} or over {MAX_NODES} values")
                return None
        return yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        where = line_of(error)
        problems.append(f"{name}{f' line {where}' if where else ''}: not YAML: {why_not_yaml(error)}")
    return None


def _build(node: yaml.Node, path: Path, name: str, document: Document) -> Any:
    if isinstance(node, yaml.MappingNode):
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                document.problems.append(f"{name} line {line}: a key must be plain text")
                continue
            try:
                key = joined(key_node.value)  # as written, so that `on:` and `1:` stay text
            except UnicodeDecodeError:
                document.problems.append(f"{name} line {line}: the key {key_node.value[:80]!r} {_HALF}")
                continue
            if key in data:
                first = document.lines[(*path, key)]
                document.problems.append(
                    f"{name} line {line}: {'.'.join((*path, key))} appears twice, first on line {first}"
                )
                continue
            document.lines[(*path, key)] = line
            data[key] = _build(value_node, (*path, key), name, document)
        return data
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, str(i)), name, document) for i, item in enumerate(node.value)]
    if node.tag == "tag:yaml.org,2002:timestamp":
        return node.value
    try:
        value = yaml.SafeLoader("").construct_object(node)
        if isinstance(value, str):
            return joined(value)
        if not isinstance(value, int) or abs(value) <= _LARGEST:
            return value
        reason = "the number is too large"  # `0x` and thousands of digits, too many to show
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, KeyError) as error:
        if isinstance(error, UnicodeDecodeError):
            reason = f"{node.value[:80]!r} {_HALF}"
        elif isinstance(error, yaml.YAMLError):
            reason = why_not_yaml(error)
        elif "set_int_max_str_digits" in str(error):
            reason = "the number is too large"
        else:  # `!!int x`, `0x`
            reason = f"{node.value[:40]!r} is not a value of the type {node.tag.rpartition(':')[2]}; put it in quotes"
    line = node.start_mark.line + 1
    document.problems.append(f"{name} line {line}: {'.'.join(path) or 'value'} cannot be read: {reason}")
    return None
