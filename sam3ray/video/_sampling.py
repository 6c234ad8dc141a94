"""Selects the frames of a clip by range and by sampling. Exact, in whole time-base units.

The rule. A frame is in the range if start <= its time < end. With `fps`, tick k is at start + k / fps (start is 0
without a range), rounded down to a time-base unit. For each tick, the first frame at or after it is taken, each frame
at most once. So frames are never repeated: sampling above the source's rate returns all frames of the source.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor


def exact(seconds: float) -> Fraction:
    """The decimal number as written, not its binary approximation: 0.1 is 1/10."""
    return Fraction(repr(float(seconds)))


class Sampler:
    """Decides frame by frame, in display order.

    Args:
        time_base: seconds per unit of the ticks given to `wants`.
        start_s, end_s: the range in seconds, end exclusive; None is open.
        fps: sampling rate; None takes every frame in the range.
    """

    def __init__(self, time_base: Fraction, start_s: float | None, end_s: float | None, fps: float | None) -> None:
        start = exact(start_s) if start_s else Fraction(0)
        self._begin = ceil(start / time_base) if start_s else None
        self._end = None if end_s is None else ceil(exact(end_s) / time_base)
        self._step = None if fps is None else 1 / (exact(fps) * time_base)
        self._first_tick = start / time_base
        self._next_tick = 0

    def is_before(self, ticks: int) -> bool:
        """Whether a frame `ticks` time-base units from the video's start lies before the range."""
        return self._begin is not None and ticks < self._begin

    def is_after(self, ticks: int) -> bool:
        """Whether it lies at or after the end of the range."""
        return self._end is not None and ticks >= self._end

    def wants(self, ticks: int) -> bool:
        """Whether to take the frame. Call once for every frame of the video, in display order."""
        if self.is_before(ticks) or self.is_after(ticks):
            return False
        if self._step is None:
            return True
        if ticks < floor(self._first_tick + self._next_tick * self._step):
            return False
        # The first tick on a later unit than this frame.
        self._next_tick = max(0, ceil((ticks + 1 - self._first_tick) / self._step))
        return True
