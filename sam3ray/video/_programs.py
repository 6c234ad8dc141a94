"""Program changes: a transport stream whose video continues in another elementary stream.

We read the file ourselves, because PyAV 18.1 cannot handle streams that appear in the middle of a file (it looks them
up beyond the end of its table, input.py:203). Parallel programs are not a change.
"""

from __future__ import annotations

from collections import Counter

from av.container import InputContainer
from av.video.stream import VideoStream

from sam3ray.video._opened import VideoSource, opened, size_of

CHANGED = "its video continues in another stream where the program changes"
_HOLE_BYTES = 2048  # bytes, mostly sound and tables between two pictures
_PICTURES = 8  # pictures of another stream while this one has none
_SEARCHED = 4 * 2**20


class ProgramWatch:
    """Gets each packet of the video in file order, and notices where another stream has video instead.

    Args:
        from_start: whether reading starts at the file's first packet, not after a seek.
    """

    def __init__(
        self, path: VideoSource, container: InputContainer, stream: VideoStream, *, from_start: bool = True
    ) -> None:
        self._path = path
        self._stream = stream
        self._works = container.format.name == "mpegts"
        self._reached: int | None = 0 if from_start else None  # start of the last packet
        self._size = 0
        self._beside: set[int] = set()  # streams that have video at the same time as this one

    def changes(self, at: int | None, size: int) -> bool:
        """Whether the program has changed before the packet that begins there."""
        if not self._works or at is None:
            return False
        begin, self._reached, length, self._size = self._reached, at, self._size, size
        if begin is None or at - begin - length - length // 8 < _HOLE_BYTES:
            return False
        found = self._others(begin, min(at, begin + length + _SEARCHED))
        self._beside |= {pid for pid, pictures in found.items() if pictures < _PICTURES}
        return bool(found.keys() - self._beside)

    def changes_at_end(self) -> bool:
        """Whether another stream has video after the last packet but not shortly before, or this stream has changed its
        codec, which a decoder would skip."""
        if not self._works or not self._reached:
            return False
        if self._changes_codec():
            return True
        before = self._others(max(0, self._reached - _SEARCHED), self._reached)
        return bool(self._others(self._reached, self._reached + _SEARCHED).keys() - before.keys() - self._beside)

    def _changes_codec(self) -> bool:
        """Whether the tables at the beginning and end of the file name different codecs for this stream."""
        with opened(self._path) as file:
            first = _kinds(file.read(_SEARCHED), self._stream.id)
            file.seek(max(0, size_of(self._path) - _SEARCHED))
            last = _kinds(file.read(), self._stream.id)
        return len(set(first[:1] + first[-1:] + last[-1:])) > 1

    def _others(self, begin: int, end: int) -> Counter[int]:
        """The number of pictures of other streams between two positions of the file, by PID."""
        with opened(self._path) as file:
            file.seek(begin)
            data = file.read(end - begin)
        found = _pictures(data)
        del found[self._stream.id]
        return found


def _kinds(data: bytes, pid: int) -> list[int]:
    """The type of a stream in each program map (ISO/IEC 13818-1, section 2.4.4.8) in these bytes, in order."""
    kinds = []
    first, spacing = _layout(data)
    for at in range(first, len(data) - 187, spacing):
        if data[at] != 0x47 or not data[at + 1] & 0x40 or not data[at + 3] & 0x10:
            continue
        payload = at + 4 + (1 + data[at + 4] if data[at + 3] & 0x20 else 0)
        section = data[payload + 1 + data[payload] : at + 188] if payload < at + 188 else b""
        if len(section) < 16 or section[0] != 0x02 or section[1] & 0xC0 != 0x80:
            continue
        end = min(len(section), 3 + ((section[1] & 0x0F) << 8 | section[2]) - 4)
        place = 12 + ((section[10] & 0x0F) << 8 | section[11])
        while place + 5 <= end:
            if ((section[place + 1] & 0x1F) << 8 | section[place + 2]) == pid:
                kinds.append(section[place])
            place += 5 + ((section[place + 3] & 0x0F) << 8 | section[place + 4])
    return kinds


def _pictures(data: bytes) -> Counter[int]:
    """Video packets (ISO/IEC 13818-1, sections 2.4.3.2 and 2.4.3.6) that begin in these bytes, by PID."""
    found: Counter[int] = Counter()
    first, spacing = _layout(data)
    for at in range(first, len(data) - 187, spacing):
        if data[at] != 0x47 or not data[at + 1] & 0x40 or not data[at + 3] & 0x10:
            continue
        payload = at + 4 + (1 + data[at + 4] if data[at + 3] & 0x20 else 0)
        if data[payload : payload + 3] == b"\0\0\1" and data[payload + 3 : payload + 4] >= b"\xe0":
            found[(data[at + 1] & 0x1F) << 8 | data[at + 2]] += data[payload + 3] <= 0xEF
    return +found


def _layout(data: bytes) -> tuple[int, int]:
    """Start of the first packet, and the packet size: 188 bytes; more on discs and with checksums."""
    for first in range(min(204, len(data))):
        for spacing in (188, 192, 204):
            if data[first : first + 2 * spacing + 1 : spacing] == b"GGG":
                return first, spacing
    return 0, 188
