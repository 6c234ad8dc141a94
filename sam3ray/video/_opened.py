"""Opens a video's bytes, whether it is a local file or a remote one that is read by ranges."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import BinaryIO, TypeAlias

from sam3ray.video._frame_index import FrameIndex

_BUFFER_BYTES = 16 * 2**10
_SEARCH_BYTES = 2**20


class ByRanges(ABC):
    """A remote video whose bytes are fetched on demand.

    Attributes:
        name: name of a local copy.
        size: size of the file in bytes.
        index: index of its frames, if known. `lacks_index`: its packets do not provide one.
        index_until_s: a new index must reach at least to this time; None: the end.
    """

    name: str
    size: int
    index: FrameIndex | None = None
    lacks_index = False
    index_until_s: float | None = 0.0

    @abstractmethod
    def read_at(self, at: int, most: int) -> bytes:
        """Some bytes from an offset on, at most `most`; none only at the end.

        Raises:
            ClipError: the store fails or now has another version of the file; over_limits: more was read than
                `allow_pass` permits.
        """

    def allow_pass(self) -> None:  # noqa: B027 - optional: not every source counts
        """Permits one more reading of the file, perhaps from beginning to end."""

    def expect_leaps(self) -> None:  # noqa: B027 - not everyone fetches ahead
        """From now on, little will be read at each position."""

    def expect_end(self, byte: int | None) -> None:  # noqa: B027 - not everyone fetches ahead
        """Nothing far beyond this byte is read next; None: unknown."""

    def learn(self, index: FrameIndex | None) -> None:  # noqa: B027 - optional: not every source keeps it
        """Keeps the index that was found by reading the file; None: the file was decoded and has none."""


VideoSource: TypeAlias = str | os.PathLike[str] | ByRanges


def folder_of(source: VideoSource) -> Path | None:
    """The folder, if the video is a local folder of frames."""
    return None if isinstance(source, ByRanges) or not os.path.isdir(source) else Path(source)


def name_of(source: VideoSource) -> str:
    """The file's name, for messages."""
    return source.name if isinstance(source, ByRanges) else Path(source).name


def size_of(source: VideoSource) -> int:
    """Size of the file in bytes. Raises OSError."""
    return source.size if isinstance(source, ByRanges) else os.path.getsize(source)


def opened(source: VideoSource) -> BinaryIO:
    """The file as a seekable object. Raises OSError; reading a remote file may raise ClipError."""
    if isinstance(source, ByRanges):
        return io.BufferedReader(RangedFile(source), _BUFFER_BYTES)
    return Path(source).open("rb")


def find(file: BinaryIO, mark: bytes, begin: int, end: int) -> int:
    """Position of the first occurrence of these bytes between two offsets; -1 if there is none."""
    at, kept = begin, b""
    file.seek(begin)
    while at < end and (data := file.read(min(_SEARCH_BYTES, end - at))):
        found = (kept + data).find(mark)
        if found >= 0:
            return at - len(kept) + found
        at += len(data)
        kept = (kept + data)[-len(mark) + 1 :]
    return -1


class RangedFile(io.RawIOBase):
    """A remote video as a file object. After an error it reports its end: no demuxer can continue after a gap.

    libav treats what it does not understand as damage and continues after it. PyAV raises a file object's error from
    the call in which it happened, so no further packet is returned.
    """

    def __init__(self, source: ByRanges) -> None:
        super().__init__()
        self._source = source
        self._at = 0
        self._has_failed = False
        self.name = source.name  # libav uses its suffix as a hint, as with a local file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._has_failed or self._at >= self._source.size:
            return 0
        try:
            data = self._source.read_at(self._at, len(buffer))
        except BaseException:
            self._has_failed = True
            raise
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        if begin + offset < 0:
            raise OSError(f"it has no data at byte {begin + offset}")
        self._at = begin + offset
        return self._at

    def tell(self) -> int:
        return self._at
