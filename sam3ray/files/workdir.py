"""A local folder for the files of one process.

It is removed when the process ends normally. A process that is killed cannot clean up: the next process that makes or
closes such a folder does it. Each folder therefore contains a file that its owner keeps locked until it ends. Folders
whose lock is free are removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
from pathlib import Path
from types import TracebackType

_PREFIX = "sam3ray-work-"
_LOCK = "lock"


class WorkDir:
    """`path` exists until `close`, or until the end of a `with` block."""

    def __init__(self, parent: str | os.PathLike[str] | None = None) -> None:
        self._root = root = Path(parent) if parent is not None else Path(tempfile.gettempdir())
        root.mkdir(parents=True, exist_ok=True)
        sweep(root)
        self._pid = os.getpid()
        self._lock: int | None = None
        self._closing = threading.Lock()
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
        """Removes the folder, unless this process was forked from the one that it belongs to."""
        if os.getpid() != self._pid:
            return
        with self._closing:  # by several threads, at a process's end
            lock, self._lock = self._lock, None
        if lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(lock)
            sweep(self._root)


def sweep(root: Path) -> None:
    """Removes folders left by dead processes of this user."""
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
    """An open descriptor that holds the lock; None if another process holds it or has just removed the file.

    Raises:
        FileNotFoundError: the file does not exist, or with `create`, its folder does not.
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
