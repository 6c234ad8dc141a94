"""Whether the model's process makes progress: how it says so, and how the page's server judges it.

A frame takes milliseconds on a GPU and more than a minute on a slow CPU, so the time without a result tells little. The
process therefore says every second how much processor time its main thread has used, and whether it waits for work. A
process that is stopped, deadlocked or waiting for a disk that is gone uses none.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

_EVERY_S = 1.0
_LEAST_CPU_S = 0.1  # what counts as progress
_LONGEST_S = 1800.0  # without an answer: a GPU that hangs can keep a processor busy. The slowest takes 20 minutes.


class Pipe(Protocol):
    """One end of `multiprocessing.Pipe`, or of `sam3ray.job.remote`."""

    def send(self, message: Any, /) -> None: ...

    def recv(self) -> Any: ...

    def poll(self) -> bool: ...


@dataclass(frozen=True)
class Alive:
    """Said every second. `cpu_s`: processor time of the main thread; `is_idle`: it waits for work."""

    cpu_s: float
    is_idle: bool


class Pulse:
    """The model's end of a pipe, which also says `Alive`. Made by the process's main thread."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe, self._lock = pipe, threading.Lock()
        self._is_idle = False
        self._clock = _clock_of_this_thread()
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def send(self, message: Any) -> None:
        with self._lock:
            self._pipe.send(message)

    def recv(self) -> Any:
        self._is_idle = True
        try:
            return self._pipe.recv()
        finally:
            self._is_idle = False

    def poll(self) -> bool:
        return self._pipe.poll()

    def _beat(self) -> None:
        try:
            while True:
                cpu_s = time.process_time() if self._clock is None else time.clock_gettime(self._clock)
                self.send(Alive(cpu_s, self._is_idle))
                time.sleep(_EVERY_S)
        except OSError:
            pass  # the parent is gone; the main thread hears of it, too


def _clock_of_this_thread() -> int | None:
    """None: this system has no clock for each thread."""
    return time.pthread_getcpuclockid(threading.get_ident()) if hasattr(time, "pthread_getcpuclockid") else None


class Patience:
    """Judges one process by what it says, or does not say.

    Args:
        limit_s: seconds without progress after which it counts as hung.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._cpu_s = 0.0
        self._still_s = self._unanswered_s = 0.0

    def hear(self, message: Any) -> None:
        if isinstance(message, Alive):
            if not message.is_idle and message.cpu_s < self._cpu_s + _LEAST_CPU_S:
                return
            self._cpu_s = message.cpu_s
            if not message.is_idle:
                self._still_s = 0.0
                return
        self._still_s = self._unanswered_s = 0.0

    def wait(self, seconds: float) -> str:
        """Time passes for the process. Returns what is wrong, to go after "the model's process"; "" if nothing is."""
        self._still_s += seconds
        self._unanswered_s += seconds
        if self._still_s >= self._limit_s:
            return f"made no progress for {self._still_s:.0f} s and was ended"
        if self._unanswered_s >= _LONGEST_S:
            return f"gave no answer for {self._unanswered_s / 60:.0f} minutes and was ended"
        return ""
