"""What a video is made of: its facts, and its frames."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from sam3ray.display.html import picture

_SHOWN_HEIGHT = 240  # pixels, in a notebook

ClockKind = Literal["container", "rebuilt", "folder_fps"]


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video without decoding it.

    Attributes:
        width, height: of the displayed frame (rotation applied), in pixels.
        fps: average frame rate; None where the container does not tell.
        duration_s: None where the container does not tell.
        duration_is_estimate: whether it may well be wrong, in either direction: the clock of transport and program
            streams can be reset anywhere, and a file may be several files joined together.
        frame_count: an estimate for planning only. Containers lie: count what is decoded.
        time_base: seconds per unit of `Frame.pts`.
        pixel_aspect: width of a pixel of the displayed frame by its height. Frames are not stretched by it.
        intact_s: where the file is cut off: seconds up to which what its container lists is there; None: it is whole,
            as far as headers tell.
        unread_rest: what follows the end of the video that cannot be read, in words; None: nothing, as far as known.
        has_ranges: whether a job can read it by ranges, where it is remote and too large for the video cache.
        rotation: degrees clockwise that the displayed frame was turned by: 0, 90, 180 or 270.
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
        pts: presentation timestamp in the stream's time base; grows from frame to frame (`sam3ray.video._clock`).
        time_s: the same in seconds from the video's start.
        image: uint8 RGB, (height, width, 3), rotation applied, C-contiguous.
    """

    index: int
    pts: int
    time_s: float
    image: np.ndarray

    def _repr_html_(self) -> str:
        """For notebooks: the image. `sam3ray.draw` puts annotations on it."""
        height, width = self.image.shape[:2]
        return picture(self.image, f"frame {self.index}, {self.time_s:.3f} s, {width}x{height}", _SHOWN_HEIGHT)
