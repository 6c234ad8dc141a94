"""Decides which clip a received frame belongs to, frame by frame. Pure."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

_FORMAT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Placed:
    """Where a frame belongs.

    Attributes:
        clip: number of the clip, from 0.
        index: index of the frame in the clip.
        time_s: seconds since the clip's first frame.
        scene: increases when the model must start over, after a gap or a change of the frame size.
    """

    clip: int
    index: int
    time_s: float
    scene: int


class Segments:
    """Cuts a stream into clips of `seconds`, and also after a gap above `reset_after_s` or a change of the frame
    size.

    Args:
        of_source: indices and times count from the source's first frame instead of each clip's.
    """

    def __init__(self, seconds: float, reset_after_s: float, *, of_source: bool = False) -> None:
        self._seconds, self._reset_after_s, self._of_source = seconds, reset_after_s, of_source
        self._size: tuple[int, int] | None = None
        self._last = self._began = self._began_at = 0.0
        self._zero = (0, 0.0)
        self._clip = self._scene = -1

    def place(self, received: int, clock: float, at: float, size: tuple[int, int]) -> Placed:
        """Places the next frame: how many frames came before it, when it came on a clock that nobody sets (seconds),
        and in Unix seconds, and its (height, width).
        """
        is_cut = self._size != size or clock - self._last > self._reset_after_s or clock < self._last
        self._scene += is_cut
        if is_cut or clock - self._began >= self._seconds:
            self._clip += 1
            self._began, self._began_at = clock, at
            if self._clip == 0 or not self._of_source:
                self._zero = received, clock
        self._size, self._last = size, clock
        return Placed(self._clip, received - self._zero[0], clock - self._zero[1], self._scene)

    @property
    def began_at(self) -> float:
        """When the clip's first frame came, in Unix seconds."""
        return self._began_at


def clip_name(at: float, number: int) -> str:
    """Names a clip by its start in UTC. The number distinguishes clips that start within the same second."""
    when = datetime.datetime.fromtimestamp(at, datetime.UTC)
    return f"{when:{_FORMAT}}-{number:04d}"


def began_at_of(name: str) -> datetime.datetime:
    return datetime.datetime.strptime(name.partition("-")[0], _FORMAT).replace(tzinfo=datetime.UTC)
