"""What the timestamps of a container are worth, by what it is."""

from __future__ import annotations

from fractions import Fraction

from av.container import InputContainer
from av.format import Flags
from av.video.stream import VideoStream

_HIGHEST_RATE = 480


def may_leap(container: InputContainer) -> bool:
    """Whether its clock may be reset in the middle: transport and program streams, by their own rules."""
    return bool(Flags(container.format.flags) & Flags.ts_discont)


def counts_only_frames(container: InputContainer) -> bool:
    """Whether its stamps are places in decoding order. AVI has no others; libav guesses the rest, wrongly with some
    B-frames, and a frame late with all."""
    return container.format.name == "avi"


def usual_step(stream: VideoStream) -> int:
    """Time-base units between frames at the stream's rate."""
    unit = stream.time_base or Fraction(1)
    rates = (stream.average_rate, stream.guessed_rate)
    # Where stamps do not grow, libav takes the time base for the rate: a thousand a second.
    rate = next((rate for rate in rates if rate and 0 < rate <= _HIGHEST_RATE), Fraction(25))
    return max(1, round(1 / (rate * unit)))
