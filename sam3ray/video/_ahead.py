"""Runs a source of frames in a background thread."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator

from sam3ray.failures import ClipError, Reason
from sam3ray.video._frame import Frame

Progress = Callable[[], None]
FrameGenerator = Generator[Frame, None, None]

_QUEUE_BYTES = 256 * 2**20  # large frames shorten the queue
_POLL_S = 0.2


def queue_capacity(queue_frames: int, width: int, height: int) -> int:
    """The number of frames to decode ahead: as many as requested, fewer if they are large."""
    return max(1, min(queue_frames, _QUEUE_BYTES // max(1, width * height * 3)))


class _End:
    """Marks the end of the frames, with the exception that ended them, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Ahead:
    """Runs a source of frames in a thread, at most `capacity` frames ahead of the consumer.

    The source calls `progress` for every frame that it decodes, wanted or not. A native decoder cannot be interrupted:
    if it makes no progress, it stays in its daemon thread, and the clip fails. `patience_s` counts processor time of
    the thread, so that a good video does not fail on an overloaded node. If the thread is waiting, it may take ten
    times as long.
    """

    def __init__(
        self, source: Callable[[Progress], FrameGenerator], capacity: int, patience_s: float, where: str
    ) -> None:
        self._source = source
        self._queue: queue.Queue[Frame | _End] = queue.Queue(capacity)
        self._patience_s = patience_s
        self._where = where
        self._stopped = threading.Event()
        self._pid = os.getpid()
        self._alive_at = time.monotonic()
        self._alive_cpu_s = 0.0
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
        """Stop the thread and wait for its end. A forked process does not have the thread, but may have its locks."""
        if os.getpid() != self._pid:
            return
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
        if silent_s <= self._patience_s or not self._queue.empty():
            return
        busy_s = _cpu_s(self._thread) - self._alive_cpu_s
        if busy_s > self._patience_s or silent_s > 10 * self._patience_s:
            raise ClipError(
                Reason.OVER_LIMITS,
                f"no frame was decoded for {silent_s:.0f} s; allowed: at most {self._patience_s:g} "
                "(video.max_frame_decode_s)",
                self._where,
            )

    def _progress(self) -> None:
        self._alive_at, self._alive_cpu_s = time.monotonic(), time.thread_time()
        if self._stopped.is_set():
            raise _Stopped

    def _put(self, item: Frame | _End) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                return
            except queue.Full:
                continue
            finally:
                self._alive_at, self._alive_cpu_s = time.monotonic(), time.thread_time()

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
        except BaseException as raised:  # noqa: BLE001 - passed to the consumer, which raises it
            error = raised
        finally:
            frames.close()  # closes the container in the thread that used it
        self._put(_End(error))


def _cpu_s(thread: threading.Thread) -> float:
    """Processor time that a thread has used, in seconds; infinite where the system does not report it."""
    try:
        with open(f"/proc/self/task/{thread.native_id}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return float("inf") if thread.is_alive() else 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Stopped(Exception):
    """The consumer has stopped reading."""
