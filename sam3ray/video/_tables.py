"""The tables of a container: how much memory they take, whatever they say of themselves.

A table of an MP4 may say "a thousand million samples of one byte each" in twenty bytes, and libav then allocates for
each of them. If that fails, it continues without a table and without an error, so a limit on memory alone would turn a
bomb into a video of one frame.
"""

from __future__ import annotations

import struct

from av.container import InputContainer

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video._opened import VideoSource, find, opened, size_of

ENTRY_BYTES = 64  # per listed frame: libav 62 takes 10 to 64, by the kinds of tables
_HEAD_BYTES = 16
_MAX_BOXES = 100_000


def check_tables(container: InputContainer, path: VideoSource | None, limits: VideoConfig, where: str) -> None:
    """Refuse an MP4 whose tables list more frames than there may be. Other containers list no frames without bytes.

    Args:
        path: of the file, where all of it may be read.

    Raises:
        ClipError: over_limits.
    """
    if not container.format.name.startswith("mov"):
        return
    listed, is_missing = 0, False
    for stream in container.streams:
        built = len(stream.index_entries)
        # Sound without compression is listed by chunks. No entries at all: perhaps they did not fit into memory.
        listed += max(built, stream.frames or 0) if stream.type == "video" or not built else built
        is_missing |= stream.type == "video" and not built
    if is_missing and path is not None:
        listed = max(listed, _largest_sample_table(path))
    check_listed(listed, limits, where)


def check_listed(listed: int, limits: VideoConfig, where: str) -> None:
    """Raises ClipError over_limits if tables of so many frames take more memory than allowed."""
    if listed * ENTRY_BYTES > limits.max_open_bytes:
        raise ClipError(
            Reason.OVER_LIMITS,
            f"its tables list {listed} frames, which take {listed * ENTRY_BYTES} bytes of memory; "
            f"allowed: at most {limits.max_open_bytes} (video.max_open_bytes)",
            where,
        )


def _largest_sample_table(path: VideoSource) -> int:
    """The highest number of samples that one of the file's `stsz` boxes speaks of."""
    highest = 0
    size = size_of(path)
    with opened(path) as file:
        start = find(file, b"moov", 0, size)
        at = find(file, b"stsz", start, size) if start >= 0 else -1
        for _ in range(_MAX_BOXES):
            if at < 0 or at + 16 > size:
                break
            file.seek(at + 12)
            highest = max(highest, struct.unpack(">I", file.read(4))[0])
            at = find(file, b"stsz", at + 4, size)
    return highest


def is_fragmented(path: VideoSource) -> bool:
    """Whether an MP4 has tables between its frames, too (`moof`), or may have."""
    size = size_of(path)
    with opened(path) as file:
        at = 0
        for _ in range(_MAX_BOXES):
            if at >= size:  # a box may say that it is longer than any disk
                return False
            file.seek(at)
            head = file.read(_HEAD_BYTES)
            if len(head) < 8:
                return False
            length, name = struct.unpack(">I4s", head[:8])
            if length == 1 and len(head) == _HEAD_BYTES:
                length = struct.unpack(">Q", head[8:])[0]
            if length == 0:
                length = size - at
            if at == 0 and not name.isalnum():
                return False  # no MP4
            if name == b"moof":
                return True
            if name == b"moov":
                return find(file, b"mvex", at, min(at + length, size)) >= 0
            if length < 8:
                return True  # damaged: libav may still find its way
            at += length
    return True
