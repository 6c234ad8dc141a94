"""MP4 and MOV files read by ranges: all their tables lie in one place, so when each frame is shown is known without it.

libav's own demuxer reads the tables, and all that it corrects in them. It is given zeros for the pictures, which nobody
decodes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from av.video.stream import VideoStream

from sam3ray.video._joined import atoms
from sam3ray.video._opened import ByRanges, VideoSource, opened, size_of

# Of these, libav takes a packet's time, size and place from the tables alone. Of others it looks into the pictures.
_BY_TABLES = frozenset({
    "av1", "dnxhd", "h263", "h264", "hevc", "mjpeg", "mpeg4", "png", "prores", "rawvideo", "vp9",
})  # fmt: skip
_FIRST = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_ZEROS = bytes(2**18)


def picture_ranges(source: VideoSource) -> Sequence[tuple[int, int]] | None:
    """Where an MP4 or MOV keeps its pictures and sound: (begin, end) of each such box.

    None where the file is no such, or has tables between its pictures, too (fragments).
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
                found.append((begin + 16, end))  # of a large one the head takes so many bytes
    return found if has_tables else None


class Hollow(ByRanges):
    """A remote MP4 or MOV in which, once `is_on`, there are zeros for pictures and sound: they are not fetched."""

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
    """None where all of the file has to be read to know its frames."""
    ranges = picture_ranges(source) if isinstance(source, ByRanges) else None
    return Hollow(source, ranges) if ranges is not None and isinstance(source, ByRanges) else None


def needs_anchors(source: VideoSource) -> bool:
    """Whether it is read by ranges, and has no table of its frames to continue by."""
    return isinstance(source, ByRanges) and picture_ranges(source) is None


def is_by_tables(codec: str) -> bool:
    return codec in _BY_TABLES


class KeyPlaces:
    """Where the packets begin that the tables call key frames. Those of fragments grow while they are read."""

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
