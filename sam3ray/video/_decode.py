"""Decodes a video file in display order, without converting frames that are not needed.

Annotations that silently end early are worse than a failed clip. So damage is treated as follows:

* A packet that the decoder rejects, or a change of the frame size, fails the clip, with frame and time in the message.
* A file that ends before all listed frames (a cut-off MP4 or MOV, a Matroska file shorter than its segment) fails the
  clip when reading reaches the end. A range that ends before that is not affected.
* A file in which another one begins whose frames cannot be read (joined FLV, MP4 or ASF files) also fails the clip,
  and so does a transport stream whose video continues in another stream.
* Containers without a stated length (MPEG-TS, raw streams, recordings that were never finalised) simply end; a partial
  last packet is dropped, as players do.
* Damage within a picture that the decoder conceals is accepted: the picture looks as in a player.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video._clock import PACKETS_KNOWN, Clock, Stamp, Timed
from sam3ray.video._frame_index import FrameIndex, KeyFrame, SeekPoint
from sam3ray.video._index import find_seek_point
from sam3ray.video._joined import check_unmixed, unread_rest
from sam3ray.video._opened import ByRanges, VideoSource, name_of
from sam3ray.video._pieces import Fragments, Pieces, pieces_of
from sam3ray.video._programs import CHANGED, ProgramWatch
from sam3ray.video._source import (
    check_pixels,
    display_matrix,
    displayed,
    naming_errors,
    open_container,
    packets_of,
    video_stream,
)
from sam3ray.video._stamps import counts_only_frames, may_leap, usual_step
from sam3ray.video._truncation import listed_packets, matroska_is_cut_off, will_end_early

_LATEST = 2**62  # of a timestamp: annotations have 64 bits
# their demuxers can begin anywhere, but finding a time takes many requests
_BY_BYTE = frozenset({"flv", "mpeg", "mpegts"})
_MOST_SKIPPED = 5000  # packets of a piece before its key frame


@dataclass(frozen=True, eq=False)
class CodedFrame:
    """A frame as decoded, with its time on the increasing clock (`sam3ray.video._clock`).

    Attributes:
        pts: in `time_base` units.
        ticks: the same, counted from the video's start.
        is_rebuilt: whether this time differs from the container's.
        key_frame: how to seek to the frame, if it is a key frame.
    """

    index: int
    pts: int
    ticks: int
    time_base: Fraction
    coded: VideoFrame
    is_rebuilt: bool = False
    key_frame: KeyFrame | None = None

    @property
    def time_s(self) -> float:
        return float(self.ticks * self.time_base)


class DecodedIndex:
    """Builds the index of a video's frames by decoding it, if its packets do not provide one."""

    def __init__(self) -> None:
        self._pts = array("q")
        self._key_frames: list[KeyFrame] = []
        self._start: int | None = None
        self._time_base = Fraction(1)
        self._is_sound = True

    def note(self, coded: CodedFrame) -> None:
        """Notes each frame, from the first on. From the middle of a file, a rebuilt clock would not be fully known."""
        self._is_sound &= not coded.is_rebuilt and coded.index == len(self._pts)
        if not self._is_sound:
            return
        self._start, self._time_base = coded.pts - coded.ticks, coded.time_base
        self._pts.append(coded.pts)
        if coded.key_frame is not None:
            self._key_frames.append(coded.key_frame)

    def index(self, until_s: float | None) -> FrameIndex | None:
        """The index; None if there is none."""
        if self._start is None or not self._is_sound:
            return None
        return FrameIndex(self._pts, self._start, self._time_base, self._key_frames, until_s)


