"""Videos from a browser: streamed to disk under limits, under a name that the server assigns."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from sam3ray.app._library import Entry, Library
from sam3ray.failures import UserError
from sam3ray.faults.machine import disk_fault
from sam3ray.guard.printable import printable
from sam3ray.values.clip import Clip
from sam3ray.values.clip_ids import derive_clip_id
from sam3ray.video import VideoReader

_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,5}")
_SPARE_BYTES = 512 * 2**20  # left free on the disk


class Uploads:
    """All uploads of one server.

    Args:
        max_bytes: of one video; `max_total` of all.
    """

    def __init__(self, library: Library, folder: Path, max_bytes: int, max_total: int) -> None:
        self._library, self._folder = library, folder
        self._max_bytes, self._max_total = max_bytes, max_total
        self._total = 0

    async def receive(self, name: str, stream: AsyncIterator[bytes]) -> Entry:
        """Raises UserError (too large, no room) or ClipError (not a video), and then leaves no file behind."""
        suffix = Path(name).suffix
        path = self._folder / f"{secrets.token_hex(8)}{suffix if _SUFFIX.fullmatch(suffix) else ''}"
        size = 0
        try:
            with open(path, "xb") as file:
                async for chunk in stream:
                    size += len(chunk)
                    self._total += len(chunk)
                    self._check(size)
                    file.write(chunk)
            await run_in_threadpool(self._check_video, path)
        except BaseException as error:
            path.unlink(missing_ok=True)
            self._total -= size
            if isinstance(error, OSError) and (fault := disk_fault(error)) is not None:
                raise UserError(f"the video cannot be kept: {fault.message}") from error
            raise
        shown = printable(name.replace("\\", "/").rpartition("/")[2])[:200] or "video"
        clip = Clip(derive_clip_id(f"{shown}-{path.stem}", None, None), str(path))
        (entry,) = self._library.add([clip], names=[shown])
        return entry

    def _check_video(self, path: Path) -> None:
        VideoReader(path, limits=self._library.limits).close()

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise UserError(f"the video has more than {self._max_bytes} bytes, which is the limit for one upload")
        if self._total > self._max_total:
            raise UserError(f"uploads would take more than {self._max_total} bytes together: start the page again")
        if shutil.disk_usage(self._folder).free < _SPARE_BYTES:
            raise UserError(f"the disk that uploads go to has less than {_SPARE_BYTES} bytes left")
