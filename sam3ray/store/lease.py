"""The exclusive right to change a run: a record with a heartbeat, which shows other processes that a holder is active.

Drivers hold the lease, and so do `compact`, `retry` and `render`. It expires: a holder is considered dead when its
process has ended (known at once on the same host, in the same process namespace), or `STALE_S` after its last
heartbeat. The hosts' clocks must differ by less than that. A heartbeat further in the future only shows that a clock is
wrong: a process that finds one watches whether it changes.

A holder that was suspended for longer (a sleeping laptop, a paused machine, an unreachable store) may have lost the
lease. So every change begins with `check`, which makes no request while the lease is certainly held and otherwise reads
the record again. Nothing important depends on the lease alone: clips are committed, and indexes of merged files
switched, by create-if-absent.

Two processes may try to take over at the same moment. Each tries to create `.tmp/lease~<holder>`, and only one
succeeds. The winner checks that the record has not changed, replaces it, and deletes that file. If the winner dies
before that, its file counts as a holder, and is taken over in the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import socket
import threading
import time
import uuid
from typing import Any

from sam3ray.failures import ClipError, JobStopped
from sam3ray.guard.jsontext import parse_json
from sam3ray.store import layout
from sam3ray.store.retrying import RetryPolicy
from sam3ray.store.storage import Storage

_LOG = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
STALE_S = 90.0
WATCH_S = 1.0  # between two checks whether the lease has been taken over
_TAKES = 20
# tries of a heartbeat; the next one follows anyway
_PATIENCE = RetryPolicy(tries=3, base_s=0.2, cap_s=1.0, within_s=10.0)


def now() -> tuple[float, float]:
    """Two clocks, in seconds. The first never jumps; the second keeps running while the machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)), time.time()