class RgbConverter:
    """Converts coded frames to uint8 RGB with each frame's own matrix (BT.601, 709, 2020) and range.

    Frames without a stated matrix count as BT.601, as in FFmpeg-based data loaders. HDR is not tone-mapped, interlaced
    frames are not deinterlaced, and pixels that are not square are not stretched: coordinates count stored pixels.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._rotation: int | None = None
        self._matrix: np.ndarray | None = None

    def __call__(self, coded: VideoFrame) -> np.ndarray:
        if coded.rotation != self._rotation:
            self._rotation, self._matrix = coded.rotation, display_matrix(coded)
        with naming_errors("", "a frame's colour format cannot be converted to RGB"):
            rgb = self._reformatter.reformat(coded, format="rgb24", threads=1)
        return displayed(rgb.to_ndarray(), self._matrix)


def decode(
    path: VideoSource,
    limits: VideoConfig,
    *,
    start_s: float | None = None,
    to_end: bool = False,
    point: SeekPoint | None = None,
) -> Iterator[CodedFrame]:
    """Yields every frame of the video with its exact index; frames before `start_s` may be missing or repeated.

    The same holds with a `point` to start at: its frames are compared with the expected ones before any is yielded.

    With `to_end`, a file that is known to be cut off fails at once, not when reading reaches the end.

    Raises:
        ClipError: see the module; also if there is no frame at all.
    """
    if point is None and start_s:
        point = find_seek_point(path, start_s, limits)
    if point is not None:
        try:
            yield from _decode_from(path, limits, point, to_end)
        except _SeekMissed:
            pass  # no frame of the range was yielded yet, so decoding can start over
        else:
            return
    yield from _decode_from(path, limits, None, to_end)


class _SeekMissed(Exception):
    """The frames after a seek differ from those that the packets announced, so their indices are not known."""


def _decode_from(path: VideoSource, limits: VideoConfig, point: SeekPoint | None, to_end: bool) -> Iterator[CodedFrame]:
    where = name_of(path)
    begin = None if point is None else point.key_frame.piece
    if begin is not None and point is not None and _start_of(path, limits) != point.start:
        raise _SeekMissed
    pieces = pieces_of(path, limits, begin)
    with open_container(pieces or path, limits) as container:
        stream = video_stream(container, limits, where)
        if to_end and will_end_early(path, container, stream):
            raise ClipError(Reason.UNREADABLE_VIDEO, "the file is cut off: frames that it lists are missing", where)
        if container.format.name.startswith("mov") and not isinstance(pieces, Fragments):
            check_unmixed(path, where)
        time_base = stream.time_base
        if not time_base or time_base <= 0:
            raise ClipError(Reason.UNREADABLE_VIDEO, "its video stream has no time base", where)
        start = stream.start_time if point is None else point.start
        clock: Clock[_Picture] = Clock(float(time_base), usual_step(stream), start, leaps=may_leap(container))
        first_at = None
        if point is not None and begin is not None:
            first_at = point.key_frame.byte
        elif point is not None:
            if stream.start_time != point.start:
                raise _SeekMissed
            first_at = _seek(path, container, stream, point.key_frame)
        pictures = _pictures(path, container, stream, clock, pieces, from_start=point is None, first_at=first_at)
        if point is not None:
            pictures = _checked(pictures, clock, point)
        index = 0 if point is None else point.first_rank
        size: tuple[int, int] | None = None
        for timed in _timed(pictures, clock):
            coded = timed.item.coded
            if size is None:
                size = (coded.width, coded.height)
                check_pixels(*size, limits, where)
            elif size != (coded.width, coded.height):
                raise ClipError(
                    Reason.UNREADABLE_VIDEO,
                    f"frame {index} at {float(timed.ticks * time_base):.3f} s has {coded.width}x{coded.height} pixels, "
                    f"those before it {size[0]}x{size[1]}",
                    where,
                )
            if abs(timed.pts) > _LATEST:
                raise ClipError(Reason.UNREADABLE_VIDEO, f"frame {index} has the timestamp {timed.pts}", where)
            yield CodedFrame(index, timed.pts, timed.ticks, time_base, coded, timed.is_rebuilt, timed.item.key_frame)
            index += 1
        if size is None and point is not None:
            raise _SeekMissed
        if size is None:
            raise ClipError(Reason.UNREADABLE_VIDEO, "no frame of its video stream can be decoded", where)


def _start_of(path: VideoSource, limits: VideoConfig) -> int | None:
    """The start of the video, from its first frames. A file opened in the middle does not show it."""
    with open_container(path, limits) as container:
        return video_stream(container, limits, name_of(path)).start_time


def _seek(path: VideoSource, container: InputContainer, stream: VideoStream, key_frame: KeyFrame) -> int | None:
    """Seeks. Returns the position of the first packet that counts; None: the next packet."""
    by_byte = isinstance(path, ByRanges) and container.format.name in _BY_BYTE
    try:
        if by_byte and key_frame.byte is not None:
            container.seek(key_frame.byte, stream=stream, unsupported_byte_offset=True)
            return key_frame.byte
        container.seek(key_frame.seek_to, stream=stream)
    except av.error.FFmpegError:
        raise _SeekMissed from None
    return None


def _timed(pictures: Iterator[_Picture], clock: Clock[_Picture]) -> Iterator[Timed[_Picture]]:
    for picture in pictures:
        yield from clock.shown(picture.number, picture)
    yield from clock.end()


def _checked(pictures: Iterator[_Picture], clock: Clock[_Picture], point: SeekPoint) -> Iterator[_Picture]:
    """The pictures from the key frame on, compared with the expected ones."""
    rank = point.first_rank
    for picture in pictures:
        if rank <= point.wanted_rank:
            found = -1 if picture.pts is None else point.ranks.get(picture.pts, -1)
            if rank == point.first_rank and found < rank:
                clock.forget(picture.number)
                continue  # leading pictures, whose references are in the previous group
            is_first = rank == point.first_rank
            if found != rank or (is_first and picture.byte != point.key_frame.byte):
                raise _SeekMissed
            if is_first and picture.key_frame is None:
                raise _SeekMissed  # a key frame in name only, which depends on others (intra refresh)
        yield picture
        rank += 1


@dataclass(frozen=True, eq=False)
class _Picture:
    """A picture from the decoder, its packet, and the container's information about that packet."""

    number: int | None
    pts: int | None
    byte: int | None
    key_frame: KeyFrame | None
    coded: VideoFrame


