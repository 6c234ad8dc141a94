"""Builds the index of a video's frames without decoding it.

The timestamps of all packets are read, at the speed of the disk. For an MP4 that is read by ranges, only its tables are
read; other remote files are read once (`ByRanges.learn`). Sorted timestamps are the frames in display order, which
gives the index of every frame. That holds if each packet becomes one frame and the clock is good. In all other cases (a
clock that must be rebuilt, edit lists that drop packets, a recording that begins between key frames, packets that show
no frame, damage), there is no index and the file is decoded from the beginning: slower, but never wrong.

To begin deep in a long video, the decoder starts at a key frame, and each of its frames is checked against the index.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from av.packet import Packet

from sam3ray.config import VideoConfig
from sam3ray.video._clock import Clock, Stamp
from sam3ray.video._frame_index import FrameIndex, KeyFrame, SeekPoint
from sam3ray.video._joined import unread_rest
from sam3ray.video._movie import Hollow, KeyPlaces, hollow, is_by_tables
from sam3ray.video._opened import ByRanges, VideoSource, name_of
from sam3ray.video._pieces import Fragments, Pieces, pieces_of
from sam3ray.video._programs import CHANGED, ProgramWatch
from sam3ray.video._sampling import exact
from sam3ray.video._source import naming_errors, open_container, packets_of, video_stream
from sam3ray.video._stamps import counts_only_frames, may_leap, usual_step
from sam3ray.video._truncation import listed_packets, matroska_is_cut_off

_WORTH_IT_S = 2.0  # ranges that begin earlier are decoded from the beginning
_ONE_FRAME_EACH = frozenset({  # codecs with one frame per packet
    "av1", "dnxhd", "ffv1", "flv1", "gif", "h263", "h263p", "h264", "hevc", "huffyuv", "mjpeg", "mpeg1video",
    "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "png", "prores", "rawvideo", "utvideo", "vp8", "vp9",
    "wmv1", "wmv2",
})  # fmt: skip
_ONE_REORDERED = frozenset({"mpeg1video", "mpeg2video", "mpeg4"})  # even if libav does not know before decoding
_NO_PICTURE_BYTES = 19  # MPEG-4 has packets that repeat a frame and show nothing (libavcodec's MAX_NVOP_SIZE)


def read_index(path: VideoSource, limits: VideoConfig, until_s: float | None = None) -> FrameIndex | None:
    """The index up to a time (None: the end). Returns None if the frames can only be found by decoding.

    Raises:
        ClipError: the file cannot be read.
    """
    if not isinstance(path, ByRanges):
        return _read_index(path, limits, until_s, None)
    if path.lacks_index or (path.index is not None and path.index.reaches(until_s)):
        return path.index
    movie = hollow(path)
    if movie is None:
        ends = until_s, path.index_until_s
        until_s = None if None in ends else max(end for end in ends if end is not None)
    found = _read_index(path, limits, until_s, movie or pieces_of(path, limits))
    if found is None:
        path.lacks_index = True
    elif movie is None:
        path.learn(found)
    else:
        path.index = found
    return found


def _read_index(
    path: VideoSource, limits: VideoConfig, until_s: float | None, view: Hollow | Pieces | None
) -> FrameIndex | None:
    where = name_of(path)
    stamps, key_frames = array("q"), list[KeyFrame]()
    with open_container(view or path, limits) as container:
        stream = video_stream(container, limits, where)
        start, time_base = stream.start_time, stream.time_base
        if container.format.name == "nut":
            return None  # in joined files, reading from the beginning shows another frame
        codec = stream.codec_context.codec.canonical_name
        if start is None or not time_base or codec not in _ONE_FRAME_EACH:
            return None
        until = None if until_s is None else start + exact(until_s) / time_base
        depth = max(stream.codec_context.reorder_depth, int(codec in _ONE_REORDERED))
        shows_all, is_mpeg4 = codec != "vp8", codec == "mpeg4"
        counts_frames = counts_only_frames(container)
        clock: Clock[None] = Clock(float(time_base), usual_step(stream), start, leaps=may_leap(container))
        programs = ProgramWatch(path, container, stream)
        last_dts: int | None = None
        last_at = 0
        key_places: KeyPlaces | None = None
        with naming_errors(where, "cannot be read"):
            for packet in packets_of(container, stream):
                if packet.size == 0:
                    continue
                is_key = packet.is_keyframe if key_places is None else key_places.have(packet.pos)
                if isinstance(view, Hollow | Fragments) and not view.is_on and is_by_tables(codec):
                    key_places = KeyPlaces(stream)
                    view.hollow_out()
                pts, dts = packet.pts, packet.dts
                if pts is None or packet.is_discard or packet.is_corrupt or (counts_frames and pts != dts):
                    return None
                if dts is None and last_dts is not None:
                    return None
                if dts is not None and (dts > pts or (last_dts is not None and dts < last_dts)):
                    return None
                clock.sent(Stamp(pts, dts, is_key))
                if clock.epochs > 1 or programs.changes(packet.pos, packet.size):
                    return None
                if is_mpeg4 and packet.size <= _NO_PICTURE_BYTES:
                    return None
                if not stamps and not is_key:
                    return None  # the decoder shows part of a first group that lacks its key frame
                last_dts, last_at = dts, max(last_at, packet.pos or 0)
                if shows_all or _shows(packet):
                    stamps.append(pts)
                    if is_key:
                        piece = view.piece_of(packet.pos) if isinstance(view, Pieces) else None
                        key_frames.append(KeyFrame(pts, pts if dts is None else dts, packet.pos, piece))
                if until is not None and dts is not None and dts > until:
                    break  # dts never exceeds pts and never decreases, so no earlier frame can follow
            else:
                listed = listed_packets(container, stream)
                if (listed is not None and clock.packets < listed) or matroska_is_cut_off(path):
                    return None
                if programs.changes_at_end():
                    return None
                if isinstance(view, Fragments) and view.broken_at is not None:
                    return None
                if not isinstance(view, Fragments) and unread_rest(path, container, last_at) is not None:
                    return None
    ordered = array("q", sorted(stamps))
    if not ordered or ordered[0] < start or ordered[0] != stamps[0]:
        return None
    if any(a == b for a, b in pairwise(ordered)) or not _can_be_sorted(stamps, ordered, depth):
        return None
    return FrameIndex(ordered, start, time_base, key_frames, until_s)


@dataclass(frozen=True)
class Measured:
    """Attributes:
    duration_s: duration on the increasing clock; None if the packets do not show it.
    unread_rest: a sentence about data at the end that cannot be read.
    """

    duration_s: float | None
    unread_rest: str | None


def measure(path: VideoSource, limits: VideoConfig) -> Measured:
    """The duration of a video from the stamps of its packets, and any problem with its end.

    Raises:
        ClipError: the file cannot be read.
    """
    where = name_of(path)
    bounds: dict[int, tuple[int, int]] = {}  # range of the stamps, by epoch
    last_at, changes = 0, False
    with open_container(path, limits) as container:
        stream = video_stream(container, limits, where)
        if not stream.time_base:
            return Measured(None, None)
        step = usual_step(stream)
        clock: Clock[None] = Clock(float(stream.time_base), step, stream.start_time, leaps=may_leap(container))
        programs = ProgramWatch(path, container, stream)
        with naming_errors(where, "cannot be read"):
            for packet in packets_of(container, stream):
                last_at = max(last_at, packet.pos or 0)
                if changes := programs.changes(packet.pos, packet.size):
                    break
                if packet.size == 0 or packet.pts is None:
                    continue
                clock.sent(Stamp(packet.pts, packet.dts, packet.is_keyframe), shows=not packet.is_discard)
                low, high = bounds.get(clock.epochs, (packet.pts, packet.pts))
                bounds[clock.epochs] = min(low, packet.pts), max(high, packet.pts)
        units = sum(high - low + step for low, high in bounds.values())
        seconds = float(units * stream.time_base) if bounds else None
        changes = changes or programs.changes_at_end()
        return Measured(seconds, CHANGED if changes else unread_rest(path, container, last_at))


def _can_be_sorted(stamps: Sequence[int], ordered: Sequence[int], depth: int) -> bool:
    """Whether a decoder that reorders by so many frames shows these stamps (in decoding order) in ascending order."""
    ranks = {value: rank for rank, value in enumerate(ordered)}
    return all(ranks[value] >= place - depth for place, value in enumerate(stamps))


def _shows(packet: Packet) -> bool:
    """Whether a VP8 packet shows its frame, which alternate references do not (RFC 6386, section 9.1)."""
    return bool(memoryview(packet)[0] & 0x10)


def find_seek_point(path: VideoSource, start_s: float, limits: VideoConfig) -> SeekPoint | None:
    """The last key frame shown at or before the first frame of the range; None: decode from the beginning."""
    if start_s < _WORTH_IT_S:
        return None
    index = read_index(path, limits, start_s)
    if index is None:
        return None
    begin = index.start + exact(start_s) / index.time_base
    ranks = {value: rank for rank, value in enumerate(index.pts)}
    wanted = next((rank for rank, value in enumerate(index.pts) if value >= begin), None)
    key_frames = [key for key in index.key_frames if key.pts <= begin]
    if wanted is None or not key_frames:
        return None
    key_frame = max(key_frames, key=lambda key: key.pts)
    # Later packets may still be shown between those read, so indices beyond the last complete one are uncertain.
    vouched = {pts: rank for pts, rank in ranks.items() if rank <= wanted}
    return SeekPoint(key_frame, vouched, ranks[key_frame.pts], wanted, index.start)
