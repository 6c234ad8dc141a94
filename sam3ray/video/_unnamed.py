"""A local file that has no name until it is complete."""

from __future__ import annotations

import contextlib
import os
import uuid

_FLAG = getattr(os, "O_TMPFILE", None)


class UnnamedFile:
    """A file that is written at `writable` and gets its name from `publish`, replacing an existing file.

    Crash contract: a process that dies before `publish` leaves nothing, and an older file of that name unchanged.
    Without unnamed files (systems other than Linux, some network mounts), it leaves a hidden `.NAME.*.part` beside it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.path.abspath(path)
        self._folder, self._name = os.path.split(self._path)
        self._handle: int | None = None
        if _FLAG is not None and os.path.isdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                self._handle = os.open(self._folder, _FLAG | os.O_RDWR, 0o666)
        self._part = os.path.join(self._folder, f".{self._name[:150]}.{uuid.uuid4().hex[:8]}.part")
        self.writable = self._part if self._handle is None else f"/proc/self/fd/{self._handle}"

    def publish(self) -> None:
        """Give the file its name. Call it when the file is complete; otherwise call `discard`."""
        if self._handle is not None:
            where = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                # With a directory given, Python calls linkat(2) with AT_SYMLINK_FOLLOW, which resolves the /proc link.
                os.link(self.writable, self._part, src_dir_fd=where)
            finally:
                os.close(where)
        os.replace(self._part, self._path)
        self._close()

    def discard(self) -> None:
        """Delete the file. Safe to call again, and after `publish`."""
        self._close()
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._part)

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
