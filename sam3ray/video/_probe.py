"""The facts of a video: from its headers and its first frame."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.guard import fence
from sam3ray.video._decode import decode
from sam3ray.video._folder import probe_folder
from sam3ray.video._frame import VideoInfo
from sam3ray.video._index import measure as measure_packets
from sam3ray.video._joined import check_unmixed, is_joined, is_read_alone, unread_rest
from sam3ray.video._opened import ByRanges, VideoSource, folder_of, name_of, opened, size_of
from sam3ray.video._pieces import Fragments, pieces_of
from sam3ray.video._source import check_pixels, display_matrix, open_container, packets_of, rotation_of, video_stream
from sam3ray.video._stamps import may_leap
from sam3ray.video._tables import check_tables, is_fragmented
from sam3ray.video._truncation import HEAD_BYTES, intact_until

MEASURED_BYTES = 2**30
_DECODER_BYTES = 2**29  # memory of a decoder and its threads, besides pictures
_BYTES_PER_CPU_S = 50 * 2**20  # a fragmented file is read to its end
_SMALL_BYTES = 16 * 2**20  # smaller files are read whole, which is cheap
_PICTURE_BYTES = 64  # per pixel: several pictures of four channels of 16 bits


def probe_guarded(path: VideoSource, limits: VideoConfig) -> VideoInfo:
    """Like `probe`, but in a separate process, for callers that must survive a crash of the decoder.

    If it succeeds, the caller may open the file: its tables take at most `limits.max_open_bytes` of memory.
    """
    if (folder := folder_of(path)) is not None:
        return probe_folder(folder, limits)
    name = name_of(path)
    cpu_s = limits.max_frame_decode_s + _size(path) / _BYTES_PER_CPU_S
    try:
        if isinstance(path, ByRanges):
            asking = AskedVideo(path.name, path.size)
            info: VideoInfo = fence.fenced(
                probe, asking, limits, memory_bytes=limits.max_open_bytes, cpu_s=cpu_s, answer=asking.answers_of(path)
            )
        else:
            local = os.path.abspath(path)
            info = fence.fenced(probe, local, limits, memory_bytes=limits.max_open_bytes, cpu_s=cpu_s)
    except MemoryError:
        raise ClipError(Reason.OVER_LIMITS, "it needs more memory than is available", name) from None
    except fence.HelperTimedOut:
        message = f"it could not be opened within {cpu_s:.0f} s of processor time"
        raise ClipError(Reason.OVER_LIMITS, message, name) from None
    except fence.HelperDied as error:
        raise ClipError(Reason.UNREADABLE_VIDEO, f"the decoder {error} when it was opened", name) from None
    return info


def _size(path: VideoSource) -> int:
    try:
        return size_of(path)
    except OSError:
        return 0  # reported when it is opened


def probe(path: VideoSource, limits: VideoConfig, *, measure: bool = False) -> VideoInfo:
    """The facts of a video file or a local folder of numbered frames.

    One frame is decoded, because frames carry the rotation, and headers of damaged files may be wrong.

    Args:
        measure: also read the packets (half a gigabyte per second), to replace an estimated duration and to find files
            joined to this one, unless the file is larger than MEASURED_BYTES.

    Raises:
        ClipError: not_found, permission_denied, unreadable_video, no_video_stream, over_limits.
    """
    if (folder := folder_of(path)) is not None:
        return probe_folder(folder, limits)
    name = name_of(path)
    with open_container(path, limits) as container:
        stream = video_stream(container, limits, name)
        facts = headers(container, stream)
        size = size_of(path)
        with opened(path) as file:
            head = file.read(HEAD_BYTES)
        facts = replace(facts, intact_s=intact_until(container, stream, size, head))
        check_tables(container, path, limits, name)
        fence.allow_memory(_DECODER_BYTES + facts.width * facts.height * _PICTURE_BYTES)
        first = _first_packet_alone(container, stream)
        reads_on = isinstance(pieces_of(path, limits), Fragments)  # its tables are checked when they are read
        if reads_on:
            facts = replace(facts, duration_s=None, frame_count=None)  # covers what was read so far
        if not isinstance(path, ByRanges) and (size < _SMALL_BYTES or is_fragmented(path)):
            fence.allow_memory(limits.max_open_bytes)
            _walk(container, name)
            check_tables(container, path, limits, name)
        if is_joined(path, container):
            facts = replace(facts, duration_is_estimate=True)
        wants_measure = measure and (facts.duration_is_estimate or is_read_alone(container))
        if container.format.name.startswith("mov") and not reads_on:
            check_unmixed(path, name)
            wants_measure = False
            if measure:
                facts = replace(facts, unread_rest=unread_rest(path, container, 0))
    if wants_measure and size <= MEASURED_BYTES:
        facts = _measured(facts, path, limits)
    if first is None:
        first = next(iter(decode(path, limits))).coded
    check_pixels(first.width, first.height, limits, name)
    return with_first_frame(facts, first, size)


@dataclass(frozen=True)
class AskedVideo(ByRanges):
    """A remote video in a helper process, which requests each range from its caller."""

    name: str
    size: int

    def read_at(self, at: int, most: int) -> bytes:
        data: bytes = fence.ask((at, most))
        return data

    @staticmethod
    def answers_of(video: ByRanges) -> Callable[[tuple[int, int]], bytes]:
        return lambda asked: video.read_at(*asked)


def _walk(container: InputContainer, where: str) -> None:
    """Read every packet without decoding, because some tables are read on the way.

    Raises:
        ClipError: over_limits: tables take more memory than allowed. Other damage is reported when decoding.
    """
    try:
        for _ in container.demux():
            pass
    except (av.error.MemoryError, MemoryError) as error:
        raise ClipError(Reason.OVER_LIMITS, "it needs more memory than is available", where) from error
    except (av.error.FFmpegError, OSError, IndexError):  # IndexError: see `packets_of`
        pass


def _measured(facts: VideoInfo, path: VideoSource, limits: VideoConfig) -> VideoInfo:
    """The facts, completed with the video's end according to its packets."""
    found = measure_packets(path, limits)
    facts = replace(facts, unread_rest=found.unread_rest)
    if found.duration_s is None or not facts.duration_is_estimate:
        return facts
    count = None if facts.fps is None else round(found.duration_s * facts.fps)
    return replace(facts, duration_s=found.duration_s, frame_count=count, duration_is_estimate=False)


