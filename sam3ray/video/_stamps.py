"""How reliable timestamps are, by kind of container."""

from __future__ import annotations

from fractions import Fraction

from av.container import InputContainer
from av.format import Flags
from av.video.stream import VideoStream

_HIGHEST_RATE = 480


def may_leap(container: InputContainer) -> bool:
    """Whether its clock may be reset in the middle, as the standards of transport and program streams allow."""
    return bool(Flags(container.format.flags) & Flags.ts_discont)


def counts_only_frames(container: InputContainer) -> bool:
    """Whether its stamps only count frames in decoding order, as in AVI. libav guesses the rest, wrongly for some
    B-frames, and a frame too late for all."""
    return container.format.name == "avi"


def usual_step(stream: VideoStream) -> int:
    """Time-base units between frames at the stream's rate."""
    unit = stream.time_base or Fraction(1)
    rates = (stream.average_rate, stream.guessed_rate)
    # If stamps do not increase, libav takes the time base for the rate: a thousand per second.
    rate = next((rate for rate in rates if rate and 0 < rate <= _HIGHEST_RATE), Fraction(25))
    return max(1, round(1 / (rate * unit)))
