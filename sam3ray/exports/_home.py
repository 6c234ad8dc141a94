"""Turns imported changes of any format into one revision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sam3ray.revisions import Add, Change, ClipOperation, Edits, ReplaceMask
from sam3ray.values.annotations import FrameAnnotations


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    Attributes:
        revision: the new revision; None if nothing has changed.
        clips: clip -> number of operations of each kind.
    """

    revision: int | None
    clips: dict[str, dict[str, int]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"revision": self.revision, "clips": self.clips}


def add_revision(
    edits: Edits,
    changes: Mapping[str, Change],
    *,
    tool: str,
    base: int,
    author: str | None,
    by_hand: bool = True,
) -> Imported:
    """Adds all changes as one entry of the log; no entry if there are none.

    Args:
        base: the revision on which the changes are based.
        by_hand: whether a person made the masks; False: a tracker.

    Raises:
        EditConflict: somebody else has meanwhile changed the same object on the same frame.
    """
    operations: list[ClipOperation] = []
    counts: dict[str, dict[str, int]] = {}
    for clip_id, change in changes.items():
        made = [*change.operations, *_with_masks(edits, clip_id, change, by_hand)]
        if made:
            operations += made
            counts[clip_id] = {}
            for each in made:
                counts[clip_id][each.op] = counts[clip_id].get(each.op, 0) + 1
    if not operations:
        return Imported(None)
    return Imported(edits.append(operations, tool=tool, author=author, parent=base), counts)


def _with_masks(edits: Edits, clip_id: str, change: Change, by_hand: bool) -> list[ClipOperation]:
    made: list[ClipOperation] = []
    for object_id, masks in change.masks.items():
        between = change.between.get(object_id, frozenset())
        drawn = [frame for frame in masks if frame.frame_index not in between]
        between_rows = [frame for frame in masks if frame.frame_index in between]
        prompts, new = change.prompts.get(object_id, ()), object_id in change.added
        for frames, given, hand in ((drawn, prompts, by_hand), (between_rows, (), False)):
            if not frames:
                continue
            data, digest = edits.put_data(clip_id, frames, given, by_hand=hand)
            if new:
                made.append(Add(clip_id, object_id, data, digest))
                new = False
            else:
                span = frames[0].frame_index, frames[-1].frame_index
                made.append(ReplaceMask(clip_id, object_id, span, data, digest))
    return made


class Times:
    """Times of frames without rows: interpolated between frames with rows, else from the video's rate."""

    def __init__(self, frames: Sequence[FrameAnnotations], size: tuple[int, int], about: Mapping[str, Any]) -> None:
        self._known = [(frame.frame_index, frame.pts, frame.time_s) for frame in frames]
        self._size = size
        self._rate = float(about.get("source_fps") or 0)

    def of(self, frame: int) -> FrameAnnotations:
        """The frame with its time, without objects."""
        before = [each for each in self._known if each[0] <= frame][-2:]
        after = [each for each in self._known if each[0] > frame][:2]
        pair = (before[-1:] + after[:1]) if before and after else before or after
        if len(pair) == 2:
            (one, pts, time_s), (two, last_pts, last_s) = pair
            share = (frame - one) / (two - one)
            return self._frame(frame, pts + share * (last_pts - pts), time_s + share * (last_s - time_s))
        if self._rate:
            return self._frame(frame, 0, frame / self._rate)
        return self._frame(frame, 0, 0.0)

    def _frame(self, frame: int, pts: float, time_s: float) -> FrameAnnotations:
        return FrameAnnotations(frame, round(pts), round(time_s, 9), *self._size)
