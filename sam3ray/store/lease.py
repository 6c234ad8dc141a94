"""Who drives a run: one record with a heartbeat, so that a second driver can see the first.

The lease is a courtesy, not a lock: that no clip is committed twice rests on create-if-absent alone. It spares two
drivers the work of labelling the same clips.

A driver counts as dead when its process is gone (told at once by a driver on the same host, in the same process
namespace) or when its heartbeat is older than `STALE_S`. Clocks of hosts may differ by less than that.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from typing import Any

from sam3ray.failures import ClipError, JobStopped
from sam3ray.store import layout
from sam3ray.store.storage import Storage

HEARTBEAT_S = 15.0
STALE_S = 90.0


class DriverLease:
    """A context manager: entering takes the lease, leaving gives it back.

    Crash contract: if the driver dies the record stays; the next driver takes it over as soon as the dead one is
    known to be dead (see above).

    Attributes:
        lost: another driver has taken over, because this one was silent for too long. Stop starting new work.
    """

    def __init__(self, storage: Storage, heartbeat_s: float = HEARTBEAT_S, stale_s: float = STALE_S) -> None:
        self._storage = storage
        self._heartbeat_s = heartbeat_s
        self._stale_s = stale_s
        self._id = uuid.uuid4().hex
        self._started = time.time()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = False

    def __enter__(self) -> DriverLease:
        """Take the lease.

        Raises:
            JobStopped: another driver is active.
        """
        if not self._storage.create_bytes(self._record(), layout.DRIVER):
            other = read_driver(self._storage)
            if other is not None and not _is_dead(other, self._stale_s):
                raise JobStopped(
                    f"another driver is active on this output: process {other.get('pid')} on {other.get('host')}, "
                    f"last sign of life {_age(other):.0f} s ago; wait for it, stop it, or use another output "
                    f"(if it is dead, it is taken for dead {self._stale_s:.0f} s after its last sign of life)"
                )
            self._storage.replace_bytes(self._record(), layout.DRIVER)
            holder = read_driver(self._storage)  # of two that take over at once the later write wins
            if holder is not None and holder.get("driver_id") != self._id:
                raise JobStopped(
                    "another driver has just taken over this output: "
                    f"process {holder.get('pid')} on {holder.get('host')}"
                )
        self._storage.clear_temporaries()
        self._thread = threading.Thread(target=self._beat, name="driver-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=self._heartbeat_s)
        # A record left behind only makes the next driver look twice.
        with contextlib.suppress(ClipError, JobStopped):
            holder = read_driver(self._storage)
            if holder is not None and holder.get("driver_id") == self._id:
                self._storage.delete(layout.DRIVER)

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            # An unreachable store is the driver's to notice on its own calls; the next beat tries again.
            with contextlib.suppress(ClipError, JobStopped):
                holder = read_driver(self._storage)
                if holder is not None and holder.get("driver_id") != self._id:
                    self.lost = True
                    return
                self._storage.replace_bytes(self._record(), layout.DRIVER)

    def _record(self) -> bytes:
        record = {
            "driver_id": self._id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process": _process_identity(os.getpid()),
            "namespace": _namespace(),
            "started_at": round(self._started, 3),
            "heartbeat_at": round(time.time(), 3),
        }
        return json.dumps(record, indent=2).encode() + b"\n"


def read_driver(storage: Storage) -> dict[str, Any] | None:
    """The record of the driver that holds the run; None if there is none."""
    data = storage.read(layout.DRIVER)
    if data is None:
        return None
    try:
        record = json.loads(data)
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {"heartbeat_at": 0.0}  # damaged: as good as dead


def active_driver(storage: Storage, stale_s: float = STALE_S) -> dict[str, Any] | None:
    """The record of a driver that is alive, as far as one can tell from here."""
    record = read_driver(storage)
    return None if record is None or _is_dead(record, stale_s) else record


def _age(record: dict[str, Any]) -> float:
    try:
        return max(0.0, time.time() - float(record["heartbeat_at"]))
    except (KeyError, TypeError, ValueError):
        return float("inf")


def _is_dead(record: dict[str, Any], stale_s: float) -> bool:
    if record.get("namespace") and record.get("namespace") == _namespace():
        pid = record.get("pid")
        return not isinstance(pid, int) or _process_identity(pid) != record.get("process")
    return _age(record) > stale_s


def _namespace() -> str:
    """Names the kernel instance and process namespace: within it, process ids can be compared. Empty if unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_identity(pid: int) -> str:
    """The start time of a live process, which tells it from a later one of the same id; empty if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
