"""Ends a process that makes no progress, even where native code never returns to the interpreter."""

from __future__ import annotations

import faulthandler
import sys
import threading
from collections.abc import Callable
from types import TracebackType

LOOK_EVERY_S = 1.0


class Watchdog:
    """Within the block, the process exits (code 1, all stacks on stderr) once `value()` has not changed for `limit_s`.

    The timer is faulthandler's, whose thread does not need the interpreter; each change of the value restarts it.
    A process can have one watchdog at a time.
    """

    def __init__(self, value: Callable[[], object], limit_s: float) -> None:
        self._value = value
        self._limit_s = limit_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sam3ray-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._start_clock()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        last = self._value()
        while not self._end.wait(min(LOOK_EVERY_S, self._limit_s / 4)):
            value = self._value()
            if value != last:
                last = value
                self._start_clock()

    def _start_clock(self) -> None:
        faulthandler.dump_traceback_later(self._limit_s, exit=True, file=sys.__stderr__ or sys.stderr)
