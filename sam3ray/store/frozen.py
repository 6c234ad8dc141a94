"""The manifest as it was when the run first started: `manifest.parquet`, written once."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sam3ray.failures import UserError
from sam3ray.guard.damaged import why_unreadable
from sam3ray.values.clip import Clip
from sam3ray.values.clip_ids import unsigned
from sam3ray.values.exemplars import exemplar_items, parse_exemplars
from sam3ray.values.prompt_reading import parse_visual_prompts
from sam3ray.values.prompt_writing import prompt_items
from sam3ray.values.prompts import ExemplarPrompt, MaskPrompt, VisualPrompt

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("uri", pa.string()),
        ("prompts", pa.list_(pa.string())),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("fps", pa.float64()),
        ("visual_prompts", pa.string()),  # JSON, as in a manifest; null if there are none
    ]
)
_OWN = tuple(SCHEMA.names)
EXEMPLARS = "exemplars"  # JSON, as in a manifest; null if a clip has none, no column if no clip has any
SOURCE = "sam3ray.source"  # each video's first sighting (`files.sighting`); manifests of 0.1.0 lack the column


def to_parquet(clips: Sequence[Clip], carried: pa.Table | None) -> bytes:
    """The clips in order, and the manifest's other columns with their own types.

    Args:
        carried: row i belongs to clip i; None: built from `Clip.carried`, types inferred.
    """
    table = pa.table(
        [
            pa.array([clip.clip_id for clip in clips], pa.string()),
            pa.array([clip.uri for clip in clips], pa.string()),
            pa.array([list(clip.prompts) for clip in clips], pa.list_(pa.string())),
            pa.array([clip.start_s for clip in clips], pa.float64()),
            pa.array([clip.end_s for clip in clips], pa.float64()),
            pa.array([clip.fps for clip in clips], pa.float64()),
            pa.array([_visual_json(clip.visual_prompts) for clip in clips], pa.string()),
        ],
        schema=SCHEMA,
    )
    others = carried if carried is not None else _infer_carried(clips)
    if others is not None:
        if others.num_rows != len(clips):
            raise ValueError(f"{len(clips)} clips, but {others.num_rows} rows of carried columns")
        for field, column in zip(others.schema, others.columns, strict=True):
            if field.name in (*_OWN, EXEMPLARS, SOURCE):
                raise ValueError(f"{field.name!r} is a column of the manifest itself and cannot be carried")
            table = table.append_column(field, column)
    if any(clip.exemplars for clip in clips):
        shown = pa.array([_exemplars_json(clip.exemplars) for clip in clips], pa.string())
        table = table.append_column(EXEMPLARS, shown)
    if any(clip.source is not None for clip in clips):
        table = table.append_column(SOURCE, pa.array([clip.source for clip in clips], pa.string()))
    return table_bytes(table)


def _infer_carried(clips: Sequence[Clip]) -> pa.Table | None:
    names = list(dict.fromkeys(name for clip in clips for name in clip.carried))
    if not names:
        return None
    columns = []
    for name in names:
        values = [clip.carried.get(name) for clip in clips]
        try:
            columns.append(pa.array(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # mixed types are stored as text
            columns.append(pa.array([None if value is None else str(value) for value in values], pa.string()))
    return pa.table(columns, names=names)


def from_parquet(data: bytes, where: str) -> pa.Table:
    """The frozen manifest as a table. Raises UserError if it is not a manifest."""
    try:
        table = pq.read_table(io.BytesIO(data))
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{where} is damaged: {why_unreadable(error)}") from None
    for field in SCHEMA:
        index = table.schema.get_field_index(field.name)
        if index < 0 or table.schema.field(index).type != field.type:
            raise UserError(f"{where} is not a run's manifest: its column {field.name} is missing or of another type")
    return table


def clips_of(table: pa.Table, where: str) -> list[Clip]:
    """The rows of a frozen manifest as clips."""
    own = [table.column(name).to_pylist() for name in _OWN]
    others = carried_columns(table)
    sources, exemplars = (_column_or_none(table, name) for name in (SOURCE, EXEMPLARS))
    names = others.column_names
    rows: Iterable[tuple[Any, ...]] = zip(*(_as_python(column) for column in others.columns), strict=True)
    carried = [dict(zip(names, row, strict=True)) for row in rows] if names else None
    clips = []
    for i, (clip_id, uri, prompts, start_s, end_s, fps, visual) in enumerate(zip(*own, strict=True)):
        marks: tuple[VisualPrompt, ...] = ()
        if visual:
            marks, wrong = parse_visual_prompts(visual)
            if wrong:
                raise UserError(f"{where} is damaged: visual_prompts of clip {clip_id}{wrong[0]}")
        rest = () if carried is None else (carried[i],)
        clip = Clip(clip_id, uri, tuple(prompts or ()), start_s, end_s, fps, marks, *rest)
        if exemplars[i] is not None:
            shown, wrong = parse_exemplars(exemplars[i])
            if wrong:
                raise UserError(f"{where} is damaged: exemplars of clip {clip_id}{wrong[0]}")
            clip = replace(clip, exemplars=shown)
        clips.append(clip if sources[i] is None else replace(clip, source=sources[i]))
    return clips


def _column_or_none(table: pa.Table, name: str) -> list[Any]:
    return table.column(name).to_pylist() if name in table.column_names else [None] * table.num_rows


def _as_python(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_temporal(column.type) and getattr(column.type, "unit", "") == "ns":
        column = column.cast(pa.int64())  # Python's types have no nanoseconds
    return column.to_pylist()


def with_addresses_of(table: pa.Table, clips: Iterable[Clip]) -> pa.Table | None:
    """The frozen manifest with these clips' newly signed addresses; None if no signature has changed.

    Args:
        clips: clips with the same `digest`, in any order.
    """
    given = {clip.clip_id: clip for clip in clips}
    ids = table.column("clip_id").to_pylist()
    digests = mask_digests(table)
    fresh = {
        "uri": [given[clip_id].uri for clip_id in ids],
        "visual_prompts": [
            _visual_json(with_digests(given[clip_id], digests.get(clip_id, ())).visual_prompts) for clip_id in ids
        ],
    }
    renewed = table
    for name, values in fresh.items():
        if table.column(name).to_pylist() != values:
            index = table.schema.get_field_index(name)
            renewed = renewed.set_column(index, table.schema.field(index), pa.array(values, pa.string()))
    return None if renewed is table else renewed


def table_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def carried_columns(table: pa.Table) -> pa.Table:
    """The manifest's other columns, unchanged."""
    return table.drop_columns([*_OWN, *({EXEMPLARS, SOURCE} & set(table.column_names))])


