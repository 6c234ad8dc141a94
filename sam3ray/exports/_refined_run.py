"""Imports the rows of a refined run into the run that it refines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sam3ray.exports._home import Imported, add_revision
from sam3ray.failures import UserError
from sam3ray.guard.redact import redact
from sam3ray.revisions import Change, Edits, Label, difference
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import read_frames
from sam3ray.store.labelled_frames import labelled_frames
from sam3ray.values.annotations import FrameAnnotations


def bring_home(
    store: RunStore,
    refined: RunStore,
    author: str | None,
    progress: Callable[[int, int], None] | None,
) -> Imported:
    """Adds the differences as one entry. Its rows count as tracked, not drawn, so a later `refine` may replace them.

    Raises:
        UserError: it refines another run, or has no finished clip.
        EditConflict: somebody has corrected the same object on the same frame since the revision that was refined.
    """
    base = _base(store, refined)
    edits = Edits(store)
    corrections = edits.operations(edits.number_of(base))
    changes: dict[str, Change] = {}
    done = sorted(refined.done_ids())
    if not done:
        raise UserError(f"{redact(refined.output)} has no finished clip yet: there is nothing to import")
    problems = []
    for count, clip_id in enumerate(done, 1):
        try:
            about = refined.read_clip_metadata(clip_id).get("clip", {})
            rows = {frame.frame_index: frame for frame in read_frames(refined.read_clip(clip_id))}
            before = {frame.frame_index: frame for frame in edits.clip(clip_id, corrections.get(clip_id, ()))}
            frames = labelled_frames(about, rows.keys() | before.keys())
            changes[clip_id] = _change(clip_id, frames, before, rows)
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            problems.append(f"clip {clip_id}: {error}")
        if progress is not None:
            progress(count, len(done))
    if problems:
        raise UserError(problems)
    return add_revision(edits, changes, tool="import run", base=base, author=author, by_hand=False)


def _change(
    clip_id: str, frames: list[int], before: Mapping[int, FrameAnnotations], rows: Mapping[int, FrameAnnotations]
) -> Change:
    found = {
        index: [Label(item.object_id, item.prompt, item) for item in frame.objects] for index, frame in rows.items()
    }
    nothing = FrameAnnotations(0, 0, 0.0, 1, 1)  # times of frames without rows in either run
    return difference(clip_id, frames, before, found, lambda frame: rows.get(frame, nothing))


def _base(store: RunStore, refined: RunStore) -> int:
    """The revision that was refined."""
    info: Mapping[str, Any] = refined.run_info()
    about = info.get("refines")
    if not isinstance(about, Mapping) or type(about.get("revision")) is not int:
        raise UserError(f"{redact(refined.output)} is not a refined run: make one with `sam3ray refine`")
    if about.get("run_id") != store.run_id():
        raise UserError(
            f"{redact(refined.output)} refines the run {about.get('run_id')!r} ({redact(str(about.get('output')))}); "
            f"this one is {store.run_id()!r}"
        )
    return int(about["revision"])
