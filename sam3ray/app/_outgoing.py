"""Files that pages download: made first, so that what goes wrong is a sentence on the page, then sent by the browser.

Each has a folder of its own, which is deleted once the file has been sent, and otherwise after a while: when the page
was closed meanwhile, the browser asks for parts of the file, or the connection breaks.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.background import BackgroundTask
from starlette.responses import FileResponse

from sam3ray.app._library import NotHere
from sam3ray.failures import UserError
from sam3ray.faults.machine import disk_fault

_KEPT_S = 600.0


class Outgoing:
    """The files of one server.

    Args:
        folder: for their folders.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, tuple[Path, Path, str]] = {}  # key -> its folder, the file, its name for the browser

    @contextmanager
    def room(self) -> Iterator[Path]:
        """A folder to make a file in. It is deleted if that fails.

        Raises:
            UserError: the disk has no room.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        try:
            yield folder
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if (fault := disk_fault(error)) is not None:
                raise UserError(f"the file cannot be made: {fault.message}") from error
            raise

    def put(self, folder: Path, path: Path, name: str) -> str:
        """A key for the file, which can be sent under a name from now on."""
        key = secrets.token_urlsafe(16)
        self._files[key] = folder, path, name
        timer = threading.Timer(_KEPT_S, self._delete, [key])
        timer.daemon = True
        timer.start()
        return key

    def send(self, key: str, *, in_parts: bool) -> FileResponse:
        """Sends the file, or a part that the browser asks for. A file that is being sent may be deleted: it is open.

        Raises:
            NotHere: there is no such file, or no longer.
        """
        if key not in self._files:
            raise NotHere("this file is no longer here: download it again")
        _, path, name = self._files[key]
        return FileResponse(path, filename=name, background=None if in_parts else BackgroundTask(self._delete, key))

    def _delete(self, key: str) -> None:
        folder, *_ = self._files.pop(key, (None,))
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
