"""One way to open a video's bytes, wherever they are: a local file, or a remote one that is read by ranges."""

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
    """A video whose bytes are fetched as they are asked for.

    Attributes:
        name: what a local file of it would be called.
        size: bytes of the file.
        index: of its frames, where it is known. `lacks_index`: its packets do not tell one.
        index_until_s: an index that is made reaches to this moment at least; None: the end.
    """

    name: str
    size: int
    index: FrameIndex | None = None
    lacks_index = False
    index_until_s: float | None = 0.0

    @abstractmethod
    def read_at(self, at: int, most: int) -> bytes:
        """Some of the bytes from an offset on, at most `most`; none only at the end.

        Raises:
            ClipError: the store fails, or has another version of the file by now; over_limits, where more was read than
                `allow_pass` has allowed.
        """

    def allow_pass(self) -> None:  # noqa: B027 - not everyone counts
        """It will be read once more, perhaps from beginning to end."""

    def expect_leaps(self) -> None:  # noqa: B027 - not everyone fetches ahead
        """Only little is read in each place from now on."""

    def expect_end(self, byte: int | None) -> None:  # noqa: B027 - not everyone fetches ahead
        """Nothing far behind this byte is read next; None: that is not known."""

    def learn(self, index: FrameIndex | None) -> None:  # noqa: B027 - not everyone has a use for it
        """Keeps the index, which took reading the file; None: it was decoded, and has none."""


VideoSource: TypeAlias = str | os.PathLike[str] | ByRanges


def folder_of(source: VideoSource) -> Path | None:
    """The folder, where the video is a local folder of frames."""
    return None if isinstance(source, ByRanges) or not os.path.isdir(source) else Path(source)


def name_of(source: VideoSource) -> str:
    """The file's name, for messages."""
    return source.name if isinstance(source, ByRanges) else Path(source).name


def size_of(source: VideoSource) -> int:
    """Bytes of the file. Raises OSError."""
    return source.size if isinstance(source, ByRanges) else os.path.getsize(source)


def opened(source: VideoSource) -> BinaryIO:
    """The file, to be read from anywhere. Raises OSError; reading a remote one raises ClipError."""
    if isinstance(source, ByRanges):
        return io.BufferedReader(RangedFile(source), _BUFFER_BYTES)
    return Path(source).open("rb")


def find(file: BinaryIO, mark: bytes, begin: int, end: int) -> int:
    """Where these bytes first occur between two offsets; -1: nowhere."""
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
    """A remote video as a file object. It fails once, and has ended from then on: no demuxer can read on after a gap.

    libav takes what it does not understand for damage and goes on behind it. PyAV raises what a file object has raised
    from the very call in which that happened, so that no packet comes after it.
    """

    def __init__(self, source: ByRanges) -> None:
        super().__init__()
        self._source = source
        self._at = 0
        self._has_failed = False
        self.name = source.name  # libav takes a hint from its suffix, as of a local file

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
            raise OSError(f"there is nothing at byte {begin + offset}")
        self._at = begin + offset
        return self._at

    def tell(self) -> int:
        return self._at
