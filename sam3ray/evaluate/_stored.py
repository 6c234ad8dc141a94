"""Reads annotations of clips from storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sam3ray.failures import UserError
from sam3ray.guard.damaged import why_unreadable
from sam3ray.guard.redact import redact
from sam3ray.revisions import ClipOperation, Edits
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import read_frames
from sam3ray.values.annotations import FrameAnnotations


@dataclass(frozen=True)
class StoredClip:
    """A clip's frames by index, and the facts about it from its file's metadata ("clip")."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    frames: Mapping[int, FrameAnnotations] = field(default_factory=dict)


def open_run(output: str, storage_options: Mapping[str, Any] | None) -> RunStore:
    """Opens a run. Raises UserError if it has no annotations."""
    run = RunStore(output, storage_options)
    if not run.done_ids():
        raise UserError(f"{redact(output)} holds no annotations: it is not a run, or no clip is done yet")
    return run


def read_stored(run: RunStore, clip_id: str, corrections: Sequence[ClipOperation] = ()) -> StoredClip:
    """Reads a clip and applies these corrections.

    Raises UserError if its file is damaged.
    """
    try:
        facts = run.read_clip_metadata(clip_id).get("clip", {})
        rows = Edits(run).clip(clip_id, corrections) if corrections else read_frames(run.read_clip(clip_id))
        frames = {frame.frame_index: frame for frame in rows}
    except (ValueError, TypeError, ArithmeticError) as error:  # the file's content cannot be annotations
        raise UserError(f"clip {clip_id}: {redact(why_unreadable(error))}") from None
    except KeyError as error:
        raise UserError(f"clip {clip_id}: the column {error} is missing") from None
    return StoredClip(facts, frames)
