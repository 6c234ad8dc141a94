"""How a job's clips would be kept in windows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sam3ray.config import WindowsConfig


@dataclass(frozen=True)
class LongClip:
    """A clip that takes longer than a window, or has more frames than one of `windows.mode: parallel`.

    Attributes:
        seconds: of work, as the estimate has it.
        windows: that it is kept in.
        sequential: why it cannot be cut into parallel windows; empty where it can.
        cut: how many parallel windows it is cut into, or would be; 0: none.
    """

    clip_id: str
    seconds: float
    windows: int
    sequential: str = ""
    cut: int = 0


@dataclass(frozen=True)
class Windowing:
    """How clips would be kept in windows.

    Attributes:
        mode, seconds: of the configuration.
        clips: to do that take longer than `seconds`; None where nothing is known of the speed.
        frames: of a clip that takes as long as a window, at the mean number of phrases; None likewise.
        listed: the longest of them, the longest first.
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
            return f"{how}; which clips take longer is not known"
        return f"{how}; {self.clips:,} clips take longer than {self.seconds:g} s (about {self.frames:,} frames)"


def windows_of(seconds: float, config: WindowsConfig) -> int:
    """How many windows a clip that takes so long is kept in: what follows the last one is the clip's own end."""
    return math.ceil(seconds / config.seconds) - 1 if config.mode != "off" else 0
