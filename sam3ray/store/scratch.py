"""Local files without names: the system removes them when their process ends, in whatever way."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import IO

_IN_MEMORY = 1 << 20  # bytes: records, manifests and leases do not depend on a disk that may be full


@contextlib.contextmanager
def unnamed_file(data: bytes = b"") -> Iterator[str]:
    """A path that opens the file, in this process alone and until the block ends."""
    with _file(len(data)) as file:
        file.write(data)
        file.flush()
        # Opened through this link it starts at 0 each time, and may be truncated, like any file.
        yield f"/proc/self/fd/{file.fileno()}"


def _file(size: int) -> IO[bytes]:
    if 0 < size <= _IN_MEMORY and hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("sam3ray"), "w+b")
    return tempfile.TemporaryFile()
