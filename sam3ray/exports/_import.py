"""Corrections that come back: an export that somebody has changed, as one revision of the run that it is of."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from sam3ray.config import RunSource, run_place
from sam3ray.exports._folder import IDENTITY, Folder
from sam3ray.exports._home import Imported, Times, add_revision
from sam3ray.exports._reading import Found, read_coco, read_labelme
from sam3ray.exports._refined_run import bring_home
from sam3ray.failures import UserError
from sam3ray.files import resolve
from sam3ray.guard.jsontext import parse_json
from sam3ray.revisions import Change, Edits, difference
from sam3ray.store import RunStore
from sam3ray.store.storage import Storage
from sam3ray.values.annotations import FrameAnnotations

READERS: dict[str, Callable[..., Found]] = {
    "coco": read_coco,
    "labelme": read_labelme,
    "xanylabeling": read_labelme,
}
"""Formats whose corrections come back."""

RUN = "run"
"""A run that `refine` has made."""


def import_labels(
    output: RunSource,
    source: str | os.PathLike[str],
    format: str,
    *,
    author: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Adds what was changed in an export to the run's corrections, as one entry; nothing if anything is wrong.

    Objects and frames that the export left out (`prompts`, `min_score`, `every`) are left alone.

    Args:
        output: the run.
        source: the folder that `export` wrote, changed since; with the format `run`, the run that `refine` made.

    Raises:
        UserError: it is an export of another run or format, or a file is damaged; every problem at once.
        EditConflict: somebody else has changed the same object on the same frame since the export.
    """
    if format not in (*READERS, RUN):
        raise UserError(f"--format {format}: allowed: {', '.join((*READERS, RUN))}")
    output, storage_options = run_place(output, storage_options)
    store, source = RunStore(output, storage_options), resolve(os.fspath(source))
    if format == RUN:
        return bring_home(store, RunStore(source, storage_options), author, progress)
    storage = Storage(source, storage_options)
    identity = _identity(storage, store, format)
    choice, base = identity["choice"], identity["revision"]
    names = choice.get("names") or {}
    edits = Edits(store)
    corrections = edits.operations(edits.number_of(base))
    folder = Folder(storage)
    problems: list[str] = []
    changes: dict[str, Change] = {}
    exported = sorted(folder.exported())
    for done, clip_id in enumerate(exported, 1):
        try:
            about = folder.sidecar(clip_id)
            frames, size = [int(n) for n in about["frame_index"]], (int(about["height"]), int(about["width"]))
            found = READERS[format](storage, clip_id, frames, size)
            before = _chosen(edits.clip(clip_id, corrections.get(clip_id, ())), choice)
            times = Times(list(before.values()), size, store.read_clip_metadata(clip_id).get("clip", {}))
            changes[clip_id] = difference(clip_id, frames, before, found, times.of, names)
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            problems.append(f"clip {clip_id}: {error}")
        if progress is not None:
            progress(done, len(exported))
    if problems:
        raise UserError(problems)
    return add_revision(edits, changes, tool=f"import {format}", base=base, author=author)


def _identity(storage: Storage, store: RunStore, format: str) -> Mapping[str, Any]:
    where = storage.shown(IDENTITY)
    data = storage.read(IDENTITY)
    if data is None:
        raise UserError(f"{storage.shown()} is no export of sam3ray: it has no {IDENTITY}")
    try:
        value = parse_json(data)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from None
    if (
        not isinstance(value, Mapping)
        or not isinstance(value.get("choice"), Mapping)
        or type(value.get("revision")) is not int
    ):
        raise UserError(f"{where} is damaged: it lacks the run, the revision or what was chosen")
    if value.get("format") != format:
        raise UserError(f"{storage.shown()} was exported as {value.get('format')!r}, not as {format!r}")
    run = store.run_id()
    if value.get("run") != run:
        raise UserError(f"{storage.shown()} is an export of the run {value.get('run')!r}; this one is {run!r}")
    return value


def _chosen(frames: list[FrameAnnotations], choice: Mapping[str, Any]) -> dict[int, FrameAnnotations]:
    """What the export showed of them, under their own names: the rest is not missing in what comes back."""
    from dataclasses import replace

    prompts, least = choice.get("prompts"), float(choice.get("min_score") or 0)
    kept = {}
    for frame in frames:
        objects = tuple(o for o in frame.objects if o.score >= least and (prompts is None or o.prompt in prompts))
        kept[frame.frame_index] = replace(frame, objects=objects)
    return kept
