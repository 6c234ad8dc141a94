"""Encodes the video of a recording, with every frame received, in a separate thread.

Frame n of a clip's video is frame n of its rows, so no frame may be missing. If the encoder falls behind, a frame
repeats the picture before it, which costs little. Live results never wait for the recording.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from fractions import Fraction
from pathlib import Path

from sam3ray.cameras._background import wait_for
from sam3ray.cameras._camera import Received
from sam3ray.cameras._segments import Placed
from sam3ray.failures import JobStopped
from sam3ray.faults.machine import disk_fault
from sam3ray.guard.redact import redact
from sam3ray.video import VideoWriter

TIME_BASE = Fraction(1, 90_000)
_LOG = logging.getLogger(__name__)
_PICTURES = 32  # pictures that may wait for the encoder
_FRAMES = 2_000  # frames that may wait, with or without a picture, before the camera waits


class Encoder(AbstractContextManager["Encoder"]):
    """Encodes one clip after another into `folder`, and calls `publish(name, path)` for each finished one."""

    def __init__(self, folder: Path, publish: Callable[[str, Path], None]) -> None:
        self._folder, self._publish = folder, publish
        self._waiting: deque[tuple[str, Placed, Received | None]] = deque()
        self._changed = threading.Condition()
        self._pictures = 0
        self._is_over = False
        self._error: BaseException | None = None
        self._repeated = 0
        self._done = threading.Event()
        threading.Thread(target=self._run, name="video of a recording", daemon=True).start()

    def put(self, name: str, placed: Placed, frame: Received) -> None:
        """Adds a frame of the clip `name`."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < _FRAMES or self._error is not None)
            if self._error is not None:
                return
            has_room = self._pictures < _PICTURES or placed.index == 0
            self._pictures += has_room
            self._waiting.append((name, placed, frame if has_room else None))
            self._changed.notify_all()

    def check(self) -> None:
        """Raises JobStopped if frames can no longer be encoded or stored."""
        if self._error is not None:
            fault = disk_fault(self._error)
            why = str(self._error) if fault is None else fault.message
            raise JobStopped(f"the video of the recording cannot be written: {redact(why)}") from self._error

    def __exit__(self, *_: object) -> None:
        """Waits until the remaining frames are encoded. Raises like `check`."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        wait_for(self._done)
        self.check()

    def _take(self) -> tuple[str, Placed, Received | None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_over)
            if not self._waiting:
                return None
            item = self._waiting.popleft()
            self._pictures -= item[2] is not None
            self._changed.notify_all()
            return item

    def _run(self) -> None:
        writer: VideoWriter | None = None
        name, image = "", None
        try:
            while (item := self._take()) is not None:
                if item[0] != name:
                    self._end(writer, name)
                    name = item[0]
                    writer = None
                image = item[2].image() if item[2] is not None else image
                self._repeated += item[2] is None
                assert image is not None  # a clip's first frame always has its picture
                if writer is None:
                    height, width = image.shape[:2]
                    writer = VideoWriter(self._path(name), width, height, TIME_BASE, Fraction(30))
                writer.write(image, round(item[1].time_s / TIME_BASE))
            self._end(writer, name)
        except Exception as error:  # noqa: BLE001 - `check` raises it in the loop's thread
            with self._changed:
                self._error = error
                self._waiting.clear()
                self._changed.notify_all()
        finally:
            self._done.set()

    def _end(self, writer: VideoWriter | None, name: str) -> None:
        if writer is None:
            return
        writer.close()
        self._publish(name, self._path(name))
        if self._repeated:
            _LOG.warning(
                "recording %s: the encoder could not keep up; %d frames repeat the picture before them",
                name,
                self._repeated,
            )
            self._repeated = 0

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.mp4"
