"""The time of sound on the video's clock, if that clock was rebuilt.

A joined file has epochs (`sam3ray.video._clock`), each with its own clock. Sound and pictures of an epoch are next to
each other in the file and share its clock, so sound is moved by as much as its pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from av.container import InputContainer
from av.stream import Stream

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError
from sam3ray.video._clock import Clock, Stamp
from sam3ray.video._joined import is_joined
from sam3ray.video._opened import VideoSource, name_of
from sam3ray.video._source import naming_errors, open_container, packets_of, video_stream
from sam3ray.video._stamps import may_leap, usual_step

_BESIDE_BYTES = 2 * 2**20  # largest distance in the file between sound and pictures of one time


@dataclass
class Epoch:
    """An epoch: the bytes and stamps of its pictures, and its beginning on the video's clock."""

    first_byte: int
    last_byte: int
    low_s: float
    high_s: float
    begins_s: float = 0.0

    def is_beside(self, byte: int) -> bool:
        return self.first_byte - _BESIDE_BYTES <= byte <= self.last_byte + _BESIDE_BYTES


class Epochs:
    """The epochs of a file, in order; at least one."""

    def __init__(self, epochs: Sequence[Epoch]) -> None:
        self._epochs = epochs

    def stamp_s(self, time_s: float) -> float | None:
        """The stamp at a time; None if there are several epochs, in which stamps may repeat."""
        return time_s + self._epochs[0].low_s if len(self._epochs) == 1 else None

    def time_s(self, stamp_s: float, byte: int | None, expected_s: float) -> tuple[float, int]:
        """The time of sound with that stamp, in seconds from the video's start, and its epoch.

        Args:
            byte: its position in the file; None: not known.
            expected_s: end of the preceding sound, which decides between epochs.
        """
        times = [(stamp_s - epoch.low_s + epoch.begins_s, place) for place, epoch in enumerate(self._epochs)]
        beside = [time for time in times if byte is None or self._epochs[time[1]].is_beside(byte)]
        return min(beside or times, key=lambda time: abs(time[0] - expected_s))


def epochs_of(path: VideoSource, container: InputContainer, sound: Stream) -> Epochs:
    """The epochs of the container's video, or of its sound if it has no video.

    Raises:
        ClipError: the file cannot be read.
    """
    where = name_of(path)
    limits = VideoConfig()
    try:
        stream: Stream = video_stream(container, limits, where)
    except ClipError:
        stream = sound
    if stream is sound or not (may_leap(container) or is_joined(path, container)):
        for known in (stream, sound):
            if known.start_time is not None and known.time_base:
                start_s = float(known.start_time * known.time_base)
                return Epochs([Epoch(0, 0, start_s, start_s)])
        return Epochs([Epoch(0, 0, 0.0, 0.0)])
    return Epochs(_scanned(path, limits, where))


def _scanned(path: VideoSource, limits: VideoConfig, where: str) -> list[Epoch]:
    found: list[Epoch] = []
    with open_container(path, limits) as container:
        stream = video_stream(container, limits, where)
        unit_s = float(stream.time_base or 0)
        step = usual_step(stream)
        clock: Clock[None] = Clock(unit_s, step, stream.start_time, leaps=may_leap(container))
        with naming_errors(where, "cannot be read"):
            for packet in packets_of(container, stream):
                if packet.size == 0 or packet.pts is None:
                    continue
                clock.sent(Stamp(packet.pts, packet.dts, packet.is_keyframe))
                stamp_s, byte = packet.pts * unit_s, packet.pos or 0
                if len(found) < clock.epochs:
                    found.append(Epoch(byte, byte, stamp_s, stamp_s))
                epoch = found[-1]
                epoch.low_s, epoch.high_s = min(epoch.low_s, stamp_s), max(epoch.high_s, stamp_s)
                epoch.last_byte = max(epoch.last_byte, byte)
    begins_s = 0.0
    for epoch in found:
        epoch.begins_s = begins_s
        begins_s += epoch.high_s - epoch.low_s + step * unit_s
    return found or [Epoch(0, 0, 0.0, 0.0)]
