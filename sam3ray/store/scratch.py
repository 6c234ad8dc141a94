"""Local files without names: the system forgets them with their process, however that ends."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def unnamed_file(data: bytes = b"") -> Iterator[str]:
    """A path that opens the file, in this process alone and until the block ends."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        # Opened through this link it starts at 0 each time, and may be truncated, like any file.
        yield f"/proc/self/fd/{file.fileno()}"
