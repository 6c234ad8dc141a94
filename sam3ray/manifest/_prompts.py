"""A file of visual prompts, one prompt per row, joined to the clips by `clip_id`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sam3ray.failures import UserError
from sam3ray.files import decode, local_copy, read_bytes, suffix_of
from sam3ray.guard.redact import redact
from sam3ray.manifest._parquet import read_table
from sam3ray.manifest._rows import Problems
from sam3ray.manifest._text import json_objects
from sam3ray.values.prompt_reading import MAX_ITEMS, Item, assemble, parse_item
from sam3ray.values.prompts import VisualPrompt

MAX_BYTES = 2 * 2**30


def read_prompt_file(uri: str, storage_options: Mapping[str, Any]) -> dict[str, tuple[VisualPrompt, ...]]:
    """Prompts by clip id. Columns: `clip_id` and the keys of a visual prompt; null is absent.

    Raises:
        UserError: with every bad row.
    """
    name = redact(uri)
    suffix = suffix_of(uri)
    problems = Problems()
    items: dict[str, list[Item]] = {}
    for place, row in _rows(uri, name, suffix, storage_options, problems):
        clip_id = row.get("clip_id")
        if isinstance(clip_id, int) and not isinstance(clip_id, bool):
            clip_id = str(clip_id)  # numbered clips, as manifests have them
        if not isinstance(clip_id, str) or not clip_id.strip():
            problems.add(f"{place}: clip_id is {clip_id!r:.80}; allowed: the id of a clip in the manifest")
            continue
        try:
            item = parse_item({key: value for key, value in row.items() if key != "clip_id"}, place)
        except ValueError as error:
            problems.add(f"{place}: {str(error).lstrip('. ')}")
            continue
        items.setdefault(clip_id.strip(), []).append(item)
    prompts: dict[str, tuple[VisualPrompt, ...]] = {}
    for clip_id, of_clip in items.items():
        prompts[clip_id], wrong = assemble(of_clip)
        if len(of_clip) > MAX_ITEMS:
            wrong.append(f" has {len(of_clip)} prompts; allowed: at most {MAX_ITEMS} per clip")
        for sentence in wrong:
            problems.add(sentence if sentence.startswith(name) else f"{name}: clip {clip_id!r}{sentence}")
    problems.raise_if_any()
    return prompts


def _rows(
    uri: str, name: str, suffix: str, storage_options: Mapping[str, Any], problems: Problems
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if suffix in (".parquet", ".pq"):
        with local_copy(uri, storage_options, MAX_BYTES, what="visual_prompts") as path:
            table = read_table(path, name, required="clip_id")
        for i, row in enumerate(table.to_pylist()):
            yield f"{name} row {i + 1}", row
    elif suffix in (".jsonl", ".ndjson"):
        text = decode(read_bytes(uri, storage_options, MAX_BYTES, what="visual_prompts"), name, what="visual_prompts")
        for number, line, row in json_objects(text, name, problems):
            yield f"{name} row {number} (line {line})", row
    else:
        raise UserError(f"visual_prompts is {name!r}; allowed: a .parquet or .jsonl file")
