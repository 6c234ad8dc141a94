"""The model's process on this machine, with another function in the model's place."""

from __future__ import annotations

import contextlib
import threading
import time

from sam3ray.app import _model_host
from sam3ray.config import ModelConfig, TrackingConfig


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
