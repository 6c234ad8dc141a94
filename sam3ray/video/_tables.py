"""Limits the memory for the tables of a container.

In twenty bytes, a table of an MP4 can state "a thousand million samples of one byte each", and libav allocates memory
for each. If that fails, it continues without a table and without an error. So a limit on memory alone would make a
video of one frame out of a malicious file.
"""

from __future__ import annotations

import struct

from av.container import InputContainer

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video._opened import VideoSource, find, opened, size_of

ENTRY_BYTES = 64  # per listed frame; libav 62 needs 10 to 64, depending on the tables
_HEAD_BYTES = 16
_MAX_BOXES = 100_000


def check_tables(container: InputContainer, path: VideoSource | None, limits: VideoConfig, where: str) -> None:
    """Reject an MP4 whose tables list too many frames. Other containers cannot list frames without data.

    Args:
        path: path of the file, if all of it may be read.

    Raises:
        ClipError: over_limits.
    """
    if not container.format.name.startswith("mov"):
        return
    listed, is_missing = 0, False
    for stream in container.streams:
        built = len(stream.index_entries)
        # Uncompressed sound is listed by chunks. No entries at all may mean that they did not fit into memory.
        listed += max(built, stream.frames or 0) if stream.type == "video" or not built else built
        is_missing |= stream.type == "video" and not built
    if is_missing and path is not None:
        listed = max(listed, _largest_sample_table(path))
    check_listed(listed, limits, where)


def check_listed(listed: int, limits: VideoConfig, where: str) -> None:
    """Raises ClipError (over_limits) if tables of so many frames take more memory than allowed."""
    if listed * ENTRY_BYTES > limits.max_open_bytes:
        raise ClipError(
            Reason.OVER_LIMITS,
            f"its tables list {listed} frames, which take {listed * ENTRY_BYTES} bytes of memory; "
            f"allowed: at most {limits.max_open_bytes} (video.max_open_bytes)",
            where,
        )


def _largest_sample_table(path: VideoSource) -> int:
    """The largest number of samples in any of the file's `stsz` boxes."""
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
    """Whether an MP4 has, or may have, tables between its frames (`moof`)."""
    size = size_of(path)
    with opened(path) as file:
        at = 0
        for _ in range(_MAX_BOXES):
            if at >= size:  # a box may claim to be longer than any disk
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
                return False  # not an MP4
            if name == b"moof":
                return True
            if name == b"moov":
                return find(file, b"mvex", at, min(at + length, size)) >= 0
            if length < 8:
                return True  # damaged, but libav may still read it
            at += length
    return True
