"""Two drivers on one output: the second is told, the dead are told apart from the living."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sam3ray.failures import ClipError, JobStopped, Reason
from sam3ray.store import RunStore
from sam3ray.store import lease as lease_module
from sam3ray.store.lease import DriverLease, active_driver, read_driver
from sam3ray.store.storage import Storage
from tests.servers import Place
from tests.store.conftest import QUICK

HOLD = """
import sys, time
from sam3ray.store import RunStore
with RunStore(sys.argv[1]).lease():
    print("held", flush=True)
    time.sleep(600)
"""


def holder(output: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, output], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_driver_is_told_of_the_first(store: RunStore):
    with store.lease() as lease, pytest.raises(JobStopped, match=r"another driver is active .* process \d+"):
        store.lease().__enter__()
    assert not lease.lost
    with store.lease():
        pass
    assert read_driver(store.storage) is None


def test_a_driver_in_another_process_is_respected_and_a_killed_one_is_not(tmp_path: Path):
    store = RunStore(str(tmp_path / "run"))
    process = holder(store.output)
    try:
        with pytest.raises(JobStopped, match=f"process {process.pid}"):
            store.lease().__enter__()
        assert active_driver(store.storage) is not None
        temporary = tmp_path / "run" / ".tmp"
        temporary.mkdir()
        (temporary / f"{os.uname().nodename}~{process.pid}~abc").write_bytes(b"half")
        (temporary / f"{os.uname().nodename}~{os.getpid()}~def").write_bytes(b"of ours")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert active_driver(store.storage) is None
    with store.lease():  # at once
        assert [path.name.split("~")[2] for path in temporary.iterdir()] == ["def"]
        assert read_driver(store.storage)["pid"] == os.getpid()


def test_a_pid_in_use_again_is_not_the_dead_driver(tmp_path: Path):
    store = RunStore(str(tmp_path / "run"))
    with store.lease():
        record = read_driver(store.storage)
    store.storage.replace_bytes(json.dumps({**record, "process": "1"}).encode(), "active_driver.json")
    with store.lease():
        pass


@pytest.mark.parametrize("age", [10, 80, 100])
def test_a_driver_elsewhere_is_dead_when_its_heartbeat_is_stale(tmp_path: Path, age: int):
    store = RunStore(str(tmp_path / "run"))
    record = {"driver_id": "x", "host": "far", "pid": 1, "namespace": "far", "heartbeat_at": time.time() - age}
    store.storage.create_bytes(json.dumps(record).encode(), "active_driver.json")
    if age < 90:
        with pytest.raises(JobStopped, match="process 1 on far, last heartbeat"):
            store.lease().__enter__()
    else:
        with store.lease():
            pass


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"heartbeat_at": "soon", "pid": "x"}', b"\xff"])
def test_a_damaged_record_keeps_nobody_out(tmp_path: Path, content: bytes):
    store = RunStore(str(tmp_path / "run"))
    store.storage.create_bytes(content, "active_driver.json")
    with store.lease():
        pass


def test_a_driver_that_was_taken_over_learns_of_it_and_leaves_the_record_alone(tmp_path: Path):
    storage = Storage(str(tmp_path / "run"))
    with DriverLease(storage, heartbeat_s=0.02) as lease:
        storage.replace_bytes(
            json.dumps({"driver_id": "other", "heartbeat_at": time.time()}).encode(), "active_driver.json"
        )
        for _ in range(500):
            if lease.lost:
                break
            time.sleep(0.02)
        assert lease.lost
    other = read_driver(storage)
    assert other is not None
    assert other["driver_id"] == "other"


def test_the_heart_beats(tmp_path: Path):
    storage = Storage(str(tmp_path / "run"))
    with DriverLease(storage, heartbeat_s=0.02):
        first = read_driver(storage)["heartbeat_at"]
        for _ in range(500):
            if read_driver(storage)["heartbeat_at"] > first:
                break
            time.sleep(0.02)
        else:
            pytest.fail("no heartbeat")


# ---- holders that sleep, clocks that are wrong, takers that race


def place_taken(storage: Storage, **changes: object) -> None:
    """The record of a holder on another host, as it stands now."""
    record = {"driver_id": "x", "host": "far", "pid": 1, "namespace": "far", "heartbeat_at": time.time()}
    storage.replace_bytes(json.dumps({**record, **changes}).encode(), "active_driver.json")


def test_a_holder_that_was_silent_for_too_long_is_taken_over_and_writes_nothing_more(tmp_path: Path):
    storage = Storage(str(tmp_path / "run"))
    with DriverLease(storage, heartbeat_s=60, stale_s=0.2) as sleeper:
        sleeper.check()
        time.sleep(0.3)
        with DriverLease(storage, stale_s=0.2) as second:
            with pytest.raises(JobStopped, match="has taken over this output"):
                sleeper.check()
            assert sleeper.lost
            second.check()
            assert read_driver(storage)["driver_id"] == second.id
    assert read_driver(storage) is None


@pytest.mark.parametrize("clock", ["boot", "wall"])
@pytest.mark.parametrize("taken", ["no", "still", "and given back"])
def test_after_a_pause_a_holder_looks_again(tmp_path: Path, monkeypatch, clock: str, taken: str):
    """One clock stands still while a machine sleeps, the other while it is frozen: either tells."""
    storage = Storage(str(tmp_path / "run"))
    asleep = [0.0]

    def clocks() -> tuple[float, float]:
        boot, wall = time.monotonic(), time.time()
        return (boot + asleep[0], wall) if clock == "boot" else (boot, wall + asleep[0])

    monkeypatch.setattr(lease_module, "now", clocks)
    monkeypatch.setattr(DriverLease, "_beat", lambda _: None)  # asleep, too
    with DriverLease(storage) as lease:
        read = []
        monkeypatch.setattr(
            Storage, "read", lambda self, path, ask=Storage.read: (read.append(path), ask(self, path))[1]
        )
        lease.check()
        assert read == []  # no request while it is surely held
        asleep[0] = 1000.0
        if taken == "still":
            place_taken(storage)
        elif taken == "and given back":
            storage.delete("active_driver.json")
        if taken == "no":
            lease.check()
            assert read == ["active_driver.json"]
            lease.check()
            assert len(read) == 1
        else:
            with pytest.raises(JobStopped, match="writes nothing more"):
                lease.check()


SLEEPER = """
import sys, time
from sam3ray.failures import JobStopped
from sam3ray.store.lease import DriverLease
from sam3ray.store.storage import Storage
with DriverLease(Storage(sys.argv[1]), heartbeat_s=0.2, stale_s=1.0) as lease:
    print("held", flush=True)
    try:
        while True:
            lease.check()
            time.sleep(0.01)
    except JobStopped:
        print("lost", flush=True)
