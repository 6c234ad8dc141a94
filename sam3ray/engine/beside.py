"""Work in a thread beside the model's, on a GPU in a stream of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

import torch

_Result = TypeVar("_Result")


class Beside:
    """One thread, which does what it is given in order.

    Args:
        at_once: use no thread and no stream: `submit` does the work itself, and raises its errors.

    Attributes:
        stream: the thread's stream; None on devices without streams.
    """

    def __init__(self, device: torch.device, name: str, *, at_once: bool) -> None:
        self._name, self._at_once = name, at_once
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" and not at_once else None
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, work: Callable[[], _Result]) -> Future[_Result]:
        if self._at_once:
            done: Future[_Result] = Future()
            done.set_result(work())
            return done
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix=self._name)
        return self._pool.submit(self._run, work)

    def close(self) -> None:
        """Drops work not begun, and ends the thread. It may be used again."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _run(self, work: Callable[[], _Result]) -> _Result:
        with torch.cuda.stream(self.stream) if self.stream is not None else nullcontext():
            return work()
