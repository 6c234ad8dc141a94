"""Work in a helper process: answers, errors, limits, deaths."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sam3ray.failures import ClipError, Reason
from sam3ray.faults.machine import machine_fault
from sam3ray.guard import fence
from sam3ray.guard.fence import HelperDied, HelperTimedOut, fenced, fenced_items

LIMITS = {"memory_bytes": 2**28, "cpu_s": 20.0}


def spin() -> None:
    while True:
        pass


def refuse() -> None:
    raise ClipError(Reason.NOT_FOUND, "it is not there", "a.mp4")


def count(to: int, die_at: int = -1) -> Iterator[int]:
    for i in range(to):
        if i == die_at:
            os.abort()
        yield i


def test_answers_and_errors_come_back() -> None:
    assert fenced(sorted, [2, 1], **LIMITS) == [1, 2]
    with pytest.raises(ClipError) as caught:
        fenced(refuse, **LIMITS)
    assert (caught.value.reason, caught.value.where) == (Reason.NOT_FOUND, "a.mp4")
    assert list(fenced_items(count, 5, **LIMITS)) == [0, 1, 2, 3, 4]


def test_memory_and_time_are_bounded_and_the_next_call_works() -> None:
    helper = fenced(os.getpid, **LIMITS)
    with pytest.raises(MemoryError):
        fenced(bytes, 2**29, **LIMITS)
    assert fenced(os.getpid, **LIMITS) == helper  # a refused allocation is no death
    assert fenced(len, bytes(100), **LIMITS) == 100
    with pytest.raises(HelperTimedOut):
        fenced(spin, memory_bytes=2**28, cpu_s=0.2)
    with pytest.raises(HelperDied, match=r"crashed \(SIGABRT\)"):
        fenced(os.abort, **LIMITS)
    items = fenced_items(count, 5, 3, **LIMITS)
    assert [next(items), next(items), next(items)] == [0, 1, 2]
    with pytest.raises(HelperDied):
        next(items)
    assert fenced(os.getpid, **LIMITS) not in (helper, os.getpid())


def test_a_helper_that_died_while_idle_is_replaced() -> None:
    os.kill(fenced(os.getpid, **LIMITS), 9)
    assert fenced(len, "abc", **LIMITS) == 3


def killed() -> None:
    os.kill(os.getpid(), 9)


def test_a_machine_that_is_short_of_memory_is_no_fault_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    fence._end_all()
    with pytest.raises(OSError, match="was killed") as caught:
        fenced(killed, **LIMITS)
    fault = machine_fault(caught.value)
    assert fault is not None
    assert fault.passing
    monkeypatch.setattr("sys.executable", "/bin/false")
    for _ in range(2):
        with pytest.raises(OSError, match=r"exit status 1\) when it was started"):
            fenced(killed, **LIMITS)


def test_threads_have_helpers_of_their_own() -> None:
    fenced(os.getpid, **LIMITS)  # one is there, and would be waited for while it starts
    pids = []
    threads = [threading.Thread(target=lambda: pids.append(fenced(_pid_after, 0.2, **LIMITS))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 2


def _pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_calls_at_once_wait_for_the_one_helper_that_is_being_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker opens a clip and the next one's video at the same time; a helper takes 100 MB and half a second."""
    monkeypatch.setattr(fence, "_idle", [])
    monkeypatch.setattr(fence, "_YOUNG_S", 60.0)
    with ThreadPoolExecutor(3) as threads:
        assert len(set(threads.map(lambda _: fenced(os.getpid, **LIMITS), range(2)))) == 1
        with pytest.raises(HelperDied):
            fenced(os.abort, **LIMITS)
        calls = [threads.submit(fenced, call, **LIMITS) for call in (os.abort, os.getpid, os.getpid)]
        assert isinstance(calls[0].exception(), HelperDied)
        assert calls[1].result() > 0 < calls[2].result()
    fence._end_all()


def test_a_helper_ends_with_its_caller_and_knows_no_torch() -> None:
    script = (
        "import os, sys\nfrom sam3ray.guard.fence import fenced\nfrom sam3ray.video import _probe\n"
        "print(fenced(os.getpid, memory_bytes=2**28, cpu_s=9), fenced(_probe.probe.__code__.co_argcount.__add__, 0, "
        "memory_bytes=2**28, cpu_s=9), fenced(eval, \"'torch' in __import__('sys').modules\", memory_bytes=2**28, "
        "cpu_s=9), flush=True)\nos.kill(os.getpid(), 9)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    pid, _, has_torch = ran.stdout.split()
    assert has_torch == "False"
    end = time.monotonic() + 60
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}")
