"""Prompts as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Units = Literal["pixels", "relative"]

UNRESOLVED = -1  # frame_index of a prompt whose frame is given as a time, until the video is known


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """A noun phrase such as "red car", which selects every instance of a concept."""

    text: str


@dataclass(frozen=True, slots=True)
class PointPrompt:
    """Clicks on one object of one frame.

    Attributes:
        points: (x, y) each, on the displayed frame (rotation applied), in `units`.
        labels: one per point: True means "part of the object", False "not part of it".
        frame_index: 0-based in the source video; UNRESOLVED if `time_s` is given instead.
        object_id: the object within the clip, >= 1; prompts of the same id refine each other.
        label: the object's value in the `prompt` column.
        time_s: seconds from the video's start, meaning the frame shown at that time.
        units: pixels, or fractions (0..1) of the frame's width and height.
    """

    points: tuple[tuple[float, float], ...]
    labels: tuple[bool, ...]
    frame_index: int
    object_id: int
    label: str = ""
    time_s: float | None = None
    units: Units = "pixels"


@dataclass(frozen=True, slots=True)
class BoxPrompt:
    """A box around one object of one frame: (xmin, ymin, xmax, ymax), max exclusive.

    The other attributes are those of `PointPrompt`.
    """

    box: tuple[float, float, float, float]
    frame_index: int
    object_id: int
    label: str = ""
    time_s: float | None = None
    units: Units = "pixels"


@dataclass(frozen=True, slots=True)
class MaskPrompt:
    """The mask of one object on one frame, of the size of the displayed frame.

    Attributes:
        rle: COCO compressed RLE; empty while the mask is still in the file `png`.
        height, width: of the mask; 0 while unknown.
        png: address of a one-channel image, non-zero inside the object; read when the prompt is resolved.
        sha256: the file's digest when a run first read it; empty if none has.
    """

    rle: str
    height: int
    width: int
    frame_index: int
    object_id: int
    label: str = ""
    time_s: float | None = None
    png: str = field(default="")
    sha256: str = field(default="", compare=False)


VisualPrompt = PointPrompt | BoxPrompt | MaskPrompt


@dataclass(frozen=True, slots=True)
class ExemplarPrompt:
    """Boxes around instances of a concept on one frame: "everything like this".

    Attributes:
        boxes: (xmin, ymin, xmax, ymax) each, max exclusive, on the displayed frame (rotation applied), in `units`.
        labels: one per box: True is an instance, False is not. None: all are.
        frame_index: 0-based in the source video; UNRESOLVED if `time_s` is given instead.
        phrase: the concept's name. It is looked for on every frame, and the boxes add to it.
        label: the value in the `prompt` column if there is no phrase. Exemplars of one label are one concept.
        time_s, units: see `PointPrompt`.
    """

    boxes: tuple[tuple[float, float, float, float], ...]
    labels: tuple[bool, ...] | None = None
    frame_index: int = UNRESOLVED
    phrase: str = ""
    label: str = ""
    time_s: float | None = None
    units: Units = "pixels"

    @property
    def name(self) -> str:
        """The value in the `prompt` column; empty if neither phrase nor label is given."""
        return self.phrase or self.label

    @property
    def signs(self) -> tuple[bool, ...]:
        """For each box, whether it is around an instance."""
        return (True,) * len(self.boxes) if self.labels is None else self.labels
