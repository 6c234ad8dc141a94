"""Rows of a recording: which are final, and which clip's file they go into."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sam3ray.store.annotation_file import AnnotationWriter
from sam3ray.values.annotations import FrameAnnotations


@dataclass(frozen=True)
class Processed:
    """A processed frame.

    Attributes:
        clip: the clip's id.
        retracted: ids on earlier frames that turned out to be spurious.
        held: number of frames that follow before the rows are final.
        asked: phrases, and thresholds if they were changed.
        next_id: above all ids so far.
    """

    clip: str
    frame: FrameAnnotations
    retracted: frozenset[int]
    held: int
    asked: Mapping[str, Any]
    next_id: int


@dataclass(frozen=True)
class FinishedClip:
    """A clip's local file, and all phrases and labels that its rows may have, in order."""

    name: str
    path: Path
    prompts: tuple[str, ...]


class Rows:
    """Holds rows back until they are final, and writes a file per clip.

    Args:
        begin: opens the file of the clip with this id.
        finished: gets each clip whose rows are complete.
    """

    def __init__(self, begin: Callable[[str], AnnotationWriter], finished: Callable[[FinishedClip], None]) -> None:
        self._begin, self._finished = begin, finished
        self._waiting: deque[Processed] = deque()
        self._writer: AnnotationWriter | None = None
        self._asked: list[dict[str, Any]] = []  # in the current clip: from which frame on
        self._labels: dict[str, None] = {}  # of the current clip's rows
        self._next_id = 1

    def take(self, one: Processed) -> None:
        """The next processed frame."""
        if one.retracted:
            self._waiting = deque(replace(each, frame=_without(each.frame, one.retracted)) for each in self._waiting)
        self._waiting.append(one)
        self._next_id = one.next_id
        while len(self._waiting) > one.held:
            self._write(self._waiting.popleft())

    def finish(self) -> None:
        """No frame follows."""
        while self._waiting:
            self._write(self._waiting.popleft())
        self._finish_clip()

    def _write(self, one: Processed) -> None:
        if self._writer is None or self._writer.clip_id != one.clip:
            self._finish_clip()
            self._writer, self._asked, self._labels = self._begin(one.clip), [], {}
        if not self._asked or {**self._asked[-1], "frame": 0} != {"frame": 0, **one.asked}:
            self._asked.append({"frame": one.frame.frame_index, **one.asked})
        self._writer.write(one.frame)
        self._labels |= dict.fromkeys(each.prompt for each in one.frame.objects)

    def _finish_clip(self) -> None:
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        phrases = dict.fromkeys(phrase for each in self._asked for phrase in each["phrases"])
        # A clip has at least one. Clicked objects have their own labels.
        prompts = tuple(phrases | self._labels) or ("object",)
        writer.finish(next_id=self._next_id, prompts=self._asked, names=prompts)
        self._finished(FinishedClip(writer.clip_id, Path(writer.path), prompts))


def _without(frame: FrameAnnotations, ids: frozenset[int]) -> FrameAnnotations:
    return replace(frame, objects=tuple(each for each in frame.objects if each.object_id not in ids))