class DriverLease:
    """A context manager: entering takes the lease, leaving releases it.

    Crash contract: if the holder dies, its record stays. The next process takes the lease over as soon as the holder is
    known to be dead (see above).

    Attributes:
        id: identifies this holder.
        lost: another process has taken over, because this one's heartbeat was too old. Noticed about a second after the
            process runs again.
    """

    def __init__(
        self, storage: Storage, heartbeat_s: float = HEARTBEAT_S, stale_s: float = STALE_S, task: str = "run"
    ) -> None:
        self._storage = storage
        self._hasty = Storage(storage.uri, storage.options, _PATIENCE)
        self._hasty.enforced = storage.enforced
        self._heartbeat_s = heartbeat_s
        self._stale_s = stale_s
        self._task = task
        self.id = uuid.uuid4().hex
        self._started = time.time()
        self._beaten: set[str] = set()  # holders whose lease this one has taken over
        self._held_at = (-math.inf, -math.inf)  # before the last heartbeat was written
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = False

    def __enter__(self) -> DriverLease:
        """Take the lease.

        Raises:
            JobStopped: another holder is active.
        """
        self._take()
        try:
            self._storage.clear_temporaries()
        except BaseException:
            self.__exit__()
            raise
        self._thread = threading.Thread(target=self._beat, name="driver-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=self._heartbeat_s)
        # If the record stays behind, the next driver only checks it once more.
        with contextlib.suppress(ClipError, JobStopped, OSError):
            began = now()
            holder = read_driver(self._storage)
            if holder is not None and holder["driver_id"] == self.id and _seconds_since(began) < self._stale_s / 2:
                self._storage.delete(layout.DRIVER)

    def check(self) -> None:
        """Check that the lease is still held. Call this before each step that cannot be undone.

        Raises:
            JobStopped: another process has taken over. Change nothing more.
            ClipError: reason `storage`: the store is unreachable, so it is not known.
        """
        for _ in range(_TAKES):
            if self.lost or self._is_sure():
                break
            with self._lock:
                self._renew(self._storage)
        if self.lost or not self._is_sure():
            raise JobStopped(
                "another process has taken over this output, because this one sent no heartbeat for "
                f"{self._stale_s:.0f} s or "
                "more; this process writes nothing more to it"
            )

    def _is_sure(self) -> bool:
        """Whether no other process can have taken over, which takes `stale_s`. Half of that is a margin."""
        return _seconds_since(self._held_at) < self._stale_s / 2

    # ---- taking

    def _take(self) -> None:
        for _ in range(_TAKES):  # other processes may take and release the lease meanwhile
            began = now()
            if self._storage.create_bytes(self._record(), layout.DRIVER):
                self._held_at = began
                return
            record = read_driver(self._storage)
            if record is None:
                continue  # just released
            claims = _claims(self._storage, record)
            holder = claims[-1] if claims else record
            self._refuse_if_alive(holder)
            if self._take_over(record, [record, *claims]):
                return
        raise JobStopped(f"other processes keep taking {self._storage.shown(layout.DRIVER)}; wait for them")

    def _take_over(self, record: dict[str, Any], dead: list[dict[str, Any]]) -> bool:
        """Replace the dead holder `dead[-1]`. False if another process was faster."""
        claim = _claim_path(dead[-1]["driver_id"])
        if not self._storage.create_bytes(self._record(), claim):
            return False
        try:
            began = now()
            current = read_driver(self._storage)
            if current is None or current["driver_id"] != record["driver_id"]:
                return False
            if _seconds_since(began) > self._stale_s / 2:
                return False  # was suspended: check again
            if not self._write(self._storage, began) or self._storage.exists(_claim_path(self.id)):
                raise JobStopped("another driver has just taken over this output")
            self._beaten = {other["driver_id"] for other in dead}
        finally:
            self._storage.delete(claim)
        for other in dead[:-1]:
            self._storage.delete(_claim_path(other["driver_id"]))
        return True

    def _refuse_if_alive(self, holder: dict[str, Any]) -> None:
        if _is_dead(holder, self._stale_s):
            return
        ahead_s = -_age(holder)
        if ahead_s > self._stale_s and not self._moves(holder):
            return
        task = f" ({holder['task']})" if holder.get("task") not in (None, "run") else ""
        last = f"last heartbeat {max(0.0, -ahead_s):.0f} s ago"
        if ahead_s > self._stale_s:
            last += f" by a clock that is {ahead_s:.0f} s ahead of this machine's"
        raise JobStopped(
            f"another driver is active on this output: process {_shown(holder.get('pid'))} on "
            f"{_shown(holder.get('host'))}{task}, {last}; wait for it, stop it, or use another output "
            f"(a dead driver is replaced {self._stale_s:.0f} s after its last heartbeat)"
        )

    def _moves(self, holder: dict[str, Any]) -> bool:
        """Whether a record whose time cannot be right is still being renewed."""
        _LOG.warning(
            "the driver's heartbeat in %s is in the future, so a clock is wrong; watching it for %.0f s",
            self._storage.shown(),
            2 * self._heartbeat_s,
        )
        end = time.monotonic() + 2 * self._heartbeat_s
        while time.monotonic() < end:
            time.sleep(min(1.0, self._heartbeat_s / 2))
            if read_driver(self._storage) != holder:
                return True
        return False

    # ---- holding

    def _beat(self) -> None:
        while not self.lost and not self._stop.wait(min(self._heartbeat_s, WATCH_S)):
            try:
                with self._lock:
                    if not self._stop.is_set():
                        self._look()
            except Exception as error:  # noqa: BLE001 - whatever the disk or store does, the next heartbeat tries again
                _LOG.debug("no heartbeat: %s", error)

    def _look(self) -> None:
        """Renew the record if that is due; otherwise check that it is still ours."""
        if _seconds_since(self._held_at) >= self._heartbeat_s:
            self._renew(self._hasty)
            return
        holder = read_driver(self._hasty)
        if holder is None or holder["driver_id"] in self._beaten:
            self._renew(self._hasty)
        elif holder["driver_id"] != self.id:
            self._lose(holder)

    def _renew(self, storage: Storage) -> None:
        expired = _seconds_since(self._held_at) >= self._stale_s
        began = now()
        holder = read_driver(storage)
        if holder is None and expired:
            self._lose(None)  # another process took and released the lease meanwhile
        elif holder is None:
            if storage.create_bytes(self._record(), layout.DRIVER):  # deleted by hand
                self._held_at = began
        elif holder["driver_id"] != self.id and holder["driver_id"] not in self._beaten:
            self._lose(holder)
        # A holder that we replaced may have renewed its record once more; it will notice that it was replaced.
        elif _seconds_since(began) < self._stale_s / 2 and not self._write(storage, began):
            self._lose(read_driver(storage))

    def _write(self, storage: Storage, began: tuple[float, float]) -> bool:
        """Write the record. False if another process holds the lease after all.

        Args:
            began: the time before the check that the lease is free or ours.
        """
        for _ in range(_TAKES):
            storage.replace_bytes(self._record(), layout.DRIVER)
            if _seconds_since(began) < self._stale_s / 2:
                self._held_at = began
                return True
            # Suspended since the check, so we may have overwritten a new holder's record: it writes again at once.
            self._stop.wait(2 * min(self._heartbeat_s, WATCH_S))
            began = now()
            holder = read_driver(storage)
            if holder is None or holder["driver_id"] != self.id:
                return False
        return False

    def _lose(self, holder: dict[str, Any] | None) -> None:
        who = f"process {_shown(holder.get('pid'))} on {_shown(holder.get('host'))}" if holder else "another process"
        _LOG.warning("%s: %s has taken over", self._storage.shown(), who)
        self.lost = True

    def _record(self) -> bytes:
        record = {
            "driver_id": self.id,
            "task": self._task,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process": _process_identity(os.getpid()),
            "namespace": _namespace(),
            "started_at": round(self._started, 3),
            "heartbeat_at": round(time.time(), 3),
        }
        return json.dumps(record, indent=2).encode() + b"\n"


def read_driver(storage: Storage) -> dict[str, Any] | None:
    """The record of the lease's holder; None if there is none. A damaged record counts as a dead holder."""
    return _parse(storage.read(layout.DRIVER))


def active_driver(storage: Storage, stale_s: float = STALE_S) -> dict[str, Any] | None:
    """The record of a driver that seems to be alive."""
    record = read_driver(storage)
    return None if record is None or _is_dead(record, stale_s) or _age(record) < -stale_s else record


def _parse(data: bytes | None) -> dict[str, Any] | None:
    if data is None:
        return None
    try:
        record = parse_json(data)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        record = {"heartbeat_at": 0.0}
    if not isinstance(record.get("driver_id"), str):
        record["driver_id"] = "damaged-" + hashlib.sha256(data).hexdigest()[:24]
    return record


def _claim_path(driver_id: str) -> str:
    return f"{layout.TEMPORARY}/lease~{hashlib.sha256(driver_id.encode('utf-8', 'replace')).hexdigest()[:32]}"


def _claims(storage: Storage, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Processes that are taking over from this one, each from the previous; they may have died."""
    claims: list[dict[str, Any]] = []
    while len(claims) < 100:
        claim = _parse(storage.read(_claim_path((claims[-1] if claims else record)["driver_id"])))
        if claim is None:
            break
        claims.append(claim)
    return claims


def _shown(value: Any) -> str:
    """A value from a record, made safe to print, because anybody may have written it."""
    text = str(value)[:100]
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _seconds_since(then: tuple[float, float]) -> float:
    """Seconds by the clock that has advanced further, because the other may have stood still."""
    return max(b - a for a, b in zip(then, now(), strict=True))


def _age(record: dict[str, Any]) -> float:
    """Seconds since the heartbeat; negative if it is in the future, infinite if it is not a time."""
    try:
        heartbeat_at = float(record["heartbeat_at"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return math.inf
    return time.time() - heartbeat_at if math.isfinite(heartbeat_at) else math.inf


def _is_dead(record: dict[str, Any], stale_s: float) -> bool:
    if record.get("namespace") and record.get("namespace") == _namespace():
        pid = record.get("pid")
        identity = _process_identity(pid) if isinstance(pid, int) else ""
        if not identity or identity != record.get("process"):
            return True
    return _age(record) > stale_s


def _namespace() -> str:
    """Identifies the kernel instance and process namespace: within it, process ids are unique. Empty if unknown."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_identity(pid: int) -> str:
    """The start time of a live process, which a later one with the same id does not share; empty if it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
