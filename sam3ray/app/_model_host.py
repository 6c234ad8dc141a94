"""Where the model runs: a process on this machine, or an actor on a cluster. Both use the same messages."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol

from sam3ray.app._messages import Cancel, Ended
from sam3ray.app._options import AppOptions
from sam3ray.app._order import Order
from sam3ray.app._pulse import Pulse
from sam3ray.config import ClusterConfig, ModelConfig, TrackingConfig
from sam3ray.files.workdir import WorkDir
from sam3ray.job.remote import RemoteProcess, Unwanted

_LAST_WORK_S = 30.0  # for a process that has closed its pipe to end


class ModelHost(Protocol):
    """A process of the model."""

    @property
    def has_place(self) -> bool:
        """Whether it runs, and can hang. False: it waits for a node of a cluster, however long that takes."""

    def send(self, message: Any) -> None:
        """At once, also where the process does not read. A message to a process that has ended is lost."""

    def receive(self) -> Any:
        """The next message. Raises EOFError when the process has ended."""

    def ending(self) -> str:
        """How it ended, after EOFError, as "exit code 1"."""

    def close(self) -> None:
        """Ends the process, even one that is stopped. Whoever waits in `receive` gets EOFError."""


MakeHost = Callable[[Callable[[str], None]], ModelHost]
"""Starts a process. It is given what to call with a sentence while it waits for a place."""


class LocalHost:
    """A process on this machine."""

    has_place = True

    def __init__(self, config: ModelConfig, tracking: TrackingConfig) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._folder = WorkDir()
        self._process = context.Process(
            target=_hold_here,
            args=(theirs, config, tracking, str(self._folder.path)),
            name="sam3ray-model",
            daemon=True,
        )
        self._process.start()
        theirs.close()
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._send, name="to the model", daemon=True).start()

    def send(self, message: Any) -> None:
        self._outbox.put(message)

    def _send(self) -> None:
        """In a thread: a pipe that nobody reads is soon full, and then holds up whoever writes into it."""
        with contextlib.suppress(OSError):  # `receive` hears of its end, too
            while (message := self._outbox.get()) is not None:
                self._pipe.send(message)

    def receive(self) -> Any:
        try:
            return self._pipe.recv()
        except OSError:
            raise EOFError from None

    def ending(self) -> str:
        self._end(_LAST_WORK_S)
        return f"exit code {self._process.exitcode}"

    def close(self) -> None:
        end = socket.socket(fileno=os.dup(self._pipe.fileno()))
        with end, contextlib.suppress(OSError):  # it is over already
            end.shutdown(socket.SHUT_RDWR)  # closing the pipe would break its reader off
        self._end(2)

    def _end(self, seconds: float) -> None:
        """Waits so long for the process to end by itself."""
        self._outbox.put(None)
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._folder.close()


class ClusterHost:
    """An actor on the cluster that this process is connected to (`job.cluster.connected`).

    Orders wait until their video has been lent, in a thread; frames of live views do not wait for them.
    """

    def __init__(
        self,
        config: ModelConfig,
        tracking: TrackingConfig,
        cluster: ClusterConfig,
        max_bytes: int,
        told: Callable[[str], None],
    ) -> None:
        self._process = RemoteProcess(_hold, (config, tracking), cluster, max_bytes, told)
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._received: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._cancelled = ""  # the order cancelled last: only one is under way
        threading.Thread(target=self._receive, name="from the cluster", daemon=True).start()
        threading.Thread(target=self._lend, name="to the cluster", daemon=True).start()

    @property
    def has_place(self) -> bool:
        return self._process.has_place

    def send(self, message: Any) -> None:
        if isinstance(message, Order):
            self._orders.put(message)
            return
        if isinstance(message, Cancel):
            self._cancelled = message.order_id
        self._process.send(message)

    def receive(self) -> Any:
        message = self._received.get()
        if message is None:
            raise EOFError
        return message

    def ending(self) -> str:
        return self._process.why

    def close(self) -> None:
        self._orders.put(None)
        self._received.put(None)
        self._process.close()

    def _receive(self) -> None:
        with contextlib.suppress(EOFError):
            while True:
                self._received.put(self._process.recv())
        self._orders.put(None)
        self._received.put(None)

    def _lend(self) -> None:
        while (order := self._orders.get()) is not None:
            name = order.id
            try:
                path = self._process.lend(order.path, lambda name=name: name != self._cancelled)  # type: ignore[misc]
            except EOFError:
                return  # `_receive` hears of its end, too
            except OSError as error:
                self._received.put(Ended(name, "failed", f"the video cannot be read: {error.strerror or error}"))
            except Unwanted:
                self._received.put(Ended(name, "cancelled"))
            else:
                self._process.send(dataclasses.replace(order, path=path))
                if name == self._cancelled:
                    self._process.send(Cancel(name))  # the first one came before its order


def make_host(options: AppOptions) -> MakeHost:
    """As the options say."""
    if options.cluster is None:
        return lambda _: LocalHost(options.model, options.tracking)
    cluster, max_bytes = options.cluster, options.video.cache_bytes
    return lambda told: ClusterHost(options.model, options.tracking, cluster, max_bytes, told)


def _hold(pipe: Any, config: ModelConfig, tracking: TrackingConfig, folder: str | None = None) -> None:
    """Runs in the model's process: this one, the server's, need not wait for torch to be imported."""
    pipe = Pulse(pipe)
    from sam3ray.app._model_process import main

    main(pipe, config, tracking, folder)


def _hold_here(pipe: Connection, config: ModelConfig, tracking: TrackingConfig, folder: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    _hold(pipe, config, tracking, folder)
