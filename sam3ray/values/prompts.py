"""The prompts as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Units = Literal["pixels", "relative"]

UNRESOLVED = -1  # frame_index of a prompt whose frame is given as a time, until the video is known


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Every instance of a concept: a noun phrase such as "red car"."""

    text: str


@dataclass(frozen=True, slots=True)
class PointPrompt:
    """Clicks on one object of one frame.

    Attributes:
        points: (x, y) each, on the displayed frame (rotation applied), in `units`.
        labels: one per point: True means "part of the object", False "not part of it".
        frame_index: 0-based in the source video; UNRESOLVED where `time_s` is given instead.
        object_id: the object within the clip, >= 1; prompts of the same id refine each other.
        label: what the `prompt` column will say of this object.
        time_s: seconds from the video's start; the frame shown at that moment is meant.
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
        height, width: of the mask; 0 while they are not known.
        png: address of a one-channel image, non-zero inside the object; read when the prompt is resolved.
        sha256: of that file as it was when a run first read it; empty if none has.
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
        frame_index: 0-based in the source video; UNRESOLVED where `time_s` is given instead.
        phrase: what the concept is called. It is looked for on every frame, and the boxes add to it.
        label: what the `prompt` column says where there is no phrase. Exemplars of one label are one concept.
        time_s, units: as of `PointPrompt`.
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
        """What the `prompt` column says; empty where neither phrase nor label is given."""
        return self.phrase or self.label

    @property
    def signs(self) -> tuple[bool, ...]:
        """Of each box, whether it is around an instance."""
        return (True,) * len(self.boxes) if self.labels is None else self.labels
