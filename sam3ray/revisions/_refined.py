"""Turns corrections into prompts for the tracker, and merges its masks into the corrected rows of a clip.

Each object with rows set by hand is tracked from all of them. A drawn mask stays unchanged. Where a box or clicks were
given, the tracker's mask replaces their placeholder. All other rows are copied, and deleted objects stay deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property

from sam3ray.revisions._hand import Marks
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.values.prompts import BoxPrompt, MaskPrompt, PointPrompt, VisualPrompt


@dataclass(frozen=True)
class CorrectedClip:
    """A clip after corrections.

    Attributes:
        frames: the corrected rows, without frames that have no objects.
        marks: what people set by hand.
        labelled: indices of all frames that the run looked at.
        size: (height, width) in pixels.
    """

    frames: Sequence[FrameAnnotations]
    marks: Marks
    labelled: Sequence[int]
    size: tuple[int, int]

    @cached_property
    def labels(self) -> dict[int, str]:
        """Each object's one label: the last one given by hand on any frame, else that of its first row."""
        found: dict[int, str] = {}
        for frame in self.frames:
            for item in frame.objects:
                found.setdefault(item.object_id, self.marks.labels.get(item.object_id, item.prompt))
        return found

    @cached_property
    def prompts(self) -> tuple[VisualPrompt, ...]:
        """Prompts by object and frame: the mask, else the boxes, else the clicks.

        Omits objects that people set on every frame, since nothing is left to track.
        """
        rows = {(item.object_id, frame.frame_index): (frame, item) for frame in self.frames for item in frame.objects}
        found: list[VisualPrompt] = []
        for object_id, own in sorted(self.marks.set_rows.items()):
            at = [frame for frame in sorted(own) if (object_id, frame) in rows]
            if not at or all(
                self.marks.is_drawn(object_id, n) or self.marks.is_gone(object_id, n) for n in self.labelled
            ):
                continue
            label = self.labels[object_id]
            for frame in at:
                found += _prompts_at(*rows[object_id, frame], own[frame], label)
        return tuple(found)

    @property
    def tracked(self) -> Set[int]:
        """Ids of the objects to track."""
        return {prompt.object_id for prompt in self.prompts}

    def all_frames(self) -> Iterator[FrameAnnotations]:
        """Every frame that the run looked at, including those without objects."""
        held = {frame.frame_index: self._labelled(frame) for frame in self.frames}
        empty = FrameAnnotations(0, 0, 0.0, *self.size)
        for index in self.labelled:
            yield held.get(index) or replace(empty, frame_index=index)

    def with_tracks(self, tracks: Iterable[FrameAnnotations]) -> Iterator[FrameAnnotations]:
        """The tracker's frames, ascending, merged with all rows that it must not change.

        Args:
            tracks: all labelled frames, with the objects of `prompts`.
        """
        before = {
            frame.frame_index: {item.object_id: item for item in self._labelled(frame).objects} for frame in self.frames
        }
        tracked = self.tracked
        for frame in tracks:
            index = frame.frame_index
            held = before.get(index, {})
            objects = {
                object_id: item
                for object_id, item in held.items()
                if object_id not in tracked or self.marks.is_drawn(object_id, index)
            }
            for item in frame.objects:
                number = item.object_id
                if number in tracked and number not in objects and not self.marks.is_gone(number, index):
                    objects[number] = replace(item, prompt=self.labels[number])
            yield replace(frame, objects=tuple(objects[number] for number in sorted(objects)))

    def _labelled(self, frame: FrameAnnotations) -> FrameAnnotations:
        objects = tuple(replace(item, prompt=self.labels[item.object_id]) for item in frame.objects)
        return frame if objects == frame.objects else replace(frame, objects=objects)


def _prompts_at(
    frame: FrameAnnotations, item: ObjectAnnotation, given: Sequence[VisualPrompt], label: str
) -> Sequence[VisualPrompt]:
    own = [replace(each, object_id=item.object_id, label=label, frame_index=frame.frame_index) for each in given]
    for kind in (MaskPrompt, BoxPrompt, PointPrompt):
        if chosen := [each for each in own if isinstance(each, kind)]:
            return chosen
    return [MaskPrompt(item.rle, frame.height, frame.width, frame.frame_index, item.object_id, label)]
