"""Which clip a received frame belongs to: pure, decided frame by frame."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

_FORMAT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Placed:
    """A frame's place.

    Attributes:
        clip: number of the clip, from 0.
        index: in the clip.
        time_s: since the clip's first frame.
        scene: increases when the model must start over, after a gap in time or a change of the frame size.
    """

    clip: int
    index: int
    time_s: float
    scene: int


class Segments:
    """Cuts a stream into clips of `seconds`; also where a gap is longer than `reset_after_s`, or the size changes."""

    def __init__(self, seconds: float, reset_after_s: float) -> None:
        self._seconds, self._reset_after_s = seconds, reset_after_s
        self._size: tuple[int, int] | None = None
        self._last_at = self._began_at = 0.0
        self._first = 0
        self._clip = self._scene = -1

    def place(self, received: int, at: float, size: tuple[int, int]) -> Placed:
        """The next frame: how many were received before it, when, and its (height, width)."""
        is_cut = self._size != size or at - self._last_at > self._reset_after_s or at < self._last_at
        self._scene += is_cut
        if is_cut or at - self._began_at >= self._seconds:
            self._clip += 1
            self._first, self._began_at = received, at
        self._size, self._last_at = size, at
        return Placed(self._clip, received - self._first, at - self._began_at, self._scene)

    @property
    def began_at(self) -> float:
        """Unix seconds of the clip's first frame."""
        return self._began_at


def clip_name(at: float, number: int) -> str:
    """The UTC start, to the second; the number keeps two clips of one second apart."""
    when = datetime.datetime.fromtimestamp(at, datetime.UTC)
    return f"{when:{_FORMAT}}-{number:04d}"


def began_at_of(name: str) -> datetime.datetime:
    return datetime.datetime.strptime(name.partition("-")[0], _FORMAT).replace(tzinfo=datetime.UTC)
