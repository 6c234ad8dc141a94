"""Makes final masks in a thread while the model continues."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from sam3ray.engine.hotstart_buffer import ReleasedFrame
from sam3ray.engine.outputs import MaskForm, final_masks
from sam3ray.engine.result import SessionResult
from sam3ray.engine.transfer import on_stream, side_stream

FINISHING = 4  # frames whose masks are being finished while the model continues


class OutputQueue:
    """Makes final masks in order, in a separate thread and on a GPU in a separate stream.

    Args:
        size: (height, width) of the source's frames.
        at_once: use no thread: `push` returns its own frame.
    """

    def __init__(self, device: torch.device, size: tuple[int, int], form: MaskForm = "rle", *, at_once: bool) -> None:
        self._device = device
        self._size = size
        self._form = form
        self._pending: deque[Future[SessionResult]] = deque()
        self._at_once = at_once
        self._pool: ThreadPoolExecutor | None = None
        self._stream = None if at_once else side_stream(device)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._pending.clear()

    def push(self, due: ReleasedFrame) -> Iterator[SessionResult]:
        if self._at_once:
            yield self._finish(due)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="finish-masks")
        self._pending.append(self._pool.submit(self._finish, due))
        while self._pending and (len(self._pending) > FINISHING or self._pending[0].done()):
            yield self._pending.popleft().result()

    def flush(self) -> Iterator[SessionResult]:
        while self._pending:
            yield self._pending.popleft().result()

    def _finish(self, due: ReleasedFrame) -> SessionResult:
        step = due.step
        parts = [] if step.found is None else [(step.found, due.shown)]
        if step.pointed is not None:
            parts.append((step.pointed, tuple(range(len(step.pointed.object_ids)))))
        with torch.inference_mode(), on_stream(self._stream):
            frame, pixels = final_masks(step.stamp, parts, *self._size, self._form, self._device)
        return SessionResult(frame, pixels, due.tentative, due.retracted)