def _first_packet_alone(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    """The picture in the first packet. A decoder that reorders would need many more packets before it returns one.

    None if that packet depends on others; then `decode` finds the first frame or the problem.
    """
    codec = stream.codec_context
    codec.thread_count = 1
    try:
        packet = next(packets_of(container, stream), None)
        if packet is None or packet.size == 0 or not packet.is_keyframe:
            return None
        frames = codec.decode(packet) or codec.decode(None)
    except (av.error.FFmpegError, OSError, MemoryError):
        return None
    return frames[0] if frames else None


def headers(container: InputContainer, stream: VideoStream) -> VideoInfo:
    """The facts in the headers. Sizes are those of coded pictures, before rotation."""
    rate = stream.average_rate or stream.guessed_rate
    fps = rate if rate and rate > 0 else None
    time_base = stream.time_base or Fraction(1, 1000)
    duration_s = None
    if stream.duration is not None and stream.duration > 0:
        duration_s = float(stream.duration * time_base)
    elif container.duration is not None and container.duration > 0:
        duration_s = container.duration / 1_000_000
    frame_count = _listed_frames(container, stream)
    if frame_count is None and duration_s is not None and fps is not None:
        frame_count = round(duration_s * fps)
    elif frame_count != stream.frames and frame_count is not None and duration_s:
        fps = Fraction(frame_count / duration_s).limit_denominator(1001)  # the header's rate counts empty packets, too
    codec = stream.codec_context.codec.canonical_name
    has_audio = bool(container.streams.audio)
    return VideoInfo(
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        fps=fps,
        duration_s=duration_s,
        frame_count=frame_count,
        time_base=time_base,
        codec=codec,
        has_audio=has_audio,
        duration_is_estimate=may_leap(container),
        pixel_aspect=_pixel_aspect(stream),
    )


def _listed_frames(container: InputContainer, stream: VideoStream) -> int | None:
    """The number of frames in the container's header or table.

    The header of an AVI counts packets; if its clock is faster than its frames, every second packet or more is empty. A
    cut-off AVI has no table, and its header also counts missing packets.
    """
    if container.format.name != "avi":
        return stream.frames or None
    entries = stream.index_entries
    if not len(entries) or not stream.duration or entries[-1].timestamp < 0.9 * stream.duration:
        return None
    return sum(entry.size > 0 for entry in entries)


def with_first_frame(facts: VideoInfo, first: VideoFrame, size_bytes: int | None) -> VideoInfo:
    """The facts with the size of the displayed frame and its rotation."""
    rotation = rotation_of(display_matrix(first))
    width, height = first.width, first.height
    if rotation in (90, 270):
        width, height = height, width
    aspect = 1 / facts.pixel_aspect if rotation in (90, 270) else facts.pixel_aspect
    return replace(facts, width=width, height=height, rotation=rotation, size_bytes=size_bytes, pixel_aspect=aspect)


def _pixel_aspect(stream: VideoStream) -> Fraction:
    """The pixel aspect of the coded picture; 1 if there is none or it is implausible."""
    aspect = stream.sample_aspect_ratio
    return aspect if aspect and Fraction(1, 8) <= aspect <= 8 else Fraction(1)


def check_duration(
    info: VideoInfo, start_s: float | None, end_s: float | None, limits: VideoConfig, where: str
) -> None:
    """Reject a range that is longer than allowed according to the container."""
    if info.duration_s is None or info.duration_is_estimate:
        return  # only reading shows it
    seconds = min(info.duration_s, end_s if end_s is not None else info.duration_s) - (start_s or 0.0)
    if seconds > limits.max_duration_s:
        raise ClipError(
            Reason.OVER_LIMITS,
            f"the clip lasts {seconds:.1f} s; allowed: at most {limits.max_duration_s:g} (video.max_duration_s)",
            where,
        )
