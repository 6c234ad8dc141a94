"""The labels of one clip as all writers expect them, and the choice of labels to export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation

IMAGE_STRIDE = 10_000_000  # numbers reserved for the images of a clip, which has fewer frames
ROW_STRIDE = 1_000_000_000  # numbers reserved for its annotations


@dataclass(frozen=True)
class Choice:
    """The part of a run to export, and the names to use.

    Attributes:
        clips: ids; None: all finished clips.
        prompts: phrases or labels as in the rows; None: all.
        min_score: omit objects with a lower detection score.
        every: export every n-th labelled frame, starting with the first.
        names: label in the rows -> label in the export; other labels stay.
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
    """One clip's labels.

    Attributes:
        number: its place in the frozen manifest, from 1. Ids of images, videos and annotations are derived from it,
            so they do not depend on what else is exported, in which order, or by how many processes.
        height, width: of the displayed frame, in pixels.
        fps: frame rate of the source video; None if unknown.
        frames: indices in the source video of the exported frames, ascending.
        objects: frame index -> its objects by ascending id; without frames that have no objects.
        times: frame index -> seconds, if known.
        pts: frame index -> presentation timestamp, if known.
        asked: labels requested for this clip, including those without any object.
        categories: label -> number from 1, the same in all clips of the export.
        about: the clip's entry in its file's metadata.
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
        """The name of a frame's image: its index in the source video, by which the frame can be found again."""
        return f"{self.clip_id}/{frame:06d}{suffix}"

    @cached_property
    def tracks(self) -> dict[int, dict[int, ObjectAnnotation]]:
        """Object id -> frame index -> the object on that frame; both ascending."""
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
        frames, rows: numbers of exported frames and rows.
        labels: labels of its objects.
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
