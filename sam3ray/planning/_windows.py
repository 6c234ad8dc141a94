"""How a job's long clips would be saved in windows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sam3ray.config import WindowsConfig
from sam3ray.display.readable import counted


@dataclass(frozen=True)
class LongClip:
    """A clip that takes longer than one window, or has more frames than a parallel one.

    Attributes:
        seconds: estimated time of work.
        windows: how many windows it is saved in.
        sequential: why it cannot be cut into parallel windows; empty if it can.
        cut: how many parallel windows it is, or would be, cut into; 0 if none.
    """

    clip_id: str
    seconds: float
    windows: int
    sequential: str = ""
    cut: int = 0


@dataclass(frozen=True)
class Windowing:
    """How clips would be saved in windows.

    Attributes:
        mode, seconds: `windows.mode` and `windows.seconds` of the configuration.
        clips: clips to do that take longer than `seconds`; None if no speed is known.
        frames: frames processed in `seconds`, with the mean number of phrases; None if no speed is known.
        listed: the longest of these clips, longest first.
    """

    mode: str
    seconds: float
    clips: int | None
    frames: int | None
    listed: tuple[LongClip, ...] = ()

    @property
    def text(self) -> str:
        how = f"{self.mode}, every {self.seconds:g} s of work" if self.mode != "off" else self.mode
        if self.clips is None or self.frames is None:
            return f"{how}; which clips take longer is unknown"
        return f"{how}; {counted(self.clips, 'clip')} longer than {self.seconds:g} s (about {self.frames:,} frames)"


def windows_of(seconds: float, config: WindowsConfig) -> int:
    """How many windows a clip of this many seconds is saved in. Its last part needs none: the clip is then done."""
    return math.ceil(seconds / config.seconds) - 1 if config.mode != "off" else 0
