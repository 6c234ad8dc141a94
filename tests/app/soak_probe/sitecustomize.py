"""Python imports this at the start of each process under `make soak`, which sets SOAK_PROBE to a folder.

SIGUSR1 asks a process for its memory. It answers after its next housekeeping, between two frames: what is in use
while a frame is computed would hide what stays.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_MB = 2**20


class _Heap(ctypes.Structure):
    """glibc's mallinfo2."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(each, ctypes.c_size_t) for each in _names]


def _python_mb(libc: Any) -> float:
    """What Python's own allocator has given to objects. The interpreter tells it on stderr alone."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        usual = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            sys._debugmallocstats()
            libc.fflush(None)
        finally:
            os.dup2(usual, 2)
            os.close(usual)
        file.seek(0)
        (told,) = re.findall(rb"# bytes in allocated blocks *= *([0-9,]+)", file.read())
    return int(told.replace(b",", b"")) / _MB


def _resident_mb() -> float:
    """Memory that this process has written to. Pages of libraries, hundreds of MB, would count as its own or not,
    according to what else runs on the machine.
    """
    (kb,) = re.findall(r"^Private_Dirty: *(\d+) kB", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return int(kb) / 1024


def _arrow_mb() -> float:
    arrow = sys.modules.get("pyarrow")
    return 0.0 if arrow is None else arrow.total_allocated_bytes() / _MB


class _Probe:
    def __init__(self, folder: str, leak_mb_per_hour: float) -> None:
        self._to = Path(folder, str(os.getpid()))
        self._libc = ctypes.CDLL(None)
        self._libc.mallinfo2.restype = _Heap
        self._libc.malloc.restype = ctypes.c_void_p
        self._leak_mb_per_hour = leak_mb_per_hour
        self._began, self._leaked = time.monotonic(), 0
        self._is_asked = self._is_hooked = False

    def ask(self, *_: Any) -> None:
        self._is_asked = True
        host_memory = sys.modules.get("sam3ray.engine.host_memory")
        if host_memory is None or self._is_hooked:
            return
        self._is_hooked = True
        usual = host_memory.Housekeeping.tick

        def tick(housekeeping: Any) -> None:
            usual(housekeeping)
            if self._is_asked:
                self._is_asked = False
                self._answer()

        host_memory.Housekeeping.tick = tick

    def _answer(self) -> None:
        due = self._leak_mb_per_hour * _MB * (time.monotonic() - self._began) / 3600
        while self._leaked < due:
            ctypes.memset(self._libc.malloc(1000), 1, 1000)
            self._leaked += 1000
        self._libc.malloc_trim(0)
        heap = self._libc.mallinfo2()
        answer = {
            "resident": _resident_mb(),
            "heap": (heap.uordblks + heap.hblkhd) / _MB,
            "python": _python_mb(self._libc),
            "arrow": _arrow_mb(),
        }
        beside = self._to.with_suffix(".part")
        beside.write_text(json.dumps(answer))
        beside.rename(self._to)


if "SOAK_PROBE" in os.environ and not any("fence" in each for each in sys.orig_argv):
    probe = _Probe(os.environ["SOAK_PROBE"], float(os.environ.get("SOAK_LEAK_MB_PER_HOUR", 0)))
    signal.signal(signal.SIGUSR1, probe.ask)
    signal.siginterrupt(signal.SIGUSR1, False)  # no library's reading or writing fails for it
