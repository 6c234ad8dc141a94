"""A local folder for the files of one process: gone when it ends well, else when the next one starts or ends.

A process that is killed cannot clean up. So each folder holds a file that its owner keeps locked
until the process ends; whoever makes a folder removes unlocked ones beside it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

_PREFIX = "sam3ray-work-"
_LOCK = "lock"


class WorkDir:
    """`path` exists until `close`. Safe to use as a context manager."""

    def __init__(self, parent: str | os.PathLike[str] | None = None) -> None:
        self._root = root = Path(parent) if parent is not None else Path(tempfile.gettempdir())
        root.mkdir(parents=True, exist_ok=True)
        sweep(root)
        self._lock: int | None = None
        while self._lock is None:  # another process may sweep the folder away before it is locked
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
            self._lock = _locked(self.path / _LOCK, create=True)

    def __enter__(self) -> WorkDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None
            sweep(self._root)


def sweep(root: Path) -> None:
    """Removes the folders that dead processes of this user left behind."""
    for folder in root.glob(_PREFIX + "*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            lock = _locked(folder / _LOCK, create=False)
        except FileNotFoundError:
            continue  # just made and not locked yet, or just removed by its owner
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _locked(path: Path, *, create: bool) -> int | None:
    """An open descriptor that holds the lock, or None where another process does or has removed the file meanwhile.

    Raises:
        FileNotFoundError: the file, or with `create` its folder, is not there.
    """
    descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0) | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        if os.fstat(descriptor).st_nlink:
            return descriptor
    os.close(descriptor)
    return None
