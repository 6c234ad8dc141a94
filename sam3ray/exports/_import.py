"""Imports corrections: a changed export becomes one revision of its run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sam3ray.config import RunSource, run_place
from sam3ray.exports._folder import IDENTITY, SIDECARS, Folder
from sam3ray.exports._home import Imported, Times, add_revision
from sam3ray.exports._labels import Choice, ClipLabels
from sam3ray.exports._reading import Found, read_coco, read_labelme
from sam3ray.exports._reading_cvat import read_cvat_boxes, read_cvat_masks
from sam3ray.exports._reading_fiftyone import read_fiftyone
from sam3ray.exports._reading_labelstudio import read_labelstudio_brush, read_labelstudio_video
from sam3ray.exports._reading_mot import read_mot
from sam3ray.exports._reading_parquet import read_parquet
from sam3ray.exports._reading_pixels import read_davis, read_mots_challenge, read_mots_kitti, read_mots_png
from sam3ray.exports._reading_tracks import read_sav, read_vis
from sam3ray.exports._refined_run import bring_home
from sam3ray.exports._selection import categories_of, choice_from, read_labels
from sam3ray.failures import UserError
from sam3ray.files import resolve
from sam3ray.guard.jsontext import parse_json
from sam3ray.revisions import Change, Edits, difference
from sam3ray.store import RunStore
from sam3ray.store.storage import Storage
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation

Reader = Callable[[Storage, ClipLabels], Found]

READERS: dict[str, dict[str, Reader]] = {
    "coco": {"": read_coco},
    "ytvis": {"": read_vis},
    "saco": {"": read_vis},
    "mots": {"challenge": read_mots_challenge, "kitti": read_mots_kitti, "png": read_mots_png},
    "mot": {"": read_mot},
    "davis": {"": read_davis},
    "cvat": {"boxes": read_cvat_boxes, "masks": read_cvat_masks},
    "labelstudio": {"video": read_labelstudio_video, "brush": read_labelstudio_brush},
    "labelme": {"": read_labelme},
    "xanylabeling": {"": read_labelme},
    "sav": {"": read_sav},
    "fiftyone": {"": read_fiftyone},
    "parquet": {"": read_parquet},
}
"""Formats whose corrections can be imported, by variant."""

RUN = "run"
"""The format of a run that `refine` has made."""

NEVER = {"yolo": "it has no object ids"}
"""Formats that cannot be imported, and why."""


def import_labels(
    output: RunSource,
    source: str | os.PathLike[str],
    format: str,
    *,
    author: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Adds the changes in an export to the run's corrections, as one entry. If there is any problem, adds nothing.

    Objects and frames that the export omitted (`prompts`, `min_score`, `every`) are not changed.

    Args:
        output: the run.
        source: the folder that `export` wrote, with corrections; for the format `run`, the run that `refine` made.

    Raises:
        UserError: it is an export of another run or format, or a file is damaged; every problem at once.
        EditConflict: somebody else has changed the same object on the same frame since the export.
    """
    if format not in (*READERS, RUN):
        why = f"{NEVER[format]}; " if format in NEVER else ""
        raise UserError(f"--format {format}: {why}allowed: {', '.join((*READERS, RUN))}")
    output, storage_options = run_place(output, storage_options)
    store, source = RunStore(output, storage_options), resolve(os.fspath(source))
    if format == RUN:
        return bring_home(store, RunStore(source, storage_options), author, progress)
    storage = Storage(source, storage_options)
    identity = _identity(storage, store, format)
    base = identity["revision"]
    try:
        choice = _choice_of(identity["choice"])
        read = READERS[format][str(identity.get("variant", ""))]
    except (ValueError, TypeError, KeyError, OverflowError):
        raise UserError(
            f"{storage.shown(IDENTITY)} is damaged: its variant or options are not those of an export; export again"
        ) from None
    edits = Edits(store)
    corrections = edits.operations(edits.number_of(base))
    manifest = store.manifest()
    categories = categories_of(manifest, choice, edits.labels(corrections))
    clips = {clip.clip_id: (n, clip) for n, clip in enumerate(manifest, 1)}
    problems: list[str] = []
    changes: dict[str, Change] = {}
    exported = sorted(Folder(storage).exported())
    if not exported:
        raise UserError(
            f"{storage.shown()} holds no exported clip: {SIDECARS}/ is empty, so there is nothing to compare "
            "with; export again"
        )
    for done, clip_id in enumerate(exported, 1):
        try:
            if clip_id not in clips:
                raise ValueError("the run has no such clip")
            number, clip = clips[clip_id]
            labels = read_labels(store, clip, number, categories, choice, corrections.get(clip_id, ()))
            rows = edits.clip(clip_id, corrections.get(clip_id, ()))
            changes[clip_id] = _change(store, labels, choice, rows, read(storage, labels))
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
        raise UserError(f"{storage.shown()} is not a sam3ray export: it has no {IDENTITY}")
    try:
        value = parse_json(data)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from None
    if (
        not isinstance(value, Mapping)
        or not isinstance(value.get("choice"), Mapping)
        or type(value.get("revision")) is not int
    ):
        raise UserError(f"{where} is damaged: the run, the revision or the options are missing")
    if value.get("format") != format:
        raise UserError(f"{storage.shown()} was exported as {value.get('format')!r}, not as {format!r}")
    run = store.run_id()
    if value.get("run") != run:
        raise UserError(f"{storage.shown()} is an export of the run {value.get('run')!r}; this one is {run!r}")
    return value


def _change(
    store: RunStore, labels: ClipLabels, choice: Choice, rows: Sequence[FrameAnnotations], found: Found
) -> Change:
    """The changes in one clip.

    Args:
        rows: the clip's rows at the time of the export, including those that it omitted.
        found: the imported labels; frames that are not in it were not reviewed.
    """
    before = {frame.frame_index: replace(frame, objects=_shown(frame, choice)) for frame in rows}
    shown = {item.object_id for frame in before.values() for item in frame.objects}
    times = Times(rows, (labels.height, labels.width), store.read_clip_metadata(labels.clip_id).get("clip", {}))
    return difference(
        labels.clip_id,
        [frame for frame in labels.frames if frame in found],
        before,
        found,
        times.of,
        choice.names,
        {item.object_id for frame in rows for item in frame.objects} - shown,
        labels.frames,
    )


def _shown(frame: FrameAnnotations, choice: Choice) -> tuple[ObjectAnnotation, ...]:
    """The objects that the export contained, under their own names; others cannot have been deleted."""
    wanted = choice.prompts
    return tuple(o for o in frame.objects if o.score >= choice.min_score and (wanted is None or o.prompt in wanted))


def _choice_of(value: Mapping[str, Any]) -> Choice:
    """The choice of an export. Raises ValueError or TypeError if its options are not valid."""
    names = value.get("names") or {}
    if not isinstance(names, Mapping) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError("names")
    try:
        return choice_from(
            value.get("clips"),
            value.get("prompts"),
            float(value.get("min_score", 0)),
            int(value.get("every", 1)),
            names,
        )
    except UserError as error:
        raise ValueError("; ".join(error.problems)) from None
