"""Sources of frames for an engine that needs frames more than once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, runtime_checkable

from sam3ray.video import Frame, FrameStamp

_CHUNK_BYTES = 256 * 2**20  # decoded frames held while a clip is read backward


@runtime_checkable
class FrameSource(Protocol):
    """A clip whose frames can be read again.

    Positions count the frames of the clip (its range, as sampled) from 0; `Frame.index` counts in
    the source video. All frames are `height` x `width` pixels.
    """

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames at the positions start..stop-1 (None: to the end), in order, decoded on demand."""
        ...


@runtime_checkable
class Stamped(Protocol):
    """A source that knows its frames without decoding them, as `sam3ray.video.ClipFrames` mostly does."""

    def stamps(self) -> Iterator[FrameStamp]:
        """Like `read`, without images."""
        ...


def stamps_of(source: FrameSource) -> Iterator[FrameStamp]:
    """The stamps of a source's frames. A source that is not `Stamped` is read for them."""
    return source.stamps() if isinstance(source, Stamped) else map(FrameStamp.of, source.read())


def position_of(source: FrameSource, index: int | None) -> int | None:
    """The position in the clip of the frame with this source index (None: the last frame); None if it is not read."""
    position = -1
    for position, stamp in enumerate(stamps_of(source)):
        if stamp.index == index:
            return position
    return position if index is None and position >= 0 else None


class OnePass:
    """A stream of frames as a `FrameSource` that can be read once, from its beginning."""

    def __init__(self, frames: Iterable[Frame], height: int, width: int) -> None:
        self.height = height
        self.width = width
        self._frames: Iterator[Frame] | None = iter(frames)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        if self._frames is None or start or stop is not None:
            raise ValueError(
                "these frames can be read only once, forward; pass a source that can be read again, such as ClipFrames"
            )
        frames, self._frames = self._frames, None
        return frames


def read_backward(source: FrameSource, stop: int) -> Iterator[tuple[int, Frame]]:
    """(position, frame) from stop - 1 down to 0, decoded in chunks: a bounded number is held at a time.

    The next chunk is decoded in a thread while this one is used.
    """
    chunk = min(64, max(4, _CHUNK_BYTES // 2 // (source.height * source.width * 3)))

    def decode(stop: int) -> list[Frame]:
        return list(source.read(max(0, stop - chunk), stop))

    with ThreadPoolExecutor(1, "decode-backward") as pool:
        coming = pool.submit(decode, stop)
        while stop > 0:
            start, frames = max(0, stop - chunk), coming.result()
            if len(frames) != stop - start:
                raise ValueError(
                    f"frames {start} to {stop - 1} were asked for, {len(frames)} came: the source is not stable"
                )
            if start:
                coming = pool.submit(decode, start)
            for offset in range(len(frames) - 1, -1, -1):
                yield start + offset, frames.pop()
            stop = start
