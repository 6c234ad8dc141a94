"""Videos that pages are looking at, as the model's process keeps them.

A preview of a frame opens no video that was open already. The next one on the same frame, such as a click after a
click, does not decode the frame or send it through the vision backbone again. A frame that somebody rests on can be
decoded before it is clicked.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sam3ray.app._order import Order
from sam3ray.engine.vision import Sight
from sam3ray.failures import ClipError
from sam3ray.video import ClipFrames, Frame

_VIDEOS = 4
_FRAMES = 4  # over all videos: a few people click at once, or one goes to and fro

_Made = TypeVar("_Made")


@dataclass(frozen=True, eq=False)
class Glance:
    """One frame, and what the backbone makes of it."""

    frame: Frame
    sight: Sight = field(default_factory=Sight)


@dataclass(frozen=True, eq=False)
class Video:
    """A clip of a video. `positions`: by the index of the frame in the video."""

    source: ClipFrames
    positions: dict[int, int]


class Glances:
    """The latest videos, and the latest frames of them. For several threads."""

    def __init__(self) -> None:
        self._videos = _Latest[Video](_VIDEOS)
        self._frames = _Latest[Glance](_FRAMES)
        self._expects = threading.Lock()

    def video(self, order: Order) -> Video:
        """Opens an order's clip.

        Raises:
            ClipError: it cannot be read.
        """

        def open_it() -> Video:
            clip = order.clip
            source = ClipFrames(order.path, start_s=clip.start_s, end_s=clip.end_s, fps=clip.fps, limits=order.limits)
            return Video(source, {index: n for n, index in enumerate(source.indices)})

        try:
            what = facts(order)
        except OSError:
            return open_it()  # it says what is wrong
        return self._videos.get(what, open_it)

    def glance(self, video: Video, position: int) -> Glance:
        """The frame at a position of the clip. Raises ClipError."""
        return self._frames.get((video, position), lambda: Glance(next(video.source.read(position, position + 1))))

    def expect(self, order: Order, then: Callable[[], None]) -> None:
        """Decodes the frame of a preview in a thread, unless one is being decoded; calls `then` in any case."""

        def decode() -> None:
            try:
                with contextlib.suppress(ClipError):  # the preview will say it
                    self.glance(self.video(order), order.start)
            finally:
                self._expects.release()
                then()

        if self._expects.acquire(blocking=False):
            threading.Thread(target=decode, name="expected-frame", daemon=True).start()
        else:
            then()

    def clear(self) -> None:
        """Frees the frames' memory, some of it on the device."""
        self._frames.clear()


class _Latest(Generic[_Made]):
    """The values that were asked for last, by their keys. Each is made once, even if several threads ask."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._kept: list[tuple[Any, Future[_Made]]] = []  # the latest one last

    def get(self, key: Any, make: Callable[[], _Made]) -> _Made:
        with self._lock:
            known = next((each for each in self._kept if each[0] == key), None)
            entry = known or (key, Future[_Made]())
            self._kept = [*(each for each in self._kept if each is not known), entry][-self._count :]
        future = entry[1]
        if known is None:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    self._kept = [each for each in self._kept if each is not entry]
                future.set_exception(error)
                raise
        return future.result()

    def clear(self) -> None:
        with self._lock:
            self._kept = []


def facts(order: Order) -> tuple[Any, ...]:
    """What an order's frames depend on. Raises OSError if the video is gone."""
    file = os.stat(order.path)
    return order.path, file.st_size, file.st_mtime_ns, order.clip, order.limits
