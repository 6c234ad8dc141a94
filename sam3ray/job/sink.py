"""Writes annotations in a thread while the model works on the next frames."""

from __future__ import annotations

import queue
import threading
import time
from types import TracebackType

from sam3ray.store.annotation_file import AnnotationWriter
from sam3ray.values.annotations import FrameAnnotations

_FRAMES_AHEAD = 32


class WriterThread:
    """Feeds an `AnnotationWriter` from a thread. Memory is bounded: `put` waits for the writer.

    As a context manager, it ends the thread when the block raises. The file is then incomplete, and the writer's own
    context manager deletes it.
    """

    def __init__(self, writer: AnnotationWriter) -> None:
        self._writer = writer
        self._queue: queue.Queue[FrameAnnotations | None] = queue.Queue(_FRAMES_AHEAD)
        self._error: BaseException | None = None
        self.busy_s = 0.0
        self._thread = threading.Thread(target=self._run, name="sam3ray-write", daemon=True)
        self._thread.start()

    def __enter__(self) -> WriterThread:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def put(self, frame: FrameAnnotations) -> None:
        """Queues a frame. Raises the writer's error, a few frames late."""
        if self._error is not None:
            raise self._error
        self._queue.put(frame)

    def finish(self) -> None:
        """Waits until all frames are written."""
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (frame := self._queue.get()) is not None:
            if self._error is not None:
                continue  # empties the queue, so the producer does not block before it sees the error
            began = time.perf_counter()
            try:
                self._writer.write(frame)
            except BaseException as error:  # noqa: BLE001 - raised in the producer's thread
                self._error = error
            self.busy_s += time.perf_counter() - began
