"""Remote files made of pieces that can be read independently: fragmented MP4 and Matroska.

libav would look at every fragment before it reads the first frame, and would read a Matroska without cues up to the
position that it seeks. Here it gets a view of the file in which all pieces before the first wanted one are empty boxes,
which it skips. The beginnings of pieces are noted while libav reads.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from bisect import bisect_right
from typing import BinaryIO

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video._joined import MIXED, atoms, decode_time
from sam3ray.video._opened import ByRanges, VideoSource, find, opened
from sam3ray.video._tables import check_listed
from sam3ray.video._truncation import HEAD_BYTES, element

_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_ELEMENT_BYTES = 12  # largest length of an id and a size
_ZEROS = bytes(2**18)
_OPAQUE = frozenset({b"mdat", b"free", b"skip", b"wide", b"uuid"})
_PADDING_BYTES = 16  # largest length of an empty box's header
_LOOKED_AT = 2**20  # bytes; zeros may follow the last box
_MOST_SCANNED = 64 * 2**20
_MOST_BEFORE = 10_000  # boxes or elements before the first piece


class Pieces(ByRanges):
    """A view of a file made of pieces.

    Args:
        first: start of its first piece.
        begin: start of the first piece to show; None: the first of all.
    """

    _padding_step = 2**62

    def __init__(self, source: ByRanges, first: int, begin: int | None = None) -> None:
        self.name, self.size = source.name, source.size
        self._source = source
        self._first = first
        fits = begin is not None and first + _PADDING_BYTES <= begin < self.size
        self._begin = begin if begin is not None and fits else first
        self._next = self._begin  # start of the next box, which was not looked at yet
        self._pieces = array("q")
        self._file = opened(source)

    def read_at(self, at: int, most: int) -> bytes:
        if self._first <= at < self._begin:
            return self._padding(at - self._first, self._begin - self._first, most)
        if at < self._first:
            most = min(most, self._first - at)
        data = self._source.read_at(at, most)
        while at <= self._next < min(at + len(data), self.size):  # after a jump ahead, what lies between is unknown
            place = self._next
            self._next = self._look(place)
            if self._next <= place:
                self._next = self.size
        return data

    def allow_pass(self) -> None:
        self._source.allow_pass()

    def piece_of(self, byte: int | None) -> int | None:
        """Start of the piece that contains this byte; None if unknown."""
        if byte is None or byte >= self._next:
            return None
        place = bisect_right(self._pieces, byte) - 1
        return self._pieces[place] if place >= 0 else None

    def _bytes(self, at: int, count: int) -> bytes:
        self._file.seek(at)
        return self._file.read(count)

    @abstractmethod
    def _look(self, at: int) -> int:
        """Notes the box that begins there; returns the start of the next one."""

    def _padding(self, at: int, length: int, most: int) -> bytes:
        """The bytes shown there, in an area of empty boxes. The last box may be twice as long as the others."""
        number = min(at // self._padding_step, max(0, length // self._padding_step - 1))
        begin = number * self._padding_step
        end = begin + self._padding_step if begin + 2 * self._padding_step <= length else length
        head = self._empty(end - begin)
        return head[at - begin :][:most] or _ZEROS[: min(most, end - at)]

    @abstractmethod
    def _empty(self, length: int) -> bytes:
        """The header of an empty box of this length."""


class Clusters(Pieces):
    """The clusters of a Matroska or WebM file."""

    _padding_step = 2**19  # libav treats longer elements as damage and searches byte by byte

    def _look(self, at: int) -> int:
        found = element(self._bytes(at, _ELEMENT_BYTES), 0)
        if found is None:
            return self.size
        kind, content, size = found
        if kind == _CLUSTER:
            self._pieces.append(at)
        if kind == _SEGMENT or size is None:  # a recording cannot state sizes in advance
            return at + content
        return at + content + size

    def _empty(self, length: int) -> bytes:
        return b"\xec\x01" + (length - 9).to_bytes(7, "big")


class Fragments(Pieces):
    """The fragments of an MP4 or MOV. Before libav reads them, rejects files whose frames libav would mix with those of
    another, and tables that list too many frames.

    Attributes:
        broken_at: where another box should begin but does not, which libav treats as the end.
    """

    def __init__(self, source: ByRanges, first: int, limits: VideoConfig, begin: int | None = None) -> None:
        super().__init__(source, first, begin)
        self.is_on = False
        self.broken_at: int | None = None
        self._limits = limits
        self._listed = 0
        self._last_time = -1
        self._second_at: int | None = None  # start of another file
        self._is_second = False
        self._data: list[tuple[int, int]] = []  # the latest boxes of pictures and sound

    def read_at(self, at: int, most: int) -> bytes:
        """Returns zeros for pictures and sound while `is_on`."""
        if self.is_on and at >= self._begin:
            for begin, end in self._data:
                if begin <= at < end:
                    return _ZEROS[: min(most, end - at)]
            if (begin := min((begin for begin, _ in self._data if begin > at), default=0)) > 0:
                most = min(most, begin - at)
        return super().read_at(at, most)

    def hollow_out(self) -> None:
        self.is_on = True
        self._source.expect_leaps()

    def _look(self, at: int) -> int:
        head = self._bytes(at, 16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1 and len(head) == 16:
            size = int.from_bytes(head[8:], "big")
        if size == 0 and kind == b"mdat":
            size = self.size - at
        if size < 8:
            has_more = self._bytes(at, _LOOKED_AT).strip(b"\0") or find(self._file, b"moof", at, self.size) >= 0
            if has_more:
                self.broken_at = at
            return self.size
        end = min(at + size, self.size)
        if kind == b"mdat":
            self._data = [*self._data[-7:], (min(at + 16, end), end)]
        if kind == b"ftyp":
            self._second_at = at
        if kind == b"moov":  # libav skips it
            self._is_second = self._second_at is not None
        if kind == b"moof":
            self._pieces.append(at)
            time = decode_time(self._file, at, end)
            if self._is_second and time <= self._last_time:
                raise ClipError(Reason.UNREADABLE_VIDEO, MIXED.format(self._second_at), self.name)
            self._last_time = max(self._last_time, time)
        if kind not in _OPAQUE:
            self._count(at, end)
        return at + size

    def _count(self, begin: int, end: int) -> None:
        """The number of frames in its tables, wherever these are in the box."""
        if end - begin > _MOST_SCANNED:
            message = f"it has {end - begin} bytes of tables in one place; allowed: {_MOST_SCANNED}"
            raise ClipError(Reason.OVER_LIMITS, message, self.name)
        data = self._bytes(begin, end - begin)
        at = data.find(b"trun")
        while at >= 0:
            self._listed += int.from_bytes(data[at + 8 : at + 12], "big")
            at = data.find(b"trun", at + 4)
        check_listed(self._listed, self._limits, self.name)

    def _empty(self, length: int) -> bytes:
        return b"\0\0\0\1free" + length.to_bytes(8, "big")


def pieces_of(source: VideoSource, limits: VideoConfig, begin: int | None = None) -> Pieces | None:
    """The view of a remote file from one of its pieces on; None if it is not made of pieces."""
    if not isinstance(source, ByRanges) or isinstance(source, Pieces):
        return None
    with opened(source) as file:
        if (first := _first_fragment(file, source.size)) is not None:
            return Fragments(source, first, limits, begin)
        first = _first_cluster(file, source.size)
    return None if first is None else Clusters(source, first, begin)


def _first_fragment(file: BinaryIO, size: int) -> int | None:
    """Start of the first fragment of a fragmented MP4; None for other files."""
    for number, (kind, begin, end) in enumerate(atoms(file, 0, size)):
        if (begin == 0 and not kind.isalnum()) or kind in (b"moof", b"mdat") or number > _MOST_BEFORE:
            return None
        if kind == b"moov":
            has_more = any(inner == b"mvex" for inner, _, _ in atoms(file, begin + 8, end))
            return end if has_more else None
    return None


def _first_cluster(file: BinaryIO, size: int) -> int | None:
    file.seek(0)
    found = element(file.read(HEAD_BYTES), 0)
    if found is None or found[0] != _EBML:
        return None
    at = 0
    for _ in range(_MOST_BEFORE):
        file.seek(at)
        found = element(file.read(_ELEMENT_BYTES), 0)
        if found is None or at >= size:
            return None
        kind, content, length = found
        if kind == _CLUSTER:
            return at
        if kind == _SEGMENT:
            at += content
        elif length is None:
            return None
        else:
            at += content + length
    return None
