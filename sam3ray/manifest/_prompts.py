"""Reads files of visual prompts or of exemplars: one per row, matched to the clips by `clip_id`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sam3ray.failures import UserError
from sam3ray.files import decode, local_copy, read_bytes, suffix_of
from sam3ray.guard.redact import redact
from sam3ray.manifest._parquet import read_table
from sam3ray.manifest._rows import Problems
from sam3ray.manifest._text import json_objects
from sam3ray.values.exemplars import MAX_EXEMPLARS, named_exemplars, parse_exemplar
from sam3ray.values.prompt_reading import MAX_ITEMS, assemble, parse_item
from sam3ray.values.prompts import ExemplarPrompt, VisualPrompt

if TYPE_CHECKING:
    from sam3ray.manifest._rows import Problems

MAX_BYTES = 2 * 2**30


def read_prompt_file(uri: str, storage_options: Mapping[str, Any]) -> dict[str, tuple[VisualPrompt, ...]]:
    """Reads visual prompts, by clip id. The columns are `clip_id` and the keys of a visual prompt; null means absent.

    Raises:
        UserError: with every bad row.
    """
    prompts: dict[str, tuple[VisualPrompt, ...]] = {}
    with _of_clips(uri, storage_options, "visual_prompts", parse_item) as (name, items, problems):
        for clip_id, of_clip in items.items():
            prompts[clip_id], wrong = assemble(of_clip)
            if len(of_clip) > MAX_ITEMS:
                wrong.append(f" has {len(of_clip)} prompts; allowed: at most {MAX_ITEMS} per clip")
            for sentence in wrong:
                problems.add(sentence if sentence.startswith(name) else f"{name}: clip {clip_id!r}{sentence}")
    return prompts


def read_exemplar_file(uri: str, storage_options: Mapping[str, Any]) -> dict[str, tuple[ExemplarPrompt, ...]]:
    """Reads exemplars, by clip id. The columns are `clip_id` and the keys of an exemplar; null means absent.

    Raises:
        UserError: with every bad row.
    """
    with _of_clips(uri, storage_options, "exemplars", lambda row, _: parse_exemplar(row)) as (name, items, problems):
        for clip_id, of_clip in items.items():
            if len(of_clip) > MAX_EXEMPLARS:
                problems.add(f"{name}: clip {clip_id!r} has {len(of_clip)} exemplars; allowed: at most {MAX_EXEMPLARS}")
    return {clip_id: named_exemplars(of_clip) for clip_id, of_clip in items.items()}


_Row = TypeVar("_Row")


@contextmanager
def _of_clips(
    uri: str, storage_options: Mapping[str, Any], what: str, parse: Callable[[Mapping[str, Any], str], _Row]
) -> Iterator[tuple[str, dict[str, list[_Row]], Problems]]:
    """The file's name, its rows by clip id, and a collector of problems, which are raised on leaving."""
    name = redact(uri)
    problems = Problems()
    items: dict[str, list[_Row]] = {}
    for place, row in _rows(uri, name, suffix_of(uri), storage_options, what, problems):
        clip_id = row.get("clip_id")
        if isinstance(clip_id, int) and not isinstance(clip_id, bool):
            clip_id = str(clip_id)  # manifests store the ids of numbered clips as numbers
        if not isinstance(clip_id, str) or not clip_id.strip():
            problems.add(f"{place}: clip_id is {clip_id!r:.80}; allowed: the id of a clip in the manifest")
            continue
        try:
            item = parse({key: value for key, value in row.items() if key != "clip_id"}, place)
        except ValueError as error:
            problems.add(f"{place}: {str(error).lstrip('. ')}")
            continue
        items.setdefault(clip_id.strip(), []).append(item)
    yield name, items, problems
    problems.raise_if_any()


def _rows(
    uri: str, name: str, suffix: str, storage_options: Mapping[str, Any], what: str, problems: Problems
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if suffix in (".parquet", ".pq"):
        with local_copy(uri, storage_options, MAX_BYTES, what=what) as path:
            table = read_table(path, name, required="clip_id")
        for i, row in enumerate(table.to_pylist()):
            yield f"{name} row {i + 1}", row
    elif suffix in (".jsonl", ".ndjson"):
        text = decode(read_bytes(uri, storage_options, MAX_BYTES, what=what), name, what=what)
        for number, line, row in json_objects(text, name, problems):
            yield f"{name} row {number} (line {line})", row
    else:
        raise UserError(f"{what} is {name!r}; allowed: a .parquet or .jsonl file")
