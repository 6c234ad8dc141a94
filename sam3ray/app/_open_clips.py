"""The clips that are open: as many as people look at, however many there are."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from sam3ray.app._options import AppOptions
from sam3ray.app._stills import Stills
from sam3ray.values.clip import Clip
from sam3ray.video import ClipFrames, VideoCache

_MOST_OPEN = 32
_STILLS_BYTES = 2 * 2**30  # of one clip on disk
_ALL_STILLS_BYTES = 8 * 2**30
_ROOM_S = 20.0  # that a request waits for room in the cache


@dataclass(frozen=True, eq=False)
class OpenClip:
    """An opened clip: a local path, its frames, their stills."""

    path: Path
    frames: ClipFrames
    stills: Stills

    def as_json(self) -> dict[str, Any]:
        info = self.frames.info
        return {
            "width": info.width,
            "height": info.height,
            "fps": float(info.fps) if info.fps else None,
            "codec": info.codec,
            "rotation": info.rotation,
            "indices": _packed(self.frames.indices),
            "times": [round(each, 6) for each in self.frames.times],
        }


class OpenClips:
    """Opens clips, and closes those used longest ago: each costs memory, and its stills disk.

    A video from a store is pinned in the cache only while somebody reads it, within `open`. It is then still there the
    next time, unless other videos needed its room. The thread that decodes stills pins nothing: it reads on in the file
    that it has open, or ends. Closing a clip does not end its use: whoever has it reads on.

    Args:
        folder: for stills.
    """

    def __init__(self, folder: Path, options: AppOptions) -> None:
        self._folder, self._limits = folder, options.video
        self._cache = VideoCache(None, options.video.cache_bytes, options.storage, limits=options.video, wait_s=_ROOM_S)
        self._open: OrderedDict[str, OpenClip] = OrderedDict()  # the latest last
        self._lock = threading.Lock()
        self._turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    @contextmanager
    def open(self, key: str, clip: Clip) -> Iterator[OpenClip]:
        """A clip, whose video stays where it is within the `with` block. A thread begins to decode its stills.

        Raises:
            ClipError: it cannot be read, or has no room in the cache.
        """
        with ExitStack() as stack:
            with self._turn(key):
                opened = self._again(key)
                last = None if opened is None else opened.path
                path = stack.enter_context(self._cache.open(clip.uri, last=last))
                if opened is None or opened.path != path:
                    opened = self._keep(key, self._read(key, clip, path))
            opened.stills.fill()
            yield opened

    def get(self, key: str) -> OpenClip | None:
        """A clip that is open already. Its video may be gone from the cache."""
        return self._open.get(key)

    def still(self, key: str, position: int) -> bytes | None:
        """A still of a clip that is open, even if its video is gone; None if it must be decoded."""
        opened = self._open.get(key)
        if opened is not None:
            self._use(key)
        return opened.stills.held(position) if opened is not None else None

    def first_image(self, clip: Clip) -> np.ndarray:
        """The clip's first frame, for a list: it is not kept open.

        Raises:
            ClipError: as `open`.
        """
        with self._cache.open(clip.uri) as path:
            return next(self._frames(clip, path).read(0, 1)).image

    def close(self) -> None:
        with self._lock:
            while self._open:
                self._close_oldest()
        self._cache.close()

    def _turn(self, key: str) -> threading.Lock:
        """Of the requests that open a clip: the first downloads it for all."""
        with self._lock:
            return self._turns.setdefault(key, threading.Lock())

    def _again(self, key: str) -> OpenClip | None:
        """The clip if it is open and its video still there, as the latest."""
        opened = self._open.get(key)
        if opened is None or not opened.path.exists():
            return None
        self._use(key)
        return opened

    def _use(self, key: str) -> None:
        """It is the latest."""
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)

    def _keep(self, key: str, opened: OpenClip) -> OpenClip:
        with self._lock:
            if (gone := self._open.pop(key, None)) is not None:
                gone.stills.close()
            self._open[key] = opened
        self._make_room()
        return opened

    def _make_room(self) -> None:
        """For the latest clip, beside those used last; whenever a clip is opened, or has more stills."""
        with self._lock:
            held = sum(each.stills.size_bytes for each in self._open.values())
            while len(self._open) > 1 and (len(self._open) > _MOST_OPEN or held > _ALL_STILLS_BYTES):
                held -= self._close_oldest()

    def _close_oldest(self) -> int:
        """Returns the bytes that its stills had."""
        _, oldest = self._open.popitem(last=False)
        return oldest.stills.close()

    def _read(self, key: str, clip: Clip, path: Path) -> OpenClip:
        frames = self._frames(clip, path)
        len(frames.indices)  # raises now if the file cannot be read
        return OpenClip(path, frames, Stills(frames, self._folder / f"{key}.stills", _STILLS_BYTES, self._make_room))

    def _frames(self, clip: Clip, path: Path) -> ClipFrames:
        return ClipFrames(path, start_s=clip.start_s, end_s=clip.end_s, fps=clip.fps, limits=self._limits)


def _packed(indices: Sequence[int]) -> list[int] | None:
    """None where positions and indices are the same."""
    return None if all(n == index for n, index in enumerate(indices)) else list(indices)
