"""Makes final masks in a thread while the model continues."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import torch

from sam3ray.engine.beside import Beside
from sam3ray.engine.hotstart_buffer import ReleasedFrame
from sam3ray.engine.outputs import MaskForm, final_masks
from sam3ray.engine.result import SessionResult

FINISHING = 4  # frames whose masks are being finished while the model continues


class OutputQueue:
    """Makes final masks in order.

    Args:
        size: (height, width) of the source's frames.
        at_once: use no thread: `push` returns its own frame.
    """

    def __init__(self, device: torch.device, size: tuple[int, int], form: MaskForm = "rle", *, at_once: bool) -> None:
        self._device, self._size, self._form = device, size, form
        self._pending: deque[Future[SessionResult]] = deque()
        self._beside = Beside(device, "finish-masks", at_once=at_once)

    def close(self) -> None:
        self._beside.close()
        self._pending.clear()

    def push(self, due: ReleasedFrame) -> Iterator[SessionResult]:
        self._pending.append(self._beside.submit(partial(self._finish, due)))
        while self._pending and (len(self._pending) > FINISHING or self._pending[0].done()):
            yield self._pending.popleft().result()

    def flush(self) -> Iterator[SessionResult]:
        while self._pending:
            yield self._pending.popleft().result()

    @torch.inference_mode()
    def _finish(self, due: ReleasedFrame) -> SessionResult:
        step = due.step
        parts = [] if step.found is None else [(step.found, due.shown)]
        if step.pointed is not None:
            parts.append((step.pointed, tuple(range(len(step.pointed.object_ids)))))
        frame, pixels = final_masks(step.stamp, parts, *self._size, self._form, self._device)
        return SessionResult(frame, pixels, due.tentative, due.retracted)
