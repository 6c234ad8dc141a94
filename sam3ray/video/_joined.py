"""Detects files that are several files joined byte by byte.

In transport and program streams, Matroska, AVI and raw streams, libav continues with the next file. In other containers
it reads only the first file, and reports a normal end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from av.container import InputContainer

from sam3ray.failures import ClipError, Reason
from sam3ray.video._opened import VideoSource, find, opened, size_of
from sam3ray.video._truncation import matroska_segment

# How a file begins, by demuxer, for those that stop at the end of the first of several files.
_BEGINNINGS = {
    "flv": (b"FLV\x01\x01\0\0\0\x09", b"FLV\x01\x04\0\0\0\x09", b"FLV\x01\x05\0\0\0\x09"),
    "asf": (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),),
    "gif": (b"GIF89a", b"GIF87a"),
    "nut": (b"nut/multimedia container\0",),
}
MIXED = "several files were joined byte by byte, the second at byte {}: libav mixes their frames"
_MAX_PARTS = 200_000  # boxes at the top level of a file: two per second for a day
_SEARCHED = 4 * 2**20  # bytes between the last picture of a file and the next file: sound, an index


def unread_rest(path: VideoSource, container: InputContainer, last_at: int) -> str | None:
    """A sentence about data after the end of the video that cannot be read; None if there is none.

    Args:
        last_at: start of the video's last packet.
    """
    at = _next_file_at(path, container, last_at)
    if at is None:
        return None
    return f"several files were joined byte by byte: frames of the file that begins at byte {at} cannot be read"


def is_read_alone(container: InputContainer) -> bool:
    """Whether libav reads only the first of several files of this kind that were joined."""
    return container.format.name in _BEGINNINGS or container.format.name.startswith("mov")


def _next_file_at(path: VideoSource, container: InputContainer, last_at: int) -> int | None:
    name = container.format.name
    if name.startswith("mov"):
        found = _next_movie(path)
        return None if found is None else found[0]
    marks = _BEGINNINGS.get(name)
    if marks is None or last_at <= 0:
        return None
    if name == "nut":  # libav continues with the first frame of the second file, and stops there
        return _second(path, marks[0])
    with opened(path) as file:
        file.seek(last_at)
        rest = file.read(_SEARCHED)
    places = [at for mark in marks if (at := rest.find(mark)) >= 0]
    return last_at + min(places) if places else None


def _second(path: VideoSource, mark: bytes) -> int | None:
    """Position of the second occurrence of these bytes."""
    with opened(path) as file:
        first = find(file, mark, 0, size_of(path))
        at = -1 if first < 0 else find(file, mark, first + 1, size_of(path))
    return at if at > 0 else None


def is_joined(path: VideoSource, container: InputContainer) -> bool:
    """Whether the file is several files (Matroska, AVI) that are read as one, with headers only for the first."""
    if container.format.name == "avi":
        return any(kind == b"AVI " for at, kind in _riff_chunks(path) if at > 0)
    bounds = matroska_segment(path)
    if bounds is None or bounds[0] is None or bounds[0] >= size_of(path):  # its value is arbitrary
        return False
    with opened(path) as file:
        file.seek(bounds[0])
        return file.read(4) == b"\x1a\x45\xdf\xa3"


def _riff_chunks(path: VideoSource) -> Iterator[tuple[int, bytes]]:
    with opened(path) as file:
        at = 0
        for _ in range(_MAX_PARTS):
            file.seek(at)
            head = file.read(12)
            if len(head) < 12 or head[:4] != b"RIFF":
                return
            yield at, head[8:]
            size = int.from_bytes(head[4:8], "little")
            at += 8 + size + size % 2


def check_unmixed(path: VideoSource, where: str) -> None:
    """Reject an MP4 in which libav would alternate between the frames of two files.

    Raises:
        ClipError: unreadable_video.
    """
    second = _next_movie(path)
    if second is not None and second[1]:
        raise ClipError(Reason.UNREADABLE_VIDEO, MIXED.format(second[0]), where)


def _next_movie(path: VideoSource) -> tuple[int, bool] | None:
    """Start of a second MP4 or MOV, and whether its frames would be mixed with those of the first.

    A second file has its own type, table and data. libav reads all fragments in the order of their times, which is
    correct as long as the times continue.
    """
    seen: set[bytes] = set()
    after: set[bytes] = set()
    second: int | None = None
    last_time = -1
    with opened(path) as file:
        for kind, begin, end in atoms(file, 0, file.seek(0, 2)):
            if kind == b"ftyp" and b"moov" in seen and seen & {b"mdat", b"moof"}:
                second = begin
            (seen if second is None else after).add(kind)
            if kind == b"moof":
                time = decode_time(file, begin, end)
                if second is not None and b"moov" in after and time <= last_time:
                    return second, True
                last_time = max(last_time, time)
    joined = second is not None and {b"moov", b"mdat"} <= after and last_time < 0
    return (second, False) if second is not None and joined else None


def decode_time(file: BinaryIO, begin: int, end: int) -> int:
    """The start time of a fragment's first track, in units of that track (ISO/IEC 14496-12, section 8.8.12)."""
    for kind, at, until in atoms(file, begin + 8, end):
        if kind == b"traf":
            for inner, start, _ in atoms(file, at + 8, until):
                if inner == b"tfdt":
                    file.seek(start + 8)
                    data = file.read(12)
                    return int.from_bytes(data[4:] if data[:1] == b"\1" else data[4:8], "big")
    return 0


def atoms(file: BinaryIO, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, begin, end) of the complete atoms between two offsets (section 4.2)."""
    for _ in range(_MAX_PARTS):
        if at + 8 > end:
            return
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:], "big")
        if size < 8 or at + size > end:  # 0: to the end of the file
            return
        yield head[4:8], at, at + size
        at += size
