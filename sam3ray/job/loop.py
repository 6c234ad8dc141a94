"""Calls for the driver's one thread: posted from any thread, made by the loop in order, at once or at a given time."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

Call = Callable[[], None]


class Loop:
    """An inbox with timers. Everything but `post` and `watch`'s callback belongs to the driver's thread."""

    def __init__(self) -> None:
        self._inbox: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._timers: list[tuple[float, Call]] = []

    def post(self, call: Call) -> None:
        """Has `call` made in the driver's thread. May be used from any thread and from a signal handler."""
        self._inbox.put(call)

    def watch(self, ref: Any, handler: Callable[[Future[Any]], None]) -> None:
        """Calls `handler` with the finished future once the call behind `ref` has ended."""

        def done(future: Future[Any]) -> None:
            self.post(lambda: handler(future))

        ref.future().add_done_callback(done)

    def after(self, seconds: float, call: Call) -> None:
        self._timers.append((time.monotonic() + seconds, call))

    def run_due(self, now: float) -> None:
        """Makes all calls that are due."""
        due = [call for at, call in self._timers if at <= now]
        self._timers = [timer for timer in self._timers if timer[0] > now]
        for call in due:
            call()

    def run_next(self, until: float) -> None:
        """Waits for a posted call, at most until `until`, and makes it."""
        try:
            call = self._inbox.get(timeout=max(0.01, until - time.monotonic()))
        except queue.Empty:
            return
        call()
