"""Frames of a clip, decoded ahead in a background thread."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video._decode import RgbConverter, decode
from sam3ray.video._folder import list_frames, read_image
from sam3ray.video._frame import Frame, VideoInfo
from sam3ray.video._probe import check_duration, probe
from sam3ray.video._sampling import Sampler

_QUEUE_BYTES = 256 * 2**20  # large frames shorten the queue
_POLL_S = 0.2


class VideoReader:
    """The frames of a local video file, or of a local folder of numbered frames, in display order.

    `[start_s, end_s)` and `fps` select frames by time (see `sam3ray.video._sampling` for the exact rule); `Frame.index`
    always counts in the whole source. Decoding runs ahead in a thread by `limits.queue_frames` frames at most; nothing
    else of the video is in memory. Iterating again starts again.

        with VideoReader("clip.mp4", fps=5, limits=VideoConfig()) as video:
            for frame in video:
                ...

    Raises:
        ClipError: when opened: not_found, permission_denied, unreadable_video, no_video_stream, over_limits.
            While iterating also: empty_range, where no frame is selected. See `sam3ray.video._decode` for what
            counts as damage.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        fps: float | None = None,
        limits: VideoConfig | None = None,
    ) -> None:
        self._path = Path(path)
        self._start_s, self._end_s, self._fps = start_s, end_s, fps
        self._limits = limits or VideoConfig()
        self._ahead: _Ahead | None = None
        self.info: VideoInfo = probe(self._path, self._limits)
        check_duration(self.info, start_s, end_s, self._limits, self._path.name)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the decoding thread. Safe to call again."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def __iter__(self) -> Iterator[Frame]:
        self.close()
        frame_bytes = self.info.width * self.info.height * 3
        capacity = max(1, min(self._limits.queue_frames, _QUEUE_BYTES // max(1, frame_bytes)))
        ahead = _Ahead(self._frames, capacity, self._limits.max_frame_decode_s, self._path.name)
        self._ahead = ahead
        try:
            yield from ahead
        finally:
            ahead.stop()

    def _frames(self, progress: Callable[[], None]) -> Iterator[Frame]:
        source = self._folder_frames if self._path.is_dir() else self._file_frames
        selected = 0
        for frame in source(progress):
            selected += 1
            if selected > self._limits.max_frames:
                raise ClipError(
                    Reason.OVER_LIMITS, f"the clip has more than {self._limits.max_frames} frames", self._path.name
                )
            yield frame
        if selected == 0:
            raise ClipError(Reason.EMPTY_RANGE, f"no frame lies in {self._range_text()}", self._path.name)

    def _file_frames(self, progress: Callable[[], None]) -> Iterator[Frame]:
        to_rgb = RgbConverter()
        sampler: Sampler | None = None
        for coded in decode(self._path, self._limits, start_s=self._start_s):
            progress()
            if sampler is None:
                sampler = Sampler(coded.time_base, self._start_s, self._end_s, self._fps)
            if sampler.is_after(coded.ticks):
                return
            if coded.time_s - (self._start_s or 0.0) > self._limits.max_duration_s:
                raise ClipError(
                    Reason.OVER_LIMITS, f"the clip lasts more than {self._limits.max_duration_s:g} s", self._path.name
                )
            if sampler.wants(coded.ticks):
                yield Frame(coded.index, coded.pts, coded.time_s, to_rgb(coded.coded))

    def _folder_frames(self, progress: Callable[[], None]) -> Iterator[Frame]:
        sampler = Sampler(self.info.time_base, self._start_s, self._end_s, self._fps)
        for index, path in enumerate(list_frames(self._path, self._limits)):
            progress()
            if sampler.is_after(index):
                return
            if sampler.wants(index):
                image = read_image(path, self._limits)
                if image.shape[:2] != (self.info.height, self.info.width):
                    raise ClipError(
                        Reason.UNREADABLE_VIDEO,
                        f"frame {path.name} has {image.shape[1]}x{image.shape[0]} pixels, "
                        f"the first {self.info.width}x{self.info.height}",
                        self._path.name,
                    )
                yield Frame(index, index, float(index * self.info.time_base), image)

    def _range_text(self) -> str:
        end = "the end" if self._end_s is None else f"{self._end_s:g} s"
        lasts = f"; the video lasts {self.info.duration_s:g} s" if self.info.duration_s is not None else ""
        return f"{self._start_s or 0:g} s to {end}{lasts}"


class _End:
    """Marks the end of the frames, with the exception that ended them, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Ahead:
    """Runs a source of frames in a thread, at most `capacity` frames ahead of the consumer.

    The source calls `progress` for every frame that it decodes, wanted or not. A native decoder cannot be interrupted:
    one that makes no progress for `patience_s` is left behind in its daemon thread, and the clip fails.
    """

    def __init__(
        self, source: Callable[[Callable[[], None]], Iterator[Frame]], capacity: int, patience_s: float, where: str
    ) -> None:
        self._source = source
        self._queue: queue.Queue[Frame | _End] = queue.Queue(capacity)
        self._patience_s = patience_s
        self._where = where
        self._stopped = threading.Event()
        self._alive_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="sam3ray-decode", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            try:
                item = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                self._check_progress()
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def stop(self) -> None:
        """Make the thread end and wait for it, as long as it is alive."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                while True:
                    self._queue.get_nowait()
            except queue.Empty:
                pass
            self._thread.join(_POLL_S)
            if time.monotonic() - self._alive_at > self._patience_s:
                return

    def _check_progress(self) -> None:
        silent_s = time.monotonic() - self._alive_at
        if silent_s > self._patience_s and self._queue.empty():
            raise ClipError(
                Reason.OVER_LIMITS,
                f"no frame was decoded for {silent_s:.0f} s, allowed are {self._patience_s:g}",
                self._where,
            )

    def _progress(self) -> None:
        self._alive_at = time.monotonic()
        if self._stopped.is_set():
            raise _Stopped

    def _put(self, item: Frame | _End) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                self._alive_at = time.monotonic()
                return
            except queue.Full:
                self._alive_at = time.monotonic()

    def _run(self) -> None:
        error: BaseException | None = None
        frames = self._source(self._progress)
        try:
            for frame in frames:
                self._put(frame)
                if self._stopped.is_set():
                    break
        except _Stopped:
            pass
        except BaseException as raised:  # noqa: BLE001 - handed to the consumer, who raises it
            error = raised
        finally:
            frames.close()  # type: ignore[attr-defined]  # generators only: closes the container in this thread
        self._put(_End(error))


class _Stopped(Exception):
    """The consumer is gone."""
