"""A source of live frames: RTSP, a capture device, or a file played at its own pace.

A thread decodes every frame, since a decoder that skips frames shows garbage until the next key frame, and puts it into
a slot for one frame. The consumer gets the newest frame; frames that were replaced are counted, never queued.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.files import is_local, local_path
from sam3ray.guard.redact import redact
from sam3ray.video import VideoReader

_STREAM = re.compile(r"(?i)(rtsp|rtsps|rtmp|srt|udp)://")
_DEVICE = re.compile(r"/dev/video\d{1,3}")
_SILENT_US = 5_000_000  # a server that sends nothing for so long is connected to again
_BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
_MAX_PIXELS = 8192 * 8192


@dataclass(frozen=True, eq=False)
class CameraFrame:
    """A frame as it was received.

    Attributes:
        image: uint8 RGB, (height, width, 3).
        received: how many frames the source had given before it, including those that were replaced in the slot.
        at: when it was received, in Unix seconds.
        dropped: of these, how many were replaced before anybody took them.
    """

    image: np.ndarray
    received: int
    at: float
    dropped: int


class Camera:
    """Frames of one source, the newest first.

    Args:
        source: an rtsp:// address (also rtmp, srt, udp), a device such as /dev/video0, or a video file.
        every_frame: wait for the consumer instead of replacing frames. For files of which every frame is wanted.
        reconnect: connect again when a stream ends or falls silent. A file just ends.
        heard: called in the camera's thread with each frame received, before it can be replaced.
        options: of libav, added to ours.

    Attributes:
        problem: why no frames arrive now, in a sentence; "" while they do.

    Raises:
        UserError: `source` is not one of these.
        ClipError: a file cannot be read.
    """

    def __init__(
        self,
        source: str,
        *,
        every_frame: bool = False,
        reconnect: bool = True,
        heard: Callable[[CameraFrame], None] | None = None,
        limits: VideoConfig | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        self.name = redact(source)
        self._source, self._limits = source, limits or VideoConfig()
        self._every_frame, self._heard = every_frame, heard
        self.is_stream = _STREAM.match(source) is not None or _DEVICE.fullmatch(source) is not None
        self._reconnects = reconnect and self.is_stream
        self._options = options or {}
        if not self.is_stream and not is_local(source):
            raise UserError(
                f"{self.name} is no live source; allowed: rtsp://, rtmp://, srt:// or udp://, a device such as "
                "/dev/video0, or a video file on this machine"
            )
        if not self.is_stream:
            VideoReader(local_path(source), limits=self._limits).close()  # raises now if it cannot be read
        self.problem = ""
        self._slot: CameraFrame | None = None
        self._changed = threading.Condition()
        self._received = self._dropped = 0
        self._is_over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)

    def __enter__(self) -> Camera:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it. The thread ends with the frame that it is waiting for, at the latest when a server is silent."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[CameraFrame]:
        """Each newest frame, until the source ends.

        Raises:
            ClipError: a file became unreadable, or a stream cannot be opened and `reconnect` is off.
        """
        while True:
            frame = self.take(None)
            if frame is None:
                return
            yield frame

    def take(self, timeout_s: float | None) -> CameraFrame | None:
        """The newest frame not taken yet; None: the source has ended, or none came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._slot is not None or self._is_over, timeout_s)
            frame, self._slot = self._slot, None
            self._changed.notify_all()
            if frame is None and self._error is not None:
                error, self._error = self._error, None
                raise error
            return frame

    @property
    def is_over(self) -> bool:
        with self._changed:
            return self._is_over and self._slot is None

    def _run(self) -> None:
        tries = 0
        try:
            while not self._is_over:
                before = self._received
                try:
                    for image in self._frames():
                        self.problem = ""
                        if not self._put(image):
                            return
                except (av.error.FFmpegError, OSError) as error:
                    self.problem = f"{self.name}: {redact(getattr(error, 'strerror', None) or str(error))}"
                    if not self._reconnects:
                        raise ClipError(Reason.UNREADABLE_VIDEO, self.problem, self.name) from error
                if not self._reconnects:
                    return
                tries = 0 if self._received > before else tries + 1
                self.problem = self.problem or f"{self.name}: the stream has ended; connecting again"
                with self._changed:
                    self._changed.wait_for(lambda: self._is_over, _BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)])
        except ClipError as error:
            self._error = error
        finally:
            self.close()

    def _put(self, image: np.ndarray) -> bool:
        """False: no consumer wants more frames."""
        frame = CameraFrame(image, self._received, time.time(), self._dropped)
        self._received += 1
        if self._heard is not None:
            self._heard(frame)
        with self._changed:
            if self._every_frame:
                self._changed.wait_for(lambda: self._slot is None or self._is_over)
            if self._is_over:
                return False
            self._dropped += self._slot is not None
            self._slot = CameraFrame(frame.image, frame.received, frame.at, self._dropped)
            self._changed.notify_all()
            return True

    def _frames(self) -> Iterator[np.ndarray]:
        if not self.is_stream:
            yield from self._paced()
            return
        with av.open(self._source, **self._how_to_open()) as container:
            if not container.streams.video:
                raise ClipError(Reason.NO_VIDEO_STREAM, "there is no video in the stream", self.name)
            stream = container.streams.video[0]
            for frame in container.decode(stream):
                if frame.width * frame.height > min(_MAX_PIXELS, self._limits.max_pixels):
                    raise ClipError(Reason.OVER_LIMITS, f"frames have {frame.width}x{frame.height} pixels", self.name)
                yield frame.to_ndarray(format="rgb24")

    def _how_to_open(self) -> dict[str, Any]:
        if _DEVICE.fullmatch(self._source):
            return {"format": "v4l2", "options": self._options}
        options = {"timeout": str(_SILENT_US), "fflags": "nobuffer", "flags": "low_delay", "analyzeduration": "500000"}
        if self._source.lower().startswith("rtsp"):
            options["rtsp_transport"] = "tcp"
        return {"options": {**options, **self._options}, "timeout": (10.0, _SILENT_US / 1e6)}

    def _paced(self) -> Iterator[np.ndarray]:
        with VideoReader(local_path(self._source), limits=self._limits) as video:
            began: float | None = None
            for frame in video:
                if began is None:
                    began = time.monotonic() - frame.time_s
                wait = frame.time_s - (time.monotonic() - began)
                if wait > 0 and not self._every_frame:
                    time.sleep(wait)
                yield frame.image
