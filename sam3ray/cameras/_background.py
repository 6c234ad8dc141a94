"""Work of a recording in the background, in order. Ctrl-C, which reaches the main thread alone, cannot break it off."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from sam3ray.failures import ClipError, JobStopped
from sam3ray.faults.machine import disk_fault
from sam3ray.guard.redact import redact


class Background(AbstractContextManager["Background"]):
    """Calls functions one after another in a thread. After the first that raises, it calls no more.

    Leaving the `with` block waits for those that are left.

    Args:
        what: what they write, for messages.
        limit: how many may wait.
    """

    def __init__(self, what: str, limit: int) -> None:
        self._what, self._limit = what, limit
        self._calls: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._is_over = False
        self._error: Exception | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, name=f"{what} of a recording", daemon=True).start()

    def add(self, call: Callable[[], None]) -> None:
        with self._changed:
            if self._error is not None:
                return
            if len(self._calls) >= self._limit:
                self._error = JobStopped(f"{self._limit} writes are waiting already")
                self._calls.clear()
            else:
                self._calls.append(call)
            self._changed.notify_all()

    def check(self) -> None:
        """Raises JobStopped or ClipError if something could not be written."""
        if self._error is not None:
            raise self._explained(self._error) from self._error

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        wait_for(self._done)
        self.check()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            try:
                call()
            except Exception as error:  # noqa: BLE001 - `check` raises it in the loop's thread
                with self._changed:
                    self._error = error
                    self._calls.clear()
        self._done.set()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._is_over)
            return self._calls.popleft() if self._calls else None

    def _explained(self, error: Exception) -> Exception:
        fault = None if isinstance(error, ClipError) else disk_fault(error)
        why = str(error) if fault is None else fault.message
        return JobStopped(f"the {self._what} of the recording cannot be written: {redact(why)}")


def wait_for(done: threading.Event) -> None:
    """Waits, also if Ctrl-C comes meanwhile; it is raised afterwards. A second one is raised at once."""
    try:
        done.wait()
    except KeyboardInterrupt:
        done.wait()
        raise