@dataclass(frozen=True)
class _Said:
    """The container's information about a packet."""

    pts: int | None = None
    dts: int | None = None
    byte: int | None = None
    is_key: bool = False
    piece: int | None = None

    @property
    def key_frame(self) -> KeyFrame | None:
        if self.pts is None:
            return None
        return KeyFrame(self.pts, self.pts if self.dts is None else self.dts, self.byte, self.piece)


def _pictures(
    path: VideoSource,
    container: InputContainer,
    stream: VideoStream,
    clock: Clock[_Picture],
    pieces: Pieces | None,
    *,
    from_start: bool,
    first_at: int | None,
) -> Iterator[_Picture]:
    """Decoded frames in display order, from the packet at `first_at` on; finally checks that the file was not cut off.

    Packets go into the decoder with their number as the timestamp, because two packets may have the same timestamp.
    """
    where = name_of(path)
    codec = stream.codec_context
    counts_frames = counts_only_frames(container)
    packets = packets_of(container, stream)
    said: dict[int, _Said] = {}
    last_at = skipped = 0
    programs = ProgramWatch(path, container, stream, from_start=from_start)
    while True:
        with naming_errors(where, f"cannot be read {_place(clock, stream)}"):
            packet = next(packets, None)
        if packet is not None and packet.size == 0:
            continue  # the decoder takes an empty packet for the end
        if first_at is not None:
            skipped += 1
            if packet is None or skipped > _MOST_SKIPPED:
                raise _SeekMissed
            if packet.pos != first_at:
                continue
            first_at = None
        if packet is not None and packet.is_corrupt and listed_packets(container, stream) is not None:
            break  # the last bytes of a truncated file
        if packet is not None:
            pts = packet.dts if counts_frames else packet.pts
            number = clock.sent(Stamp(pts, packet.dts, packet.is_keyframe), shows=not packet.is_discard)
            piece = pieces.piece_of(packet.pos) if pieces is not None and packet.is_keyframe else None
            said[number] = _Said(packet.pts, packet.dts, packet.pos, packet.is_keyframe, piece)
            said.pop(number - PACKETS_KNOWN, None)
            packet.pts = number
            last_at = max(last_at, packet.pos or 0)
            if programs.changes(packet.pos, packet.size):
                raise ClipError(Reason.UNREADABLE_VIDEO, f"{CHANGED} ({_place(clock, stream)})", where)
        with naming_errors(where, f"cannot be decoded {_place(clock, stream)}"):
            frames = codec.decode(packet)
        for coded in frames:
            made_from = _Said() if coded.pts is None else said.get(coded.pts, _Said())
            is_key = made_from.is_key and coded.pict_type == PictureType.I
            key_frame = made_from.key_frame if is_key else None
            yield _Picture(coded.pts, made_from.pts, made_from.byte, key_frame, coded)
        if packet is None:
            break
    listed = listed_packets(container, stream)
    lacks_some = from_start and listed is not None and clock.packets < listed
    if packet is not None or lacks_some or matroska_is_cut_off(path):
        raise ClipError(Reason.UNREADABLE_VIDEO, f"the file is cut off: it ends {_place(clock, stream)}", where)
    rest = CHANGED if programs.changes_at_end() else None
    if rest is None and not isinstance(pieces, Fragments):
        rest = unread_rest(path, container, last_at)
    elif rest is None and isinstance(pieces, Fragments) and pieces.broken_at is not None:
        rest = f"the file is damaged: its data from byte {pieces.broken_at} on cannot be read"
    if rest is not None:
        raise ClipError(Reason.UNREADABLE_VIDEO, f"{rest} ({_place(clock, stream)})", where)


def _place(clock: Clock[_Picture], stream: VideoStream) -> str:
    if clock.last_ticks is None or not stream.time_base:
        return "before its first frame"
    return f"after the frame at {float(clock.last_ticks * stream.time_base):.3f} s"
