"""Videos that pages are looking at, as the model's process keeps them.

A preview of a frame opens no video that was open already. The next one on the same frame, such as a click after a
click, does not decode the frame or send it through the vision backbone again.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from sam3ray.app._order import Order
from sam3ray.engine.vision import Sight
from sam3ray.video import ClipFrames, Frame

_VIDEOS = 4
_FRAMES = 4  # over all videos: a few people click at once, or one goes to and fro


@dataclass(frozen=True)
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
    """The latest videos, and the latest frames of them."""

    def __init__(self) -> None:
        self._videos: list[tuple[Any, Video]] = []  # the latest one last
        self._frames: OrderedDict[tuple[Video, int], Glance] = OrderedDict()

    def video(self, order: Order) -> Video:
        """Opens an order's clip.

        Raises:
            ClipError: it cannot be read.
        """
        try:
            what = facts(order)
        except OSError:
            what = ()  # `ClipFrames` says what is wrong
        known = next((each for each in self._videos if each[0] == what), None)
        if known is None:
            clip = order.clip
            source = ClipFrames(order.path, start_s=clip.start_s, end_s=clip.end_s, fps=clip.fps, limits=order.limits)
            known = what, Video(source, {index: n for n, index in enumerate(source.indices)})
        else:
            self._videos.remove(known)
        self._videos = [*self._videos, known][-_VIDEOS:]
        return known[1]

    def glance(self, video: Video, position: int) -> Glance:
        """The frame at a position of the clip."""
        key = video, position
        if key not in self._frames:
            self._frames[key] = Glance(next(video.source.read(position, position + 1)))
        self._frames.move_to_end(key)
        while len(self._frames) > _FRAMES:
            self._frames.popitem(last=False)
        return self._frames[key]

    def clear(self) -> None:
        """Frees the frames' memory, some of it on the device."""
        self._frames.clear()


def facts(order: Order) -> tuple[Any, ...]:
    """What an order's frames depend on."""
    file = os.stat(order.path)
    return order.path, file.st_size, file.st_mtime_ns, order.clip, order.limits
