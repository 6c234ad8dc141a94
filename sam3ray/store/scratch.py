"""Local files without names, which the system removes when their process ends for any reason."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import IO

_IN_MEMORY = 1 << 20  # bytes in memory, so that records, manifests and leases can be written when the disk is full


@contextlib.contextmanager
def unnamed_file(data: bytes = b"") -> Iterator[str]:
    """A path that opens the unnamed file, valid in this process until the block ends."""
    with _file(len(data)) as file:
        file.write(data)
        file.flush()
        # Opened through this link, the file is read from position 0 each time and can be truncated, like any file.
        yield f"/proc/self/fd/{file.fileno()}"


def _file(size: int) -> IO[bytes]:
    if 0 < size <= _IN_MEMORY and hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("sam3ray"), "w+b")
    return tempfile.TemporaryFile()
