"""The process that holds the model. It takes orders from a pipe, one at a time.

Previews and frames of live views are handled in between. The process trusts its parent: nobody else can reach the pipe.
If the parent dies, the pipe closes and this process ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from sam3ray.app._attempt import Attempt
from sam3ray.app._messages import (
    Blind,
    Cancel,
    Ended,
    Found,
    Leave,
    Look,
    Ready,
    Restarted,
    Seen,
    Unfit,
    Update,
)
from sam3ray.app._order import Order
from sam3ray.cameras import LiveView
from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.failures import ClipError, JobStopped, UserError
from sam3ray.faults.machine import is_out_of_memory
from sam3ray.guard.redact import redact
from sam3ray.model import Model

LAST_RUNG = 4


def main(pipe: Connection, config: ModelConfig, tracking: TrackingConfig) -> None:
    """The process's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    try:
        model = Model(config, tracking)
    except (JobStopped, UserError, ValueError, OSError) as error:
        pipe.send(Unfit(redact(str(error))))
        return
    pipe.send(Ready(model.model_info))
    with contextlib.suppress(EOFError, BrokenPipeError):
        _Worker(model, pipe).run()


class _Worker:
    def __init__(self, model: Model, pipe: Connection) -> None:
        self._model, self._pipe = model, pipe
        self._orders: deque[Order] = deque()
        self._views: dict[str, LiveView] = {}

    def run(self) -> None:
        while True:
            message = self._orders.popleft() if self._orders else self._pipe.recv()
            if isinstance(message, Order):
                self._carry_out(message)
            else:
                self._look_or_leave(message)

    def _look_or_leave(self, message: Any) -> None:
        if isinstance(message, Leave):
            self._views.pop(message.view, None)
        elif isinstance(message, Look):
            try:
                self._pipe.send(self._look(message))
            except (UserError, ValueError) as error:
                self._views.pop(message.view, None)
                self._pipe.send(Blind(message.view, redact(str(error))))

    def _look(self, asked: Look) -> Seen:
        began, problem = time.perf_counter(), ""
        view = self._views.get(asked.view)
        if view is None:
            view = self._views[asked.view] = LiveView(self._model)
            view.start_ids_at(asked.first_id)
        if asked.anew:
            view.begin_anew()
        try:
            view.set_phrases(asked.phrases)
            for object_id in asked.drop:
                view.drop(object_id)
            if asked.pointed and asked.at is not None:
                for prompt in asked.pointed:
                    object_id = prompt.object_id or view.next_id
                    view.add(dataclasses.replace(prompt, frame_index=view.next_index, object_id=object_id))
                view.step(asked.at, asked.time_s)
        except (UserError, ValueError, ClipError) as error:
            problem = redact(str(error))
        found, tentative, retracted = view.step(asked.image, asked.time_s)
        seconds = time.perf_counter() - began
        return Seen(asked.view, found, tentative, retracted, view.next_id, seconds, problem)

    def _carry_out(self, order: Order) -> None:
        rung = 0
        model, pipe = self._model, self._pipe
        while True:
            try:
                how = "done"
                for found in self._steps(order):
                    if isinstance(found, str):
                        how = found
                    elif found.frames or not order.is_preview:
                        pipe.send(Update(order.id, found))
                pipe.send(Ended(order.id, how))
                return
            except (ClipError, UserError, JobStopped, ValueError) as error:
                pipe.send(Ended(order.id, "failed", redact(str(error))))
                return
            except Exception as error:
                if not is_out_of_memory(error):
                    raise  # a bug: the process ends with a traceback, and the desk says so
                if rung >= LAST_RUNG:
                    pipe.send(Ended(order.id, "failed", "out of memory: choose fewer phrases or a smaller video"))
                    return
                rung = max(2, rung + 1)
            finally:
                model.set_memory_rung(0)
            model.set_memory_rung(rung)
            pipe.send(Restarted(order.id, rung))

    def _steps(self, order: Order) -> Iterator[Found | str]:
        attempt = Attempt(self._model, order)
        for found in attempt.run():
            yield found
            while not order.is_preview and self._pipe.poll():
                message = self._pipe.recv()
                if isinstance(message, Cancel):
                    attempt.is_stopped |= message.order_id == order.id
                elif isinstance(message, Order) and message.is_preview:
                    self._carry_out(message)
                elif isinstance(message, Order):
                    self._orders.append(message)
                else:
                    self._look_or_leave(message)
        if attempt.is_stopped:
            yield "cancelled"
