"""The model's process on this machine, with another function in the model's place."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from sam3ray.app import _model_host
from sam3ray.app._desk import Desk
from sam3ray.app._messages import Ready
from sam3ray.app._model_host import LocalHost, ModelHost
from sam3ray.app._pulse import Pulse
from sam3ray.config import ModelConfig, TrackingConfig

LIMIT_S = 15.0  # more than a process takes to its pulse on a busy machine


def _say_two_things(pipe, *_):
    pipe.send("here")
    time.sleep(0.3)
    with contextlib.suppress(BrokenPipeError):
        pipe.send("late")


def test_closing_while_the_model_loads_ends_its_reader_as_the_end_of_the_process_does(monkeypatch):
    monkeypatch.setattr(_model_host, "_hold_here", _say_two_things)
    host = _model_host.LocalHost(ModelConfig(), TrackingConfig())
    assert host.receive() == "here"
    heard = []

    def listen():
        try:
            heard.append(host.receive())
        except (EOFError, TypeError) as error:
            heard.append(type(error))

    reader = threading.Thread(target=listen)
    reader.start()
    time.sleep(0.1)  # it waits in `receive` now
    host.close()
    reader.join(10)
    assert heard == [EOFError]
    host.send("too late")


class Stops:
    """In a model's configuration: stops the process that reads it, before any function of ours has begun."""

    def __reduce__(self) -> Any:
        return eval, (f"(os := __import__('os')).kill(os.getpid(), {signal.SIGSTOP:d})",)


def be_ready(pipe: Any, *_: Any) -> None:
    """A model's process that has nothing to load."""
    pipe = Pulse(pipe)
    pipe.send(Ready({}))
    with contextlib.suppress(EOFError):
        pipe.recv()


def start_again(make: Callable[[Any, Callable[[str], None]], ModelHost]) -> list[Any]:
    """A desk whose first process stops before its pulse; returns the hosts that it had made once it was ready.

    Args:
        make: makes a host with this configuration.
    """
    hosts: list[Any] = []
    said: list[tuple[str, str]] = []
    changed = threading.Condition()

    def tell(*state: str) -> None:
        with changed:
            said.append(state)  # type: ignore[arg-type]
            changed.notify_all()

    def make_next(told: Callable[[str], None]) -> ModelHost:
        hosts.append(make(ModelConfig() if hosts else Stops(), told))
        return hosts[-1]

    desk = Desk(make_next, tell, LIMIT_S)
    desk.start()
    with changed:
        assert changed.wait_for(lambda: said[-1][0] in ("ready", "failed"), 150), said
    assert said[-1][0] == "ready"
    assert ("restarting", "the model's process made no progress for 15 s and was ended while loading") in said
    assert len(hosts) == 2
    desk.close()
    return hosts


def test_a_process_that_hangs_before_its_pulse_is_started_again(monkeypatch):
    monkeypatch.setattr(_model_host, "_hold_here", be_ready)
    hosts = start_again(lambda config, _: LocalHost(config, TrackingConfig()))
    assert hosts[0].ending() == "exit code -9"
