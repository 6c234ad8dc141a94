"""Shares one model among several people: orders queue, and a crash of the model's process loses no results.

The process is restarted when it dies, and ended when it hangs (`_pulse`): nothing here waits for ever. The order that
was running ends as failed and keeps what was found so far; waiting orders stay in the queue.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from sam3ray.app._messages import (
    Blind,
    Cancel,
    Ended,
    Leave,
    Look,
    Ready,
    Restarted,
    Seen,
    Unfit,
    Update,
)
from sam3ray.app._model_host import MakeHost, ModelHost
from sam3ray.app._order import Order
from sam3ray.app._pulse import Alive, Patience
from sam3ray.engine.host_memory import Housekeeping
from sam3ray.failures import NotNow, UserError

ModelState = Literal["loading", "restarting", "ready", "failed"]
"""Of the model. "restarting" is "loading" after the process before has ended; the sentence says why."""
Listener = Callable[[Update | Restarted | Ended | int], None]
"""Hears what becomes of an order: its place in the queue (0: under way), what is found, its end. In any thread."""

_STARTS = 2  # in a row that fail
_MOST_WAITING = 100
_TURN_S = 1.0


class Unseen(UserError):
    """The model could not process a live frame; the next one begins a new session."""


class Desk:
    """Hands orders to the model's process.

    Args:
        make_host: starts the process.
        told: called with the state of the model, and a sentence, when that changes.
        hang_s: seconds without progress after which the process counts as hung.
    """

    def __init__(
        self,
        make_host: MakeHost,
        told: Callable[[ModelState, str], None] = lambda *_: None,
        hang_s: float = 120.0,
    ) -> None:
        self._make_host = make_host
        self._hang_s = hang_s
        self._told = told
        self._lock = threading.RLock()
        self._waiting: deque[Order] = deque()
        self._listeners: dict[str, Listener] = {}
        self._current: Order | None = None
        self._previews: dict[str, Order] = {}
        self._looking: dict[str, queue.SimpleQueue[Seen | Blind | None]] = {}
        self._host: ModelHost | None = None
        self._failed_starts = 0
        self._hung = ""  # why the process was ended
        self._closed = False
        self._housekeeping = Housekeeping()
        self.state: ModelState = "loading"
        self.message = ""
        self.info: dict[str, Any] = {}

    @property
    def is_loading(self) -> bool:
        return self.state in ("loading", "restarting")

    # For pages

    def submit(self, order: Order, listener: Listener) -> None:
        """Queues an order. A preview goes in between at once, a glance only if the model is there."""
        with self._lock:
            if order.is_glance and self.state != "ready":
                listener(Ended(order.id, "cancelled"))
                return
            self._listeners[order.id] = listener
            if self.state == "failed":
                self._start()
            if len(self._waiting) >= _MOST_WAITING or len(self._previews) >= _MOST_WAITING:
                self._listeners.pop(order.id)
                raise UserError(f"{_MOST_WAITING} runs are waiting for the model already: try again later")
            if order.is_preview:
                self._previews[order.id] = order
                if self.state == "ready":
                    self._send(order)
                return
            self._waiting.append(order)
            self._next()
            if order is not self._current:
                listener(self._waiting.index(order) + 1)

    def cancel(self, order_id: str) -> None:
        """Ends an order; what was found stays."""
        with self._lock:
            for order in self._waiting:
                if order.id == order_id:
                    self._waiting.remove(order)
                    self._tell(order_id, Ended(order_id, "cancelled"))
                    self._tell_places()
                    return
            if self._current is not None and self._current.id == order_id:
                self._send(Cancel(order_id))

    def look(self, asked: Look) -> Seen:
        """Runs the model on a live frame, and waits for the result.

        Raises:
            NotNow: the model is being loaded, or its process has ended: the next frame starts a new session.
            Unseen: the model cannot process the frame.
        """
        answer: queue.SimpleQueue[Seen | Blind | None] = queue.SimpleQueue()
        with self._lock:
            if self.state != "ready":
                if self.state == "failed":
                    self._start()
                raise NotNow(self.message or "the model is being loaded")
            self._looking[asked.view] = answer
            self._send(asked)
        self._housekeeping.tick()  # while the model works
        seen = answer.get()
        if seen is None:
            raise NotNow("the model's process ended; it is restarting")
        if isinstance(seen, Blind):
            raise Unseen(seen.message)
        return seen

    def leave(self, view: str) -> None:
        """A live view is over."""
        with self._lock:
            if (waiting := self._looking.pop(view, None)) is not None:
                waiting.put(None)
            self._send(Leave(view))

    def start(self) -> None:
        with self._lock:
            self._start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            host, self._host = self._host, None
            self._release()
        if host is not None:
            host.close()

    # The process

    def _start(self, state: ModelState = "loading", why: str = "the model is being loaded") -> None:
        if self._closed or self._host is not None:
            return
        self._set(state, why)
        host = self._host = self._make_host(self._waits)
        patience = Patience(self._hang_s)
        for task in (self._listen, self._watch):
            threading.Thread(target=task, args=(host, patience), name="desk", daemon=True).start()

    def _waits(self, sentence: str) -> None:
        with self._lock:
            if self.is_loading:
                self._set("loading", f"the model is not ready: {sentence}")

    def _listen(self, host: ModelHost, patience: Patience) -> None:
        with contextlib.suppress(EOFError):
            while True:
                event = host.receive()
                with self._lock:
                    patience.hear(event)
                    self._take(event)
        if self._closed:
            return
        ending = host.ending()
        with self._lock:
            if host is self._host:
                self._lost(ending)

    def _watch(self, host: ModelHost, patience: Patience) -> None:
        """Ends a process that hangs; `_listen` then does what is done after a crash.

        Counts its own turns rather than the clock: while the whole machine or this process stands still, nothing hangs.
        """
        while True:
            time.sleep(_TURN_S)
            with self._lock:
                if host is not self._host:
                    return
                if host.has_place and (why := patience.wait(_TURN_S)):
                    self._hung = why
                    break
        host.close()

    def _take(self, event: Any) -> None:
        if isinstance(event, Alive):
            pass  # for `_watch`
        elif isinstance(event, Ready):
            self._failed_starts = 0
            self.info = event.info
            self._set("ready", "")
            for preview in list(self._previews.values()):
                self._send(preview)
            self._next()
        elif isinstance(event, Seen | Blind):
            if (waiting := self._looking.pop(event.view, None)) is not None:
                waiting.put(event)
        elif isinstance(event, Unfit):
            self._failed_starts = _STARTS
            self._set("failed", event.message)
        elif isinstance(event, Ended):
            if self._current is not None and self._current.id == event.order_id:
                self._current = None
            self._previews.pop(event.order_id, None)
            self._tell(event.order_id, event)
            self._next()
        else:
            self._tell(event.order_id, event)

    def _lost(self, ending: str) -> None:
        """Handles the end of the process: its order ends, the others wait for the next process."""
        self._host = None
        hung, self._hung = self._hung, ""
        self._release()
        if self._closed:
            return
        if self.state == "ready":
            why = f"the model's process {hung or f'ended unexpectedly ({ending})'}; it is restarting"
        else:
            self._failed_starts += 1
            why = self.message
            if self.state != "failed":
                why = f"the model's process {hung or f'ended ({ending})'} while loading"
        over = [*([self._current] if self._current else []), *self._previews.values()]
        self._current, self._previews = None, {}
        gives_up = self._failed_starts >= _STARTS
        if gives_up:
            over += self._waiting
            self._waiting.clear()
        for order in over:
            self._tell(order.id, Ended(order.id, "failed", f"{why}. What was found is kept"))
        if gives_up:
            self._failed_starts = 0
            self._set("failed", why)
        else:
            self._start("restarting", why)

    def _release(self) -> None:
        """Live views need not wait any longer."""
        for waiting in self._looking.values():
            waiting.put(None)
        self._looking.clear()

    def _next(self) -> None:
        if self._current is not None or self.state != "ready" or not self._waiting:
            return
        self._current = self._waiting.popleft()
        self._send(self._current)
        self._tell(self._current.id, 0)
        self._tell_places()

    def _tell_places(self) -> None:
        for place, order in enumerate(self._waiting, 1):
            self._tell(order.id, place)

    def _send(self, message: Order | Cancel | Look | Leave) -> None:
        if self._host is not None:
            self._host.send(message)

    def _tell(self, order_id: str, event: Update | Restarted | Ended | int) -> None:
        listener = self._listeners.get(order_id)
        if isinstance(event, Ended):
            self._listeners.pop(order_id, None)
        if listener is not None:
            listener(event)

    def _set(self, state: ModelState, message: str) -> None:
        self.state, self.message = state, message
        self._told(state, message)
