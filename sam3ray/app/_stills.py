"""The exact picture of any frame of a clip, as JPEG.

Browsers seek by time, so with variable frame rates they can land on a neighbouring frame, and they play neither HEVC
nor MPEG-4 part 2. Here, the decoder that feeds the model counts the frames. A thread decodes the clip once, from its
beginning, into one file; frames that it has not reached are decoded on demand.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from sam3ray.failures import ClipError
from sam3ray.video import ClipFrames

_QUALITY = 88
_LONGEST_SIDE = 1920  # of a still; clicks are in pixels of the source all the same
_THUMB_SIDE = 160  # of a picture in a list
_SOON = 24  # frames that the thread reaches sooner than a seek would
_LOOSE = 48  # stills held in memory that lie ahead of the thread


class Stills:
    """Stills of one clip, for any number of threads.

    Args:
        frames: the clip.
        path: the file that holds them, of at most `max_bytes`.
        grows: called before the file grows: `size_bytes` already has its new size. It may close this one.

    Attributes:
        size: (height, width) of a still.
        size_bytes: of the file.
    """

    def __init__(
        self, frames: ClipFrames, path: Path, max_bytes: int, grows: Callable[[], None] = lambda: None
    ) -> None:
        self._frames, self._path, self._max_bytes, self._grows = frames, path, max_bytes, grows
        scale = min(1.0, _LONGEST_SIDE / max(frames.height, frames.width))
        self.size = max(1, round(frames.height * scale)), max(1, round(frames.width * scale))
        self._ends = array("q")  # of each still in the file
        self.size_bytes = 0
        self._changed = threading.Condition()
        self._is_begun = self._is_filling = self._is_over = False
        self._loose: OrderedDict[int, bytes] = OrderedDict()
        self._seeking = threading.Lock()

    def fill(self) -> None:
        """Starts the thread, once."""
        with self._changed:
            if self._is_begun or self._is_over:
                return
            self._is_begun = self._is_filling = True
        threading.Thread(target=self._fill, name="stills", daemon=True).start()

    def close(self) -> int:
        """Deletes the file, and returns the bytes that it had. From then on, frames are decoded on demand."""
        with self._changed:
            size, self.size_bytes = self.size_bytes, 0
            self._is_over, self._is_filling, self._ends = True, False, array("q")
            self._path.unlink(missing_ok=True)
            self._changed.notify_all()
            return size

    def held(self, position: int) -> bytes | None:
        """JPEG of the frame, if it is in the file or in memory."""
        with self._changed:
            if 0 <= position < len(self._ends):
                start = self._ends[position - 1] if position else 0
                with open(self._path, "rb") as file:
                    file.seek(start)
                    return file.read(self._ends[position] - start)
        return self._loose.get(position)

    def get(self, position: int) -> bytes:
        """JPEG of the frame at a position of the clip.

        Raises:
            ClipError: the video cannot be read there.
        """
        with self._changed:
            while self._is_filling and len(self._ends) <= position <= len(self._ends) + _SOON:
                self._changed.wait()
        if (data := self.held(position)) is not None:
            return data
        with self._seeking:
            if position not in self._loose:
                self._loose[position] = self._encoded(next(self._frames.read(position, position + 1)).image)
                if len(self._loose) > _LOOSE:
                    self._loose.popitem(last=False)
            self._loose.move_to_end(position)
            return self._loose[position]

    def _fill(self) -> None:
        try:
            for frame in self._frames.read():
                if not self._put(self._encoded(frame.image)):
                    return
        except (ClipError, OSError):
            return  # a request for a later frame gets the error, or the video again if the cache has removed it
        finally:
            with self._changed:
                self._is_filling = False
                self._changed.notify_all()

    def _put(self, data: bytes) -> bool:
        """Adds a still to the file; False if it has no room."""
        with self._changed:
            size = self.size_bytes + len(data)
            if self._is_over or size > self._max_bytes:
                return False
            self.size_bytes = size
        self._grows()
        with self._changed:
            if self._is_over:
                return False
            with open(self._path, "ab" if self._ends else "wb") as file:
                file.write(data)
            self._ends.append(size)
            self._changed.notify_all()
            return True

    def _encoded(self, image: np.ndarray) -> bytes:
        return _jpeg(image, self.size)


def small_still(image: np.ndarray) -> bytes:
    """A JPEG for a list of clips."""
    height, width = image.shape[:2]
    scale = min(1.0, _THUMB_SIDE / max(height, width))
    return _jpeg(image, (max(1, round(height * scale)), max(1, round(width * scale))))


def _jpeg(image: np.ndarray, size: tuple[int, int]) -> bytes:
    height, width = size
    if image.shape[:2] != size:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done
    return data.tobytes()
