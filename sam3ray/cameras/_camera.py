"""A source of live frames: a network stream, a capture device, or a file played at its own pace.

A thread decodes every frame, because skipping frames would garble the picture until the next key frame. It puts each
into a slot for one frame, from which the consumer takes the newest. Replaced frames are counted, never queued. Only
frames that somebody takes are converted to RGB, so a fast source costs little more than its decoding.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from sam3ray.cameras._address import BLIND_S, Address, Blind, Problem
from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.files import local_path
from sam3ray.video import RgbConverter, VideoReader

_LOG = logging.getLogger(__name__)
_BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0)
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_LONGEST_WAIT_S = 10.0  # between two frames of a file


@dataclass(frozen=True, eq=False)
class CameraFrame:
    """A frame as received.

    Attributes:
        image: uint8 RGB, (height, width, 3).
        received: number of frames received before it, including replaced ones.
        at: when it was received, in Unix seconds.
        dropped: how many of the earlier frames were replaced before anybody took them.
        heard: what `heard` of the camera returned for it.
    """

    image: np.ndarray
    received: int
    at: float
    dropped: int
    heard: Any = None


@dataclass(frozen=True, eq=False)
class Received:
    """A frame received whose pixels nobody has requested yet.

    Attributes:
        at: when it was received, in Unix seconds.
        clock: the same in seconds on a clock that nobody sets, and that goes on while the machine sleeps; of a file,
            the frame's time in the file, however fast it is read.
        size: (height, width) of its image.
        image: makes the image, uint8 RGB. Call it in any thread, but one at a time.
    """

    received: int
    at: float
    clock: float
    size: tuple[int, int]
    image: Callable[[], np.ndarray]


def check_source(
    source: str, listen: bool = False, every_frame: bool = False, limits: VideoConfig | None = None
) -> None:
    """Checks a source before a model is loaded. Does not connect to streams.

    Raises:
        UserError: `source` is neither an address, nor a device, nor a video file; or `every_frame` is asked of a
            stream.
        ClipError: a file cannot be read, or there is no such device.
    """
    address = Address(source, listen)
    if address.kind == "file":
        VideoReader(local_path(source), limits=limits or VideoConfig()).close()
        return
    if every_frame:
        raise UserError(f"{address.name}: every frame can only be processed of a file; a camera does not wait")
    if (problem := address.missing()) is not None:
        raise ClipError(Reason.NOT_FOUND, problem)


class Camera:
    """Frames of one source. The consumer always gets the newest.

    Args:
        source: an rtsp:// address (also rtmp, srt, udp), a device such as /dev/video0, or a video file.
        listen: wait at this address for a camera that pushes, instead of connecting to one.
        every_frame: wait for the consumer instead of replacing frames, to process every frame of a file.
        reconnect: connect again when a stream ends or falls silent. A file just ends.
        heard: called in the camera's thread with each frame received, before it can be replaced. The frame keeps what
            it returns.
        told: called in the camera's thread with a sentence when frames stop arriving, and with "" when they arrive
            again.
        options: additional libav options.

    Attributes:
        problem: why no frames arrive now, in a sentence; "" while they arrive.

    Raises:
        UserError: `source` is not one of these, or `every_frame` is asked of a stream.
        ClipError: a file cannot be read.
    """

    def __init__(
        self,
        source: str,
        *,
        listen: bool = False,
        every_frame: bool = False,
        reconnect: bool = True,
        heard: Callable[[Received], Any] = lambda _: None,
        told: Callable[[str], None] = lambda _: None,
        limits: VideoConfig | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        self._address = Address(source, listen, options or {})
        self.name = self._address.name
        self._limits = limits or VideoConfig()
        self._every_frame, self._heard, self._told = every_frame, heard, told
        self.is_stream = self._address.kind != "file"
        self._reconnects = reconnect and self.is_stream
        check_source(source, listen, every_frame, self._limits)
        self.problem = ""
        self._slot: tuple[Received, int, Any] | None = None
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
        """Stops the camera. Its thread ends after the frame it waits for, or when the source has been silent for too
        long.
        """
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[CameraFrame]:
        """Yields the newest frame each time, until the source ends.

        Raises:
            ClipError: a file became unreadable, or a stream cannot be opened. With `reconnect`, a stream fails only if
                no frame has arrived yet and waiting cannot help, as with a wrong password.
        """
        while True:
            frame = self.take(None)
            if frame is None:
                return
            yield frame

    def take(self, timeout_s: float | None) -> CameraFrame | None:
        """The newest frame not taken yet; None if the source has ended, or no frame came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._slot is not None or self._is_over, timeout_s)
            slot, self._slot = self._slot, None
            self._changed.notify_all()
            if slot is None and self._error is not None:
                error, self._error = self._error, None
                raise error
        if slot is None:
            return None
        frame, dropped, heard = slot
        return CameraFrame(frame.image(), frame.received, frame.at, dropped, heard)

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
                    for size, image, due in self._frames():
                        self._say("")
                        if not self._put(size, image, due):
                            return
                    failed = Problem(f"{self.name}: the stream has ended")
                except (av.error.FFmpegError, OSError) as error:
                    failed = self._address.what_failed(error, is_open=self._received > before)
                    if not self._reconnects or (failed.is_final and not self._received):
                        raise ClipError(Reason.UNREADABLE_VIDEO, failed.sentence) from error
                if not self._reconnects:
                    return
                tries = 0 if self._received > before else tries + 1
                self._say(f"{failed.sentence}; trying again")
                with self._changed:
                    self._changed.wait_for(lambda: self._is_over, _BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)])
        except Exception as error:  # noqa: BLE001 - `take` raises it in the consumer's thread
            self._error = error
        finally:
            self.close()

    def _say(self, sentence: str) -> None:
        if sentence == self.problem or self._is_over:
            return
        self.problem = sentence
        if sentence:
            _LOG.warning("%s", sentence)
        else:
            _LOG.warning("%s: frames arrive again", self.name)
        self._told(sentence)

    def _put(self, size: tuple[int, int], image: Callable[[], np.ndarray], due: float | None) -> bool:
        """Puts a frame into the slot. Returns False if the consumer wants no more frames."""
        clock = time.clock_gettime(_CLOCK) if due is None else due
        frame = Received(self._received, time.time(), clock, size, image)
        self._received += 1
        heard = self._heard(frame)
        with self._changed:
            if self._every_frame:
                self._changed.wait_for(lambda: self._slot is None or self._is_over)
            if self._is_over:
                return False
            self._dropped += self._slot is not None
            self._slot = frame, self._dropped, heard
            self._changed.notify_all()
            return True

    def _frames(self) -> Iterator[tuple[tuple[int, int], Callable[[], np.ndarray], float | None]]:
        """Each frame's (height, width), a function that makes its image, and of a file, its time."""
        if not self.is_stream:
            for image, due in self._paced():
                yield image.shape[:2], _given(image), due
            return
        with self._address.open() as container:
            if not container.streams.video:
                raise ClipError(Reason.NO_VIDEO_STREAM, "the stream has no video", self.name)
            stream = container.streams.video[0]
            stream.codec_context.thread_type = "SLICE"  # frame threads hold one frame per core
            stream.codec_context.options = {"max_pixels": str(self._limits.max_pixels)}
            convert, seen = _Converter(), time.monotonic()
            for packet in container.demux():  # of all streams: sound alone is no sign of life
                for frame in packet.decode() if packet.stream is stream else ():
                    assert isinstance(frame, av.VideoFrame)
                    if frame.width * frame.height > self._limits.max_pixels:
                        pixels = f"{frame.width}x{frame.height}"
                        raise ClipError(Reason.OVER_LIMITS, f"frames have {pixels} pixels", self.name)
                    yield convert.size(frame), convert.later(frame), None
                    seen = time.monotonic()
                if time.monotonic() - seen > BLIND_S:
                    raise Blind

    def _paced(self) -> Iterator[tuple[np.ndarray, float]]:
        """A file's images, and the time of each in the file."""
        with VideoReader(local_path(self._address.text), limits=self._limits) as video:
            began: float | None = None
            for frame in video:
                if began is None:
                    began = time.monotonic() - frame.time_s
                wait = frame.time_s - (time.monotonic() - began)
                if wait > 0 and not self._every_frame:
                    began -= max(0.0, wait - _LONGEST_WAIT_S)
                    with self._changed:
                        self._changed.wait_for(lambda: self._is_over, min(wait, _LONGEST_WAIT_S))
                yield frame.image, frame.time_s


def _given(image: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: image


class _Converter:
    """Converts frames of one connection to RGB on request, of the consumer or the recording."""

    def __init__(self) -> None:
        self._convert = RgbConverter()
        self._lock = threading.Lock()

    def size(self, frame: av.VideoFrame) -> tuple[int, int]:
        return (frame.width, frame.height) if frame.rotation % 180 == 90 else (frame.height, frame.width)

    def later(self, frame: av.VideoFrame) -> Callable[[], np.ndarray]:
        done: list[np.ndarray] = []

        def image() -> np.ndarray:
            with self._lock:
                if not done:
                    done.append(self._convert(frame))
                return done[0]

        return image
