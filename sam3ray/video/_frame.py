"""A video's facts, and its frames."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from sam3ray.display.html import picture

_SHOWN_HEIGHT = 240  # pixels of the image in a notebook

ClockKind = Literal["container", "rebuilt", "folder_fps"]


@dataclass(frozen=True)
class VideoInfo:
    """What is known about a video without decoding it.

    Attributes:
        width, height: size of the displayed frame (rotation applied), in pixels.
        fps: average frame rate; None if unknown.
        duration_s: duration in seconds; None if unknown.
        duration_is_estimate: whether it may be wrong, in either direction: the clock of transport and program streams
            can be reset anywhere, and a file may be several files joined together.
        frame_count: an estimate for planning only. Containers may be wrong: count decoded frames instead.
        time_base: seconds per unit of `Frame.pts`.
        pixel_aspect: width of a pixel of the displayed frame divided by its height. Frames are not stretched by it.
        intact_s: for a file that is cut off, the seconds up to which it is complete; None: complete, as far as headers
            show.
        unread_rest: a sentence about data after the end of the video that cannot be read; None: none is known.
        has_ranges: whether a job can read it by ranges if it is remote and too large for the video cache.
        rotation: clockwise rotation of the displayed frame in degrees: 0, 90, 180 or 270.
    """

    width: int
    height: int
    fps: Fraction | None
    duration_s: float | None
    frame_count: int | None
    time_base: Fraction
    codec: str
    rotation: int = 0
    has_audio: bool = False
    size_bytes: int | None = None
    duration_is_estimate: bool = False
    pixel_aspect: Fraction = Fraction(1)
    intact_s: float | None = None
    unread_rest: str | None = None
    has_ranges: bool = False


@dataclass(frozen=True)
class FrameStamp:
    """A frame without its image: see `Frame`."""

    index: int
    pts: int
    time_s: float

    @classmethod
    def of(cls, frame: Frame) -> FrameStamp:
        return cls(frame.index, frame.pts, frame.time_s)


@dataclass(frozen=True, eq=False)
class Frame:
    """One decoded frame.

    Attributes:
        index: 0-based, display order, in the source video (not in the sampled sequence).
        pts: presentation timestamp in the stream's time base; increases from frame to frame (`sam3ray.video._clock`).
        time_s: the same, in seconds from the video's start.
        image: uint8 RGB, (height, width, 3), rotation applied, C-contiguous.
    """

    index: int
    pts: int
    time_s: float
    image: np.ndarray

    def _repr_html_(self) -> str:
        """The image, for notebooks. `sam3ray.draw` draws annotations on it."""
        height, width = self.image.shape[:2]
        return picture(self.image, f"frame {self.index}, {self.time_s:.3f} s, {width}x{height}", _SHOWN_HEIGHT)
