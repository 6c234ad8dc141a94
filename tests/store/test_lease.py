"""Two drivers on one output: the second is told, the dead are told apart from the living."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sam3ray.failures import JobStopped
from sam3ray.store import RunStore
from sam3ray.store.lease import DriverLease, active_driver, read_driver
from sam3ray.store.storage import Storage

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
        with pytest.raises(JobStopped, match="process 1 on far, last sign of life"):
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
