"""MP4 and MOV files that are read by ranges: their tables in one place give the time of each frame.

libav's own demuxer reads and corrects the tables. In place of the pictures, which are not decoded, it gets zeros.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from av.video.stream import VideoStream

from sam3ray.video._joined import atoms
from sam3ray.video._opened import ByRanges, VideoSource, opened, size_of

# For these codecs, libav takes a packet's time, size and position only from the tables; for others, from the pictures.
_BY_TABLES = frozenset({
    "av1", "dnxhd", "h263", "h264", "hevc", "mjpeg", "mpeg4", "png", "prores", "rawvideo", "vp9",
})  # fmt: skip
_FIRST = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_ZEROS = bytes(2**18)


def picture_ranges(source: VideoSource) -> Sequence[tuple[int, int]] | None:
    """(begin, end) of each box of an MP4 or MOV with pictures and sound.

    None if the file is of another kind or also has tables between its pictures (fragments).
    """
    found: list[tuple[int, int]] = []
    has_tables = False
    with opened(source) as file:
        for kind, begin, end in atoms(file, 0, size_of(source)):
            if begin == 0 and kind not in _FIRST:
                return None
            if kind == b"moov":
                has_tables = True
                if any(inner == b"mvex" for inner, _, _ in atoms(file, begin + 8, end)):
                    return None
            elif kind == b"moof":
                return None
            elif kind == b"mdat":
                found.append((begin + 16, end))  # length of the header of a large box
    return found if has_tables else None


class Hollow(ByRanges):
    """A remote MP4 or MOV. While `is_on`, pictures and sound read as zeros and are not fetched."""

    def __init__(self, source: ByRanges, ranges: Sequence[tuple[int, int]]) -> None:
        self.name, self.size = source.name, source.size
        self.is_on = False
        self._source = source
        self._ranges = sorted(ranges)

    def read_at(self, at: int, most: int) -> bytes:
        place = bisect_right(self._ranges, (at, self.size)) - 1
        if self.is_on and place >= 0 and at < self._ranges[place][1]:
            return _ZEROS[: min(most, self._ranges[place][1] - at)]
        return self._source.read_at(at, most)

    def hollow_out(self) -> None:
        self.is_on = True

    def allow_pass(self) -> None:
        self._source.allow_pass()


def hollow(source: VideoSource) -> Hollow | None:
    """The hollow view of a file; None if the whole file must be read to find its frames."""
    ranges = picture_ranges(source) if isinstance(source, ByRanges) else None
    return Hollow(source, ranges) if ranges is not None and isinstance(source, ByRanges) else None


def needs_anchors(source: VideoSource) -> bool:
    """Whether the file is read by ranges and has no table of its frames from which to continue."""
    return isinstance(source, ByRanges) and picture_ranges(source) is None


def is_by_tables(codec: str) -> bool:
    return codec in _BY_TABLES


class KeyPlaces:
    """Positions of key frames according to the tables. Tables of fragments grow while the file is read."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._looked = 0
        self._places: set[int] = set()

    def have(self, at: int | None) -> bool:
        entries = self._stream.index_entries
        count = len(entries)
        for number in range(self._looked, count):
            entry = entries[number]
            if entry.is_keyframe:
                self._places.add(entry.pos)
        self._looked = count
        return at in self._places
