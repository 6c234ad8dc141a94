"""Opens a video file: which files are allowed, which stream is the video, how frames are rotated.

Files are untrusted. So demuxers that follow references to other files or hosts (playlists, concatenation scripts, image
sequences) are disabled, and only the file itself is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video._opened import ByRanges, RangedFile, VideoSource
from sam3ray.video._pieces import Fragments, pieces_of

# Self-contained containers. Audio-only ones are listed to tell them apart from damaged files.
DEMUXERS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,h264,hevc,vvc,av1,obu,ivf,m4v,vc1,rm,gif,dv,nut,"
    "yuv4mpegpipe,wtv,gxf,mp3,wav,w64,flac,aac,ac3,eac3,aiff,au,caf,amr,dts,truehd"
)
_DAMAGED = "it is damaged or not a video file; play it to check, then convert or remove it"
_WORDS: dict[type[av.error.FFmpegError], str] = {
    av.error.PatchWelcomeError: "it uses a feature that libav does not support; convert it, for example with ffmpeg",
    av.error.DecoderNotFoundError: "its video codec is not supported; convert it, for example to H.264 with ffmpeg",
    av.error.DemuxerNotFoundError: "its container format is not supported; convert it, for example to MP4 with ffmpeg",
    av.error.EOFError: "it ends too early; copy or download it again",
}
_READ_BYTES = 64 * 2**10  # bytes of a remote file read at a time
_NOT_A_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


@contextmanager
def naming_errors(where: str, doing: str) -> Iterator[None]:
    """Turn errors of libav and the system into a `ClipError` that names the operation."""
    try:
        yield
    except (av.error.MemoryError, MemoryError) as error:
        raise ClipError(Reason.OVER_LIMITS, f"{doing}: it needs more memory than is available", where) from error
    except av.error.FFmpegError as error:
        # Demuxers also use system codes such as EACCES for problems inside a file.
        raise ClipError(Reason.UNREADABLE_VIDEO, f"{doing}: {_in_words(error)}", where) from error
    except FileNotFoundError as error:
        raise ClipError(Reason.NOT_FOUND, "the file does not exist", where) from error
    except PermissionError as error:
        raise ClipError(Reason.PERMISSION_DENIED, "permission denied: the file cannot be read", where) from error
    except OSError as error:
        # A local disk, not a store: EIO and similar are the node's fault.
        raise ClipError(Reason.STORAGE, f"{doing}: {error.strerror or error}", where) from error


def _in_words(error: av.error.FFmpegError) -> str:
    """What libav's error means for the file, and what to do; libav's own text in brackets."""
    said = " ".join((error.strerror or str(error)).split())
    for kind, words in _WORDS.items():
        if isinstance(error, kind):
            return f"{words} ({said})"
    return f"{_DAMAGED} ({said})"


@contextmanager
def open_container(source: VideoSource, limits: VideoConfig) -> Iterator[InputContainer]:
    """Open a file for demuxing, after checking its size.

    Raises:
        ClipError: not_found, permission_denied, over_limits (size), unreadable_video (not a known container). For a
            remote file, also the errors of `ByRanges.read_at`, even later.
    """
    if isinstance(source, ByRanges):
        container = _open_remote(pieces_of(source, limits) or source)
    else:
        container = _open_local(os.path.abspath(source), limits)
    try:
        yield container
    finally:
        container.close()


def _open_remote(source: ByRanges) -> InputContainer:
    """Open a remote file, whose size was checked before."""
    source.allow_pass()
    # Tables between pictures are read when needed, not all in advance.
    flags = {"fflags": "ignidx"} if isinstance(source, Fragments) else {}
    with naming_errors(source.name, "cannot be opened"):
        return av.open(
            RangedFile(source),
            "r",
            container_options={"protocol_whitelist": "none", "format_whitelist": DEMUXERS, **flags},
            metadata_errors="replace",
            buffer_size=_READ_BYTES,
        )


def _open_local(path: str, limits: VideoConfig) -> InputContainer:
    name = Path(path).name
    with naming_errors(name, "cannot be opened"):
        status = os.stat(path)
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO waits for a writer, and a device may never end
            raise ClipError(Reason.UNREADABLE_VIDEO, "it is not a regular file", name)
        if size == 0:
            raise ClipError(Reason.UNREADABLE_VIDEO, "the file is empty", name)
        if size > limits.max_size_bytes:
            raise ClipError(
                Reason.OVER_LIMITS,
                f"the file has {size} bytes; allowed: at most {limits.max_size_bytes} (video.max_size_bytes)",
                name,
            )
        with open(path, "rb"):  # libav reports a folder like a file without permission
            pass
        return av.open(
            "file:" + path,
            container_options={"protocol_whitelist": "file", "format_whitelist": DEMUXERS},
            metadata_errors="replace",
        )


def _what_it_holds(container: InputContainer) -> str:
    """The message for a file without a video stream, which names what it contains instead."""
    kinds = {
        "a cover picture or thumbnails" if stream.type == "video" else str(stream.type) for stream in container.streams
    }
    holds = " and ".join(sorted(kinds, key=lambda kind: (kind.startswith("a "), kind)))
    content = f"it contains only {holds}" if holds else "it contains no streams"
    return f"the file has no video stream: {content}; remove it from the manifest"


def video_stream(container: InputContainer, limits: VideoConfig, where: str) -> VideoStream:
    """The stream that a player would show, ready to decode; never cover art.

    Raises:
        ClipError: no_video_stream, unreadable_video (no decoder), over_limits (pixels).
    """
    streams = [s for s in container.streams.video if not s.disposition & _NOT_A_VIDEO]
    if not streams:
        raise ClipError(Reason.NO_VIDEO_STREAM, _what_it_holds(container), where)
    best = container.streams.best("video")
    stream = best if best in streams else streams[0]
    assert isinstance(stream, VideoStream)
    codec = stream.codec_context
    if codec is None:
        raise ClipError(Reason.UNREADABLE_VIDEO, "its video codec is not supported (no decoder for it)", where)
    check_pixels(codec.width, codec.height, limits, where)
    # Frame threads hide decoding errors from the caller and hold one frame per core. Slice threads do neither, and
    # their output does not depend on the number of cores.
    codec.thread_type = "SLICE"
    codec.thread_count = min(4, os.cpu_count() or 1)
    codec.options = {**codec.options, "max_pixels": str(limits.max_pixels)}
    return stream


def packets_of(container: InputContainer, stream: Stream) -> Iterator[Packet]:
    """The packets of one stream, like `container.demux`.

    If a stream appears in the middle of a file, PyAV 18.1 may fail to find that stream at the end of the file
    (input.py:236). All packets have been returned by then.
    """
    try:
        yield from container.demux(stream)
    except IndexError:
        return


def check_pixels(width: int, height: int, limits: VideoConfig, where: str) -> None:
    if width * height > limits.max_pixels:
        raise ClipError(
            Reason.OVER_LIMITS,
            f"frames have {width}x{height} pixels; allowed: at most {limits.max_pixels} in all (video.max_pixels)",
            where,
        )


def display_matrix(frame: VideoFrame) -> np.ndarray | None:
    """A frame's 3x3 display matrix (int32, for row vectors: (x, y) becomes (ax + cy, bx + dy))."""
    try:
        # `frame.side_data` would hold the frame and be held by it: megabytes that stay until Python's next full
        # collection, and that is rare in a large process.
        entries: list[Any] = list(SideDataContainer(frame))  # type: ignore[call-arg]
    except ValueError:
        # PyAV 18.1 does not know side data added after FFmpeg 6.1 (EXIF, MV-HEVC views), and then returns none.
        # What remains of the matrix is its angle, which does not describe mirrored pictures.
        return _TURNS[round(-frame.rotation / 90) % 4]
    for entry in entries:
        if entry.type == SideDataType.DISPLAYMATRIX:
            return np.frombuffer(bytes(entry)[:36], np.int32).reshape(3, 3)
    return None


_TURNS = (  # by quarter turns clockwise
    None,
    np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], np.int32),
    np.array([[-1, 0, 0], [0, -1, 0], [0, 0, 1]], np.int32),
    np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.int32),
)


def rotation_of(matrix: np.ndarray | None) -> int:
    """Clockwise rotation that a player applies to the coded frame, in degrees, to the nearest quarter turn."""
    if matrix is None:
        return 0
    (a, b), (c, d) = matrix[:2, :2].astype(np.int64).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return 90 if b > 0 else 270
    return 180 if a < 0 else 0


def displayed(image: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Rotate and mirror a coded image (height, width, channels) as a player does; C-contiguous.

    Angles are rounded to a multiple of 90 degrees, as in players.
    """
    if matrix is None:
        return image
    (a, b), (c, d) = matrix[:2, :2].astype(np.int64).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        image = image.transpose(1, 0, 2)
        across, down = c, b
    else:
        across, down = a, d
    if down < 0:
        image = image[::-1]
    if across < 0:
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
