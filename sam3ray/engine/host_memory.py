"""What the C library does with host memory that has been freed."""

from __future__ import annotations

import ctypes
import sys
import time

_KEPT_BYTES = 512 * 2**20
_MOST_BEFORE = 32 * 2**20  # that older versions take
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def reuse_freed() -> None:
    """Lets this process keep freed memory for what it allocates next, up to half a GiB at the end of its heap.

    torch has no cache of its own on a CPU. By default glibc gives large buffers back to the system when they are freed,
    and gets them again page by page: 2,300 page faults a frame at one object, 7,400 at 16, which took 7% of the time.
    Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    if not mallopt(_MMAP_THRESHOLD, _KEPT_BYTES):
        mallopt(_MMAP_THRESHOLD, _MOST_BEFORE)
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back_freed() -> None:
    """Returns all freed memory of this process to the system, whatever lies between it and the end of the heap.

    Otherwise whatever is allocated meanwhile and stays, however small, keeps the freed memory below it from being
    returned, and a process that runs for days holds more and more of it. Other C libraries are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return
    trim(0)


class Housekeeping:
    """Gives freed memory back now and then, in a process that never rests.

    Args:
        every_s: seconds between two times. The memory is taken again page by page, which costs the work after it some
            milliseconds.
    """

    def __init__(self, every_s: float = 30.0) -> None:
        self._every_s = every_s
        self._due = time.monotonic() + every_s

    def tick(self) -> None:
        """Call it often: it does something if it is time."""
        now = time.monotonic()
        if now >= self._due:
            give_back_freed()
            self._due = time.monotonic() + self._every_s
