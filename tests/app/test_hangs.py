"""A model's process that no longer makes progress: it is noticed, restarted, and what it had found is kept."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from sam3ray.app._desk import Desk
from sam3ray.app._messages import Ended, Look, Ready, Update
from sam3ray.app._model_host import LocalHost
from sam3ray.app._order import Order
from sam3ray.app._pulse import Alive, Patience, Pulse
from sam3ray.config import ModelConfig, TrackingConfig, VideoConfig
from sam3ray.failures import NotNow
from sam3ray.shapes import ClipSpec, write_clip
from sam3ray.values.clip import Clip

SPEC = ClipSpec(seed=6, frames=48, width=160, height=90, objects=(2, 3))
LIMIT_S = 15.0  # more than a start or an import holds up the pulse on a busy machine


def said(patience: Patience, *messages: Any) -> list[str]:
    """What is wrong after 4 s, then 4 s after each message."""
    found = [patience.wait(4)]
    for message in messages:
        patience.hear(message)
        found.append(patience.wait(4))
    return found


def test_silence_and_a_process_that_uses_no_processor_are_hangs():
    assert said(Patience(10), *[Alive(0, is_idle=True)] * 9) == [""] * 10  # it waits for work
    assert said(Patience(10), *[Alive(n, is_idle=False) for n in range(9)]) == [""] * 10  # it works
    assert said(Patience(10), *[Update("a", None)] * 9) == [""] * 10  # type: ignore[arg-type]
    *before, after = said(Patience(10), Ready({}), *[Alive(0.05, is_idle=False)] * 2)
    assert before == [""] * 3
    assert after == "made no progress for 12 s and was ended"
    silent = Patience(10)
    assert silent.wait(9) == ""
    silent.hear(Alive(5, is_idle=True))
    assert silent.wait(9) == ""
    assert silent.wait(1) == "made no progress for 10 s and was ended"
    assert Patience(10).wait(10) == "made no progress for 10 s and was ended"  # before its first word


def test_a_processor_that_is_kept_busy_without_an_answer_is_a_hang_in_the_end():
    patience = Patience(10)
    said_after = [said(patience, Alive(n, is_idle=False))[-1] for n in range(300)]
    assert said_after[200] == ""
    assert next(filter(None, said_after)) == "gave no answer for 30 minutes and was ended"


def test_a_pulse_tells_work_from_waiting():
    sent, free = [], threading.Event()

    class Pipe:
        def send(self, message: Any) -> None:
            sent.append(message)

        def recv(self) -> str:
            free.wait(30)
            return "work"

        def poll(self) -> bool:
            return False

    def main() -> None:
        pulse = Pulse(Pipe())
        pulse.recv()
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            pass
        free.clear()
        pulse.recv()

    threading.Thread(target=main, daemon=True).start()
    _until(lambda: sent and sent[-1].is_idle)
    waited = sent[-1].cpu_s
    free.set()
    _until(lambda: sent[-1].cpu_s > waited + 0.2)
    _until(lambda: sent[-1].is_idle)
    free.set()


def _until(question: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.02)


class Noted(LocalHost):
    """Attributes: has_pulse: it has said something."""

    has_pulse = False

    def receive(self) -> Any:
        message = super().receive()
        self.has_pulse = True
        return message


class Hanging:
    """A desk with the embedded model, whose processes can be stopped."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.states: list[tuple[str, str]] = []
        self.desk = Desk(self._make, lambda *state: self.states.append(state), LIMIT_S)
        self.desk.start()

    def _make(self, _: Any) -> LocalHost:
        self.host = Noted(ModelConfig(checkpoint="embedded", device="cpu"), TrackingConfig())
        return self.host

    def stop(self) -> psutil.Process:
        process = psutil.Process(self.host._process.pid)
        process.suspend()
        return process

    def submit(self, name: str, **more: Any) -> list[Any]:
        heard: list[Any] = []
        order = Order(name, self.path, Clip(name, self.path), VideoConfig(), ("red circle",), last=SPEC.frames - 1)
        self.desk.submit(dataclasses.replace(order, **more), heard.append)
        return heard


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Hanging]:
    write_clip(SPEC, tmp_path / "clip.mp4")
    made = Hanging(tmp_path / "clip.mp4")
    yield made
    made.desk.close()


def test_a_model_that_hangs_in_a_run_and_again_while_it_loads_is_started_again_and_work_goes_on(hanging):
    desk = hanging.desk
    first, second = hanging.submit("a"), hanging.submit("b")
    _until(lambda: any(isinstance(each, Update) for each in first))
    process = hanging.stop()
    preview = hanging.submit("c", is_preview=True)
    with pytest.raises(NotNow, match="it is restarting"):  # a picture that is larger than what a pipe holds
        desk.look(Look("v", np.zeros((720, 1280, 3), np.uint8), 0.0, ("star",)))
    for each in (first, preview):
        _until(lambda heard=each: isinstance(heard[-1], Ended))
        assert each[-1].how == "failed"
        assert "made no progress for 15 s and was ended; it is restarting. What was found is kept" in each[-1].message
    assert not process.is_running()
    _until(lambda: hanging.host._process.pid != process.pid and hanging.host.has_pulse)  # torch is being imported now
    hanging.stop()
    _until(lambda: isinstance(second[-1], Ended))
    assert second[-1].how == "done"
    assert any("made no progress for 15 s and was ended while loading" in said for _, said in hanging.states)
    assert [state for state, _ in hanging.states] == ["loading", "ready", "restarting", "restarting", "ready"]

    _until(lambda: desk.state == "ready")  # closing frees who waits for a model that hangs
    hanging.stop()
    ended = []

    def look() -> None:
        try:
            desk.look(Look("v", np.zeros((48, 64, 3), np.uint8), 0.0, ("star",)))
        except NotNow as error:
            ended.append(str(error))

    thread = threading.Thread(target=look)
    thread.start()
    _until(lambda: desk._looking)
    desk.close()
    thread.join(10)
    assert len(ended) == 1
