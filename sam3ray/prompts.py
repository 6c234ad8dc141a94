"""Prompts: what to find or follow in a clip."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextPrompt:
    """Every instance of a concept: a noun phrase such as "red car"."""

    text: str


@dataclass(frozen=True)
class PointPrompt:
    """Clicks on one object of one frame.

    Attributes:
        points: (x, y) each, in pixels of the displayed frame.
        labels: one per point: True means "part of the object", False "not part of it".
        frame_index: 0-based in the source video.
        object_id: the object within the clip, >= 1; prompts of the same id refine each other.
        label: what the `prompt` column will say of this object.
    """

    points: tuple[tuple[float, float], ...]
    labels: tuple[bool, ...]
    frame_index: int
    object_id: int
    label: str = ""


@dataclass(frozen=True)
class BoxPrompt:
    """A box around one object of one frame: (xmin, ymin, xmax, ymax), pixels, max exclusive."""

    box: tuple[float, float, float, float]
    frame_index: int
    object_id: int
    label: str = ""


@dataclass(frozen=True)
class MaskPrompt:
    """The mask of one object on one frame, as a COCO compressed RLE of size (height, width)."""

    rle: str
    height: int
    width: int
    frame_index: int
    object_id: int
    label: str = ""


VisualPrompt = PointPrompt | BoxPrompt | MaskPrompt
