"""Decoding a local video file, in display order, without converting frames that nobody wants.

What counts as damage, and why. Annotations that end early without a word are worse than a failed clip, so:

* A packet that the decoder refuses, or frames that change size, fail the clip, naming frame and time.
* A file that ends before the frames its container lists (a cut-off MP4 or MOV, a Matroska file shorter than its
  segment) fails the clip, once reading gets there: a range that ends before the cut is fine.
* Containers that promise no length (MPEG-TS, raw streams, recordings that were never finalised) end where they end;
  a partial last packet is dropped, as players do.
* Damage inside a picture that the decoder conceals is shown as players show it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video._index import SeekPoint, find_seek_point
from sam3ray.video._source import check_pixels, display_matrix, displayed, naming_errors, open_container, video_stream
from sam3ray.video._truncation import listed_packets, matroska_is_cut_off, will_end_early


@dataclass(frozen=True, eq=False)
class CodedFrame:
    """A frame as the decoder gave it. `ticks` are time-base units from the video's start."""

    index: int
    pts: int
    ticks: int
    time_base: Fraction
    coded: VideoFrame

    @property
    def time_s(self) -> float:
        return float(self.ticks * self.time_base)


class RgbConverter:
    """Coded frames to uint8 RGB, honouring each frame's own matrix (BT.601, 709, 2020) and range.

    Frames that do not name their matrix count as BT.601, as in every FFmpeg-based data loader. HDR is not tone-mapped.
    Interlaced frames are not taken apart, and pixels that are not square are not stretched: coordinates count the
    pixels that are stored.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._rotation: int | None = None
        self._matrix: np.ndarray | None = None

    def __call__(self, coded: VideoFrame) -> np.ndarray:
        # PyAV 18.1 ties a frame whose side data is looked at into a reference cycle, so that hundreds of them wait for
        # the garbage collector: look only where something has changed.
        if coded.rotation != self._rotation:
            self._rotation, self._matrix = coded.rotation, display_matrix(coded)
        rgb = self._reformatter.reformat(coded, format="rgb24", threads=1)
        return displayed(rgb.to_ndarray(), self._matrix)


def decode(
    path: str | os.PathLike[str], limits: VideoConfig, *, start_s: float | None = None, to_end: bool = False
) -> Iterator[CodedFrame]:
    """Every frame of the video with its exact index; with `start_s`, frames before it may be missing or come twice.

    With `to_end`, a file that is known to be cut off fails at once, not when reading gets there.

    Raises:
        ClipError: see the module; also when there is no frame at all.
    """
    point = find_seek_point(path, start_s, limits) if start_s else None
    if point is not None:
        try:
            yield from _decode_from(path, limits, point, to_end)
        except _SeekMissed:
            pass  # nothing of the range was given out yet: the indices get another source
        else:
            return
    yield from _decode_from(path, limits, None, to_end)


class _SeekMissed(Exception):
    """The frames after a seek are not those that the packets announced, so their indices are not known."""


def _decode_from(
    path: str | os.PathLike[str], limits: VideoConfig, point: SeekPoint | None, to_end: bool
) -> Iterator[CodedFrame]:
    where = os.path.basename(path)
    with open_container(path, limits) as container:
        stream = video_stream(container, limits, where)
        if to_end and will_end_early(path, container, stream):
            raise ClipError(Reason.UNREADABLE_VIDEO, "the file is cut off: frames that it lists are missing", where)
        clock = _Clock(stream, where)
        if point is not None:
            with naming_errors(where, "cannot seek"):
                container.seek(point.seek_to, stream=stream)
        index = 0 if point is None else point.first_rank
        size: tuple[int, int] | None = None
        for coded in _frames(path, container, stream, clock, from_start=point is None):
            pts, ticks = clock.tell(coded)
            if point is not None and index <= point.wanted_rank:
                rank = point.ranks.get(pts, -1)
                if size is None and rank < index:
                    continue  # leading pictures of the group before: they lack their references
                if rank != index or (size is None and coded.pict_type != PictureType.I):
                    # A picture that is not coded by itself is a key frame by name only (intra refresh).
                    raise _SeekMissed
            if size is None:
                size = (coded.width, coded.height)
                check_pixels(*size, limits, where)
            elif size != (coded.width, coded.height):
                raise ClipError(
                    Reason.UNREADABLE_VIDEO,
                    f"frame {index} at {float(ticks * clock.time_base):.3f} s has {coded.width}x{coded.height} pixels, "
                    f"those before it {size[0]}x{size[1]}",
                    where,
                )
            yield CodedFrame(index, pts, ticks, clock.time_base, coded)
            index += 1
        if size is None and point is not None:
            raise _SeekMissed
        if size is None:
            raise ClipError(Reason.UNREADABLE_VIDEO, "no frame of its video stream can be decoded", where)


def _frames(
    path: str | os.PathLike[str], container: InputContainer, stream: VideoStream, clock: _Clock, *, from_start: bool
) -> Iterator[VideoFrame]:
    """Decoded frames in display order; checks at the end that nothing was cut off."""
    where = os.path.basename(path)
    codec = stream.codec_context
    packets = container.demux(stream)
    count = 0
    while True:
        with naming_errors(where, f"cannot be read {clock.place()}"):
            packet = next(packets, None)
        if packet is not None and packet.size == 0:
            continue  # an empty packet would end the decoder
        if packet is not None and packet.is_corrupt and listed_packets(container, stream) is not None:
            break  # the last bytes of a cut-off file
        with naming_errors(where, f"cannot be decoded {clock.place()}"):
            frames = codec.decode(packet)
        yield from frames
        if packet is None:
            break
        count += 1
    listed = listed_packets(container, stream)
    if packet is not None or (from_start and listed is not None and count < listed) or matroska_is_cut_off(path):
        raise ClipError(Reason.UNREADABLE_VIDEO, f"the file is cut off: it ends {clock.place()}", where)


class _Clock:
    """Timestamps of frames, with those that a container leaves out filled in from the frame rate."""

    def __init__(self, stream: VideoStream, where: str) -> None:
        if not stream.time_base or stream.time_base <= 0:
            raise ClipError(Reason.UNREADABLE_VIDEO, "its video stream has no time base", where)
        self.time_base: Fraction = stream.time_base
        self._start = stream.start_time
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self._step = max(1, round(1 / (rate * self.time_base))) if rate > 0 else 1
        self._last: int | None = None

    def tell(self, frame: VideoFrame) -> tuple[int, int]:
        """(pts, time-base units from the video's start) of the next frame."""
        pts = frame.pts
        if pts is None:
            pts = (self._start or 0) if self._last is None else self._last + self._step
        if self._start is None:
            self._start = pts
        self._last = pts
        return pts, pts - self._start

    def place(self) -> str:
        if self._last is None or self._start is None:
            return "before its first frame"
        return f"after the frame at {float((self._last - self._start) * self.time_base):.3f} s"
