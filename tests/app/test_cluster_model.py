"""The model's process as an actor on a cluster: messages in order, files lent, a death that says why."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from sam3ray.app import _model_host
from sam3ray.app._desk import Desk
from sam3ray.app._messages import Cancel, Ended, Look, Update
from sam3ray.app._model_host import ClusterHost
from sam3ray.app._order import Order
from sam3ray.config import ClusterConfig, ModelConfig, TrackingConfig, VideoConfig
from sam3ray.job.cluster import connected
from sam3ray.job.remote import Host, RemoteProcess, Unwanted, with_gpu_if_any
from sam3ray.shapes import ClipSpec, write_clip
from sam3ray.values.clip import Clip
from tests.app.test_model_host import be_ready, start_again

SPEC = ClipSpec(seed=6, frames=12, width=160, height=90, objects=(2, 3))


@pytest.fixture(scope="module")
def cluster(local_ray: None) -> Iterator[ClusterConfig]:
    tests = [sys.modules[__name__], sys.modules[start_again.__module__]]
    for each in tests:
        ray.cloudpickle.register_pickle_by_value(each)  # the actors know no tests
    with connected(ClusterConfig(address="auto")):
        yield with_gpu_if_any(ClusterConfig(address="auto"))
    for each in tests:
        ray.cloudpickle.unregister_pickle_by_value(each)


def echo(pipe: Any, word: str) -> None:
    while (message := pipe.recv()) != "end":
        if message == "die":
            raise ValueError("as asked")
        pipe.send((word, Path(message).read_bytes() if isinstance(message, str) and "/" in message else message))


def test_it_answers_in_order_reads_what_it_is_lent_and_dies_with_a_word(cluster, tmp_path, monkeypatch):
    assert cluster.gpus_per_actor == 0  # this cluster has none
    process = RemoteProcess(echo, ("hello",), cluster, 3000)
    for n in range(50):
        process.send(n)
    assert [process.recv() for _ in range(50)] == [("hello", n) for n in range(50)]
    video, other = tmp_path / "a.mp4", tmp_path / "b.mp4"
    video.write_bytes(os.urandom(2000))
    other.write_bytes(b"")
    assert process.lend(str(video)) == str(video)  # it can see it

    monkeypatch.setattr(Path, "stat", _later(Path.stat))  # as on another machine: this file is not that file
    copy = process.lend(str(video))
    assert copy != str(video)
    assert copy == process.lend(str(video))
    process.send(copy)
    assert process.recv() == ("hello", video.read_bytes())
    folder = tmp_path / "frames"
    folder.mkdir()
    for n in range(3):
        (folder / f"{n}.jpg").write_bytes(bytes([n]) * 500)
    copied = process.lend(str(folder))
    process.send(f"{copied}/2.jpg")
    assert process.recv() == ("hello", b"\2" * 500)
    assert not Path(copy).exists()  # there was no room for both
    with pytest.raises(Unwanted):
        process.lend(str(video), lambda: False)
    assert Path(process.lend(str(other))).read_bytes() == b""
    process.send("die")
    with pytest.raises(EOFError):
        process.recv()
    assert process.why.startswith("the worker's process died")


def _later(stat: Any) -> Any:
    class Facts:
        def __init__(self, found: os.stat_result) -> None:
            self.st_size, self.st_mtime_ns, self.st_mode = found.st_size, found.st_mtime_ns + 1, found.st_mode

    return lambda self, **options: Facts(stat(self, **options))


def test_other_versions_are_refused(cluster, monkeypatch):
    monkeypatch.setattr("sam3ray.job.remote.software_versions", lambda: {"sam3ray": "9.9"})
    process = RemoteProcess(echo, ("hello",), cluster, 1)
    with pytest.raises(EOFError):
        process.recv()
    assert "install the same versions on every node" in process.why


def test_a_function_that_returns_ends_the_pipe(cluster):
    process = RemoteProcess(echo, ("hello",), cluster, 1)
    process.send("end")
    with pytest.raises(EOFError):
        process.recv()
    process.close()
    assert Host  # the actor's class stays free of Ray
    assert not hasattr(Host.put, "__ray_concurrency_group__")


def test_an_actor_that_hangs_before_its_pulse_is_started_again_and_one_that_waits_for_its_place_is_not(
    cluster, monkeypatch
):
    """Ray (2.60) does not notice it. What waits for a place may wait as long as it likes."""
    monkeypatch.setattr(_model_host, "_hold", be_ready)
    waits = []

    def make(config: Any, told: Any) -> ClusterHost:
        return ClusterHost(config, TrackingConfig(), cluster, 1, told)

    asked = ClusterConfig(address="auto", cpus_per_actor=99, gpus_per_actor=0)
    late = ClusterHost(ModelConfig(), TrackingConfig(), asked, 1, waits.append)
    start_again(make)
    assert not late.has_place
    assert waits == ["it waits for 0 GPU and 99 CPU of the cluster"]
    late.close()


def test_a_death_on_the_cluster_loses_nothing_and_the_next_order_runs(cluster, tmp_path):
    write_clip(SPEC, tmp_path / "clip.mp4")
    hosts: list[ClusterHost] = []

    def make(told: Any) -> ClusterHost:
        hosts.append(ClusterHost(ModelConfig(checkpoint="embedded"), TrackingConfig(), cluster, 2**20, told))
        return hosts[-1]

    desk = Desk(make)
    heard: dict[str, list[Any]] = {"a": [], "b": []}
    changed = threading.Condition()

    def listener(name: str) -> Any:
        def hear(event: Any) -> None:
            with changed:
                heard[name].append(event)
                changed.notify_all()

        return hear

    def until(what: Any) -> None:
        with changed:
            assert changed.wait_for(what, 500), (heard, desk.state, desk.message)

    desk.start()
    for name in heard:
        path = str(tmp_path / "clip.mp4")
        desk.submit(
            Order(name, path, Clip(name, path), VideoConfig(), ("red circle",), last=SPEC.frames - 1), listener(name)
        )
    until(lambda: any(isinstance(each, Update) for each in heard["a"]))
    hosts[0].close()
    until(lambda: isinstance(heard["b"][-1], Ended))
    lost = heard["a"][-1]
    assert isinstance(lost, Ended)
    assert lost.how == "failed" or len(heard["a"]) > SPEC.frames  # it was quicker than we
    assert "is kept" in lost.message or lost.how == "done"
    assert heard["b"][-1].how == "done"
    assert {1, 0} <= {each for each in heard["b"] if isinstance(each, int)}  # it had waited
    seen = desk.look(Look("v", np.zeros((48, 64, 3), np.uint8), 0.0, ("star",)))
    assert seen.found.width == 64
    desk.close()


class FakeProcess:
    """Lends when it is let to. Attributes: sent: what has come to it."""

    def __init__(self, *_: Any) -> None:
        self.sent: list[Any] = []
        self.begins, self.may_lend = threading.Semaphore(0), threading.Semaphore(0)
        self.messages: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def recv(self) -> Any:
        if (message := self.messages.get()) is None:
            raise EOFError
        return message

    def lend(self, path: str, is_wanted: Any) -> str:
        self.begins.release()
        self.may_lend.acquire()
        if path == "copied" and not is_wanted():
            raise Unwanted
        return f"there/{path}"

    def close(self) -> None:
        self.messages.put(None)


def test_a_run_cancelled_while_its_video_is_lent_ends_and_the_next_does_not(monkeypatch):
    monkeypatch.setattr(_model_host, "RemoteProcess", FakeProcess)
    host = ClusterHost(ModelConfig(), TrackingConfig(), ClusterConfig(), 1, lambda _: None)
    process: Any = host._process
    for name, path, is_cancelled in (("a", "copied", True), ("b", "seen", True), ("c", "copied", False)):
        host.send(Order(name, path, Clip(name, path), VideoConfig(), ("star",)))
        assert process.begins.acquire(timeout=60)
        if is_cancelled:
            host.send(Cancel(name))
        process.may_lend.release()
        if name == "a":
            assert host.receive() == Ended("a", "cancelled")
    host.send(Order("d", "d", Clip("d", "d"), VideoConfig(), ("star",)))
    assert process.begins.acquire(timeout=60)  # c has been sent
    host.close()
    sent = [each.order_id if isinstance(each, Cancel) else (each.id, each.path) for each in process.sent]
    # b's first word came before it.
    assert sent == ["a", "b", ("b", "there/seen"), "b", ("c", "there/copied")]
