"""The labels of one clip as all writers expect them, and the choice of labels to export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation

IMAGE_STRIDE = 10_000_000  # numbers reserved for the images of a clip; its frames are fewer
ROW_STRIDE = 1_000_000_000  # and for its annotations


@dataclass(frozen=True)
class Choice:
    """The part of a run to export, and the names to use.

    Attributes:
        clips: ids; None is all that are done.
        prompts: phrases or labels, as they stand in the rows; None is all.
        min_score: objects whose detection score is below are left out.
        every: every n-th labelled frame, from the first on.
        names: label in the rows -> label in the export; others keep theirs.
    """

    clips: tuple[str, ...] | None = None
    prompts: tuple[str, ...] | None = None
    min_score: float = 0.0
    every: int = 1
    names: Mapping[str, str] | None = None

    def name_of(self, label: str) -> str:
        return label if self.names is None else self.names.get(label, label)


@dataclass(frozen=True)
class ClipLabels:
    """One clip.

    Attributes:
        number: its place in the frozen manifest, from 1. Ids of images, videos and annotations are made of it, so that
            they do not depend on what else is exported, in which order or by how many processes.
        height, width: of the displayed frame, in pixels.
        fps: frames a second of the source video; None where unknown.
        frames: indices in the source video of the exported frames, ascending.
        objects: frame index -> its objects by ascending id; frames without objects are not in it.
        times: frame index -> seconds, where they are known.
        pts: frame index -> presentation timestamp, where it is known.
        asked: the labels that were looked for in this clip, also those that nothing was found for.
        categories: label -> number from 1, the same in all clips of the export.
        about: what the clip's file says of it.
    """

    number: int
    clip_id: str
    uri: str
    height: int
    width: int
    fps: float | None
    frames: tuple[int, ...]
    objects: Mapping[int, tuple[ObjectAnnotation, ...]]
    times: Mapping[int, float]
    pts: Mapping[int, int]
    asked: tuple[str, ...]
    categories: Mapping[str, int]
    about: Mapping[str, Any] = field(default_factory=dict)

    def image_id(self, frame: int) -> int:
        return (self.number - 1) * IMAGE_STRIDE + frame + 1

    def image_name(self, frame: int, suffix: str = ".jpg") -> str:
        """The frame's index in the source video, so that an image leads back to it."""
        return f"{self.clip_id}/{frame:06d}{suffix}"

    @cached_property
    def tracks(self) -> dict[int, dict[int, ObjectAnnotation]]:
        """Object id -> frame index -> the object on it; both ascending."""
        found: dict[int, dict[int, ObjectAnnotation]] = {}
        for frame in self.frames:
            for item in self.objects.get(frame, ()):
                found.setdefault(item.object_id, {})[frame] = item
        return dict(sorted(found.items()))

    @cached_property
    def place(self) -> dict[int, int]:
        """Frame index -> its place among the exported frames, from 0."""
        return {frame: n for n, frame in enumerate(self.frames)}

    def time_of(self, frame: int) -> float:
        """Seconds; computed from the rate if no row gives them."""
        if frame in self.times:
            return self.times[frame]
        return frame / self.fps if self.fps else float(frame)


@dataclass(frozen=True)
class Written:
    """An exported clip, for the files about all clips.

    Attributes:
        number: as `ClipLabels.number`.
        uri: of its video, without credentials.
        frames, rows: how many were exported.
        labels: of its objects.
        lost: what the format could not hold.
    """

    clip_id: str
    number: int
    frames: int
    uri: str = ""
    rows: int = 0
    labels: tuple[str, ...] = ()
    lost: Mapping[str, int] = field(default_factory=dict)


def chosen(frames: Sequence[FrameAnnotations], choice: Choice) -> dict[int, tuple[ObjectAnnotation, ...]]:
    """The chosen objects, under their new names, by frame index."""
    wanted = None if choice.prompts is None else set(choice.prompts)
    found = {}
    for frame in frames:
        kept = tuple(
            replace(item, prompt=choice.name_of(item.prompt))
            for item in frame.objects
            if item.score >= choice.min_score and (wanted is None or item.prompt in wanted)
        )
        if kept:
            found[frame.frame_index] = kept
    return found