def mask_digests(table: pa.Table) -> dict[str, tuple[str, ...]]:
    """For clips with mask files: the SHA-256 of each prompt's file, empty for prompts without one."""
    found = {}
    pairs = zip(table.column("clip_id").to_pylist(), table.column("visual_prompts").to_pylist(), strict=True)
    for clip_id, text in pairs:
        if text and '"sha256"' in text:
            prompts, _ = parse_visual_prompts(text)
            found[clip_id] = tuple(each.sha256 if isinstance(each, MaskPrompt) else "" for each in prompts)
    return found


def with_digests(clip: Clip, digests: Sequence[str]) -> Clip:
    """The clip with these digests added to its mask files, by position."""
    if len(digests) != len(clip.visual_prompts):
        return clip
    pairs = zip(clip.visual_prompts, digests, strict=True)
    prompts = (replace(each, sha256=sha) if isinstance(each, MaskPrompt) and each.png else each for each, sha in pairs)
    return replace(clip, visual_prompts=tuple(prompts))


def first_sights(table: pa.Table) -> dict[str, str]:
    """The first sighting of each clip's video, by clip id, if known."""
    if SOURCE not in table.column_names:
        return {}
    pairs = zip(table.column("clip_id").to_pylist(), table.column(SOURCE).to_pylist(), strict=True)
    return {clip_id: source for clip_id, source in pairs if source is not None}


def digest(clips: Iterable[Clip]) -> str:
    """SHA-256 of everything in the clips that determines results, which excludes their order and carried columns."""
    lines = sorted(_identity(clip) for clip in clips)
    state = hashlib.sha256()
    for line in lines:
        state.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return state.hexdigest()


def _identity(clip: Clip) -> str:
    """The signature of an address is ignored, because it differs when a run is resumed."""
    marks = _visual_json([_unsigned_mask(each) for each in clip.visual_prompts])
    facts = [clip.clip_id, unsigned(clip.uri), list(clip.prompts), clip.start_s, clip.end_s, clip.fps, marks]
    return json.dumps([*facts, _exemplars_json(clip.exemplars)] if clip.exemplars else facts)


def _unsigned_mask(prompt: VisualPrompt) -> VisualPrompt:
    return (
        replace(prompt, png=unsigned(prompt.png), sha256="")
        if isinstance(prompt, MaskPrompt) and prompt.png
        else prompt
    )


def differences(frozen: Sequence[Clip], given: Sequence[Clip]) -> str:
    """How two manifests differ, in words: "2 new (a, b), 1 gone (c), 1 changed (d)"; empty if they do not."""
    before = {clip.clip_id: _identity(clip) for clip in frozen}
    now = {clip.clip_id: _identity(clip) for clip in given}
    groups = {
        "new": sorted(now.keys() - before.keys()),
        "gone": sorted(before.keys() - now.keys()),
        "changed": sorted(key for key in before.keys() & now.keys() if before[key] != now[key]),
    }
    parts = []
    for word, ids in groups.items():
        if ids:
            shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
            parts.append(f"{len(ids)} {word} ({shown})")
    return ", ".join(parts)


def _visual_json(prompts: Sequence[VisualPrompt]) -> str | None:
    if not prompts:
        return None
    return json.dumps(prompt_items(prompts), ensure_ascii=False)


def _exemplars_json(exemplars: Sequence[ExemplarPrompt]) -> str | None:
    return json.dumps(exemplar_items(exemplars), ensure_ascii=False) if exemplars else None
