"""The process that holds the model. It takes orders from a pipe, one at a time.

Previews and frames of live views are handled in between. The process trusts its parent: nobody else can reach the pipe.
If the parent dies, the pipe closes and this process ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sam3ray.app._attempt import Attempt
from sam3ray.app._glances import Glances
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
from sam3ray.app._pulse import Pipe
from sam3ray.app._resuming import States
from sam3ray.cameras import LiveView
from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.engine.host_memory import Housekeeping
from sam3ray.failures import ClipError, JobStopped, Reason, UserError
from sam3ray.faults.machine import is_out_of_memory, machine_fault
from sam3ray.files.workdir import WorkDir
from sam3ray.guard.redact import redact
from sam3ray.job.mishaps import free_memory
from sam3ray.model import Model

_LOG = logging.getLogger(__name__)
LAST_RUNG = 4
_STARTED_OVER = "out of memory: started over with smaller batches; objects are found again"


def main(pipe: Pipe, config: ModelConfig, tracking: TrackingConfig, folder: str | None = None) -> None:
    """The process's main function.

    Args:
        folder: for states of runs; None: its own, which is removed even if the process is killed (`WorkDir`).
    """
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            model = Model(config, tracking)
        except (JobStopped, UserError, ValueError, OSError) as error:
            pipe.send(Unfit(redact(str(error))))
            return
        pipe.send(Ready(model.model_info))
        with contextlib.ExitStack() as stack:
            place = Path(folder) if folder else stack.enter_context(WorkDir()).path
            _Worker(model, pipe, States(place)).run()


class _Worker:
    def __init__(self, model: Model, pipe: Pipe, states: States | None = None) -> None:
        self._model, self._pipe, self._states = model, pipe, states
        self._orders: deque[Order] = deque()
        self._views: dict[str, LiveView] = {}
        self._glances = Glances()
        self._rung = 0  # of the model, of which sessions are begun
        self._housekeeping = Housekeeping()

    def run(self) -> None:
        while True:
            message = self._orders.popleft() if self._orders else self._pipe.recv()
            if isinstance(message, Order):
                self._carry_out(message)
            else:
                self._look_or_leave(message)
            self._housekeeping.tick()

    def _look_or_leave(self, message: Any) -> None:
        if isinstance(message, Leave):
            self._views.pop(message.view, None)
        elif isinstance(message, Look):
            try:
                self._pipe.send(self._look_in_memory(message))
            except (EOFError, BrokenPipeError):
                raise  # the parent is gone
            except Exception as error:  # noqa: BLE001 - see `_sentence`
                self._views.pop(message.view, None)
                self._pipe.send(Blind(message.view, _sentence(error)))

    def _look_in_memory(self, asked: Look) -> Seen:
        """Climbs the ladder where the device runs out of memory: the view starts over, its ids go on."""
        rung = 0
        while True:
            try:
                seen = self._look(asked)
                return dataclasses.replace(seen, problem=_STARTED_OVER) if rung else seen
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                view = self._views[asked.view]
                if view.memory_rung >= LAST_RUNG:
                    raise UserError("out of memory: choose fewer phrases or a smaller picture") from None
                rung = max(2, view.memory_rung + 1)
                view.set_memory_rung(rung)
            asked = dataclasses.replace(asked, pointed=(), at=None, drop=())  # of objects that are gone
            free_memory()

    def _look(self, asked: Look) -> Seen:
        began = time.perf_counter()
        view = self._views.get(asked.view)
        if view is None:
            view = self._views[asked.view] = LiveView(self._model)
            view.start_ids_at(asked.first_id)
        if asked.anew:
            view.begin_anew()
        problems: dict[str, list[str]] = {}  # of one request each: the others apply all the same
        gone: frozenset[int] = frozenset()
        with _noting(problems, "thresholds"):
            view.set_tracking(asked.tracking or self._model.tracking)
        with _noting(problems, "phrases"):
            view.set_phrases(asked.phrases)
        for object_id in asked.drop:
            with _noting(problems, "drop"):
                view.drop(object_id)
        if asked.at is not None and asked.at.shape != asked.image.shape:
            problems["point"] = ["the picture's size has changed since you clicked: click again"]
        elif asked.at is not None:
            added = 0
            for prompt in asked.pointed:
                object_id = prompt.object_id or view.next_id
                with _noting(problems, "point"):
                    view.add(dataclasses.replace(prompt, frame_index=view.next_index, object_id=object_id))
                    added += 1
            with _noting(problems, "point"):
                gone = view.step(asked.at, asked.time_s)[2] if added else gone
        found, tentative, retracted = view.step(asked.image, asked.time_s)
        seconds = time.perf_counter() - began
        problem = "\n".join(dict.fromkeys(each for some in problems.values() for each in some))
        refused = frozenset(problems)
        return Seen(asked.view, found, tentative, retracted | gone, view.next_id, seconds, problem, refused)

    def _carry_out(self, order: Order) -> None:
        """To its end, whatever that is. A preview may come in the middle of a run, and then has the run's rung."""
        if order.is_glance:
            self._glances.expect(order, partial(self._end, order))
            return
        before = self._rung
        try:
            while not self._is_ended(order):
                self._set_rung(max(2, self._rung + 1))
                self._pipe.send(Restarted(order.id, self._rung))
        finally:
            self._set_rung(before)

    def _is_ended(self, order: Order) -> bool:
        """False: out of memory, and there is another rung to try it on."""
        how = "done"
        try:
            for found in self._steps(order):
                if isinstance(found, str):
                    how = found
                elif found.frames or not order.is_preview:
                    self._pipe.send(Update(order.id, found))
        except (EOFError, BrokenPipeError):
            raise  # the parent is gone
        except Exception as error:  # noqa: BLE001 - see `_sentence`
            if not is_out_of_memory(error):
                self._pipe.send(Ended(order.id, "failed", _sentence(error)))
                return True
            if self._rung < LAST_RUNG:
                return False
            self._pipe.send(Ended(order.id, "failed", "out of memory: choose fewer phrases or a smaller video"))
            return True
        self._pipe.send(Ended(order.id, how))
        return True

    def _end(self, glance: Order) -> None:
        with contextlib.suppress(OSError):  # the parent is gone: the main thread hears of it, too
            self._pipe.send(Ended(glance.id, "done"))

    def _set_rung(self, rung: int) -> None:
        if rung != self._rung:
            self._glances.clear()
            free_memory()
            self._model.set_memory_rung(rung)
            self._rung = rung

    def _steps(self, order: Order) -> Iterator[Found | str]:
        attempt = Attempt(self._model, order, None if order.is_preview else self._states, self._glances)
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


@contextlib.contextmanager
def _noting(problems: dict[str, list[str]], what: str) -> Iterator[None]:
    """Notes why a request is not valid."""
    try:
        yield
    except (UserError, ValueError, ClipError) as error:
        problems.setdefault(what, []).append(redact(str(error)))


def _sentence(error: Exception) -> str:
    """The sentence that a page shows for an error. A defect ends one person's run or view, with a traceback in the log.

    Raises:
        Exception: the error again, where the device is broken: the process cannot be used again and is restarted.
    """
    if isinstance(error, ClipError | UserError | JobStopped | ValueError):
        return redact(str(error))
    fault = machine_fault(error)
    if fault is not None and fault.reason is Reason.DEVICE:
        raise error
    _LOG.error("the model's process continues after a defect", exc_info=error)
    return redact(f"internal error: {type(error).__name__}: {error}"[:500])
