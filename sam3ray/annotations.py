"""Annotations as values: what is known of every object on every frame of a clip."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ObjectAnnotation:
    """One object on one frame.

    Attributes:
        object_id: >= 1, one object through the clip, unique across prompts.
        prompt: the phrase that found it, or the label of a visual prompt.
        score: detection score of the object, 0..1 (1 for an object that a visual prompt defined).
        track_score: the tracker's score of this object on this frame, 0..1.
        bbox: (xmin, ymin, xmax, ymax) in pixels of the displayed source frame, max exclusive,
            tight around the mask.
        area: pixels of the mask, > 0.
        rle: COCO compressed RLE of the mask at the size of the displayed source frame.
    """

    object_id: int
    prompt: str
    score: float
    track_score: float
    bbox: tuple[float, float, float, float]
    area: int
    rle: str


@dataclass(frozen=True, slots=True)
class FrameAnnotations:
    """All objects of one frame, by ascending object id.

    Attributes:
        frame_index: 0-based, display order, in the source video (not in the sampled sequence).
        pts: presentation timestamp in the stream's time base.
        time_s: the same in seconds from the video's start.
        height, width: of the displayed frame (rotation applied), in pixels.
    """

    frame_index: int
    pts: int
    time_s: float
    height: int
    width: int
    objects: tuple[ObjectAnnotation, ...] = field(default=())