"""


def test_a_stopped_process_is_taken_over_and_learns_of_it_when_it_goes_on(tmp_path: Path):
    output = str(tmp_path / "run")
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, output], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        storage = Storage(output)
        end = time.monotonic() + 60
        while active_driver(storage, stale_s=1.0) is not None:
            assert time.monotonic() < end
            time.sleep(0.05)
        with DriverLease(storage, stale_s=1.0) as second:
            process.send_signal(signal.SIGCONT)
            assert process.stdout.readline() == "lost\n"
            assert process.wait(60) == 0
            second.check()
            assert read_driver(storage)["driver_id"] == second.id
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "error", [OSError("disk full"), MemoryError(), RuntimeError("bug"), ClipError(Reason.STORAGE, "x")]
)
def test_the_heart_survives_its_disk_and_its_store(tmp_path: Path, monkeypatch, error: Exception):
    storage = Storage(str(tmp_path / "run"))
    failures = [5]
    replace = Storage.replace_bytes

    def failing(self, data, path):
        if failures[0]:
            failures[0] -= 1
            raise error
        return replace(self, data, path)

    with DriverLease(storage, heartbeat_s=0.02) as lease:
        first = read_driver(storage)["heartbeat_at"]
        monkeypatch.setattr(Storage, "replace_bytes", failing)
        end = time.monotonic() + 60
        while read_driver(storage)["heartbeat_at"] <= first:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert failures == [0]
        assert not lease.lost


def test_while_the_store_is_away_nobody_knows_and_nothing_is_written(tmp_path: Path, monkeypatch):
    storage = Storage(str(tmp_path / "run"), None, QUICK)
    with DriverLease(storage, heartbeat_s=60, stale_s=0.1) as lease:
        time.sleep(0.1)
        with monkeypatch.context() as away:
            away.setattr(lease_module, "read_driver", _raise(ClipError(Reason.STORAGE, "no answer")))
            with pytest.raises(ClipError, match="no answer"):
                lease.check()
        lease.check()  # nobody came meanwhile


def _raise(error: Exception):
    def call(*_: object) -> None:
        raise error

    return call


@pytest.mark.parametrize("heartbeat", ["NaN", "Infinity", "-Infinity", "1e999", "null", '"soon"', "[]", "1" * 400])
def test_a_heartbeat_that_is_no_time_expires_at_once(tmp_path: Path, heartbeat: str):
    storage = Storage(str(tmp_path / "run"))
    record = f'{{"driver_id": "x", "host": "far", "namespace": "far", "pid": 1, "heartbeat_at": {heartbeat}}}'
    storage.create_bytes(record.encode(), "active_driver.json")
    with DriverLease(storage):
        pass


def test_a_heartbeat_from_the_future_expires_unless_it_moves(tmp_path: Path):
    storage = Storage(str(tmp_path / "run"))
    place_taken(storage, heartbeat_at=time.time() + 1e6)
    assert active_driver(storage) is None
    with DriverLease(storage, heartbeat_s=0.1):
        pass
    place_taken(storage, heartbeat_at=time.time() + 1e6)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.02):
            place_taken(storage, heartbeat_at=time.time() + 1e6)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(JobStopped, match="by a clock that is 1000000 s ahead"):
            DriverLease(storage, heartbeat_s=0.5).__enter__()
    finally:
        over.set()
        thread.join()


def test_a_record_nested_100_000_deep_is_a_damaged_one(tmp_path: Path):
    storage = Storage(str(tmp_path / "run"))
    storage.create_bytes(b"[" * 100_000 + b"]" * 100_000, "active_driver.json")
    assert active_driver(storage) is None
    with DriverLease(storage):
        pass


def test_of_many_who_take_over_at_once_one_holds(place: Place):
    """A dead holder, and eight who notice in the same instant."""
    for _ in range(1 if "://" in place.uri else 3):
        place_taken(Storage(place.uri, place.options, QUICK), heartbeat_at=0)
        barrier, held = threading.Barrier(8), []

        def take(barrier: threading.Barrier = barrier, held: list[DriverLease] = held) -> None:
            storage = Storage(place.uri, place.options, QUICK)
            read_driver(storage)  # connects
            lease = DriverLease(storage)
            barrier.wait(60)
            with contextlib.suppress(JobStopped):
                lease.__enter__()
                held.append(lease)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = held
        winner.check()
        assert read_driver(winner._storage)["driver_id"] == winner.id
        winner.__exit__()
        storage = Storage(place.uri, place.options, QUICK)
        assert [entry.path for entry in storage.walk()] == []


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_taker_that_dies_or_sleeps_half_way_is_taken_over_itself(tmp_path: Path, monkeypatch, step: int):
    """`step` 1: it had announced itself; 2: it wakes up and writes the record after all; 3: it had written it."""
    storage = Storage(str(tmp_path / "run"))
    place_taken(storage, heartbeat_at=0)
    taker = DriverLease(storage, heartbeat_s=0.2, stale_s=1.0)
    replace = Storage.replace_bytes
    asleep, awake = threading.Event(), threading.Event()

    def sleeping(self, data, path):
        if threading.current_thread().name == "taker" and not asleep.is_set():
            if step == 3:
                replace(self, data, path)
            asleep.set()
            awake.wait(60)
            if step == 1:
                raise JobStopped("it never wakes up")
            if step == 3:
                return
        replace(self, data, path)

    monkeypatch.setattr(Storage, "replace_bytes", sleeping)
    outcome = []

    def take() -> None:
        try:
            taker.__enter__()
            taker.check()
            outcome.append("held")
        except JobStopped:
            outcome.append("stopped")

    thread = threading.Thread(target=take, name="taker")
    thread.start()
    assert asleep.wait(60)
    time.sleep(1.1)
    with DriverLease(storage, heartbeat_s=0.05, stale_s=1.0) as second:
        second.check()
        awake.set()
        thread.join(60)
        assert outcome == ["stopped"]
        end = time.monotonic() + 60
        while read_driver(storage)["driver_id"] != second.id:  # the sleeper may have written once more
            assert time.monotonic() < end
            time.sleep(0.02)
        second.check()
        assert not second.lost
    taker._stop.set()


def test_a_lease_that_could_not_begin_is_given_back(tmp_path: Path, monkeypatch):
    storage = Storage(str(tmp_path / "run"))
    with monkeypatch.context() as broken:
        broken.setattr(storage, "clear_temporaries", _raise(JobStopped("access denied")))
        with pytest.raises(JobStopped, match="access denied"):
            DriverLease(storage).__enter__()
    assert read_driver(storage) is None
    with DriverLease(storage):
        pass
