"""The destination of an export: a folder on any fsspec storage whose files are created once and never replaced.

Crash contract: `export.json` is created first and identifies the export. Each file appears completely or not at all. A
clip's sidecar under `sam3ray/` is created after all its other files: it marks the clip as exported, and a later call
continues with the clips that have none. Files of an interrupted clip would get the same content again, so existing ones
are kept. Files about the whole dataset are written last.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sam3ray.failures import UserError
from sam3ray.guard.jsontext import parse_json
from sam3ray.store import layout
from sam3ray.store.storage import Storage

IDENTITY, SIDECARS = layout.EXPORT, layout.SIDECARS


_WRITERS = 16  # files written at a time, because each takes a while, however small
_WAITING = 64  # files held in memory before a writer waits


class Folder:
    """Files below the destination, by relative paths with `/`.

    Threads write the files. `settle` and the end of the block wait for them.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._pool: ThreadPoolExecutor | None = None
        self._writes: deque[Future[bool]] = deque()

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.settle()
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def settle(self) -> None:
        """Waits until all files are written. Raises the first error."""
        while self._writes:
            self._writes.popleft().result()

    def bytes(self, path: str, data: bytes) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_WRITERS, "sam3ray-export")
        if len(self._writes) >= _WAITING:
            self._writes.popleft().result()
        self._writes.append(self._pool.submit(self._storage.create_bytes, data, path))

    def text(self, path: str, text: str) -> None:
        self.bytes(path, text.encode())

    def json(self, path: str, value: Any) -> None:
        self.text(path, json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n")

    def local_file(self, path: str, local: str) -> None:
        """Writes a copy of a local file."""
        self._storage.create(local, path)

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Claims the folder for this export.

        Raises:
            UserError: it holds another export, or other files.
        """
        data = self._storage.read(IDENTITY)
        if data is None:
            if next(iter(self._storage.walk()), None) is not None:
                raise UserError(
                    f"{self._storage.shown()} is not empty and holds no export: choose an empty folder for --to"
                )
            self._storage.create_bytes(json.dumps(identity, ensure_ascii=False).encode() + b"\n", IDENTITY)
            data = self._storage.read(IDENTITY) or b""
        try:
            found = parse_json(data)
        except ValueError as error:
            place = self._storage.shown(IDENTITY)
            raise UserError(f"{place} is not JSON: {error}; choose another folder for --to") from None
        ours = json.loads(json.dumps(identity))
        if found != ours:
            named = ", ".join(_differences(found, ours)) if isinstance(found, dict) else "no mapping"
            place = self._storage.shown()
            raise UserError(f"{place} holds another export ({named or 'other keys'}): choose another folder for --to")

    def exported(self) -> set[str]:
        """Clips that have a sidecar, by one listing."""
        return {name.removesuffix(".json") for name in self._storage.names(SIDECARS) if name.endswith(".json")}

    def sidecar(self, clip_id: str) -> dict[str, Any]:
        data = self._storage.read(f"{SIDECARS}/{clip_id}.json")
        if data is None:
            raise UserError(f"{self._storage.shown(f'{SIDECARS}/{clip_id}.json')} is gone")
        try:
            value = parse_json(data)
        except ValueError as error:
            place = self._storage.shown(f"{SIDECARS}/{clip_id}.json")
            raise UserError(f"{place} is not JSON: {error}; delete it, and export again") from None
        if not isinstance(value, dict):
            place = self._storage.shown(f"{SIDECARS}/{clip_id}.json")
            raise UserError(f"{place} is not a JSON object; delete it, and export again")
        return value


def _differences(found: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """The differences between two exports' options, one by one."""
    named: list[str] = []
    for key, value in ours.items():
        there = found.get(key)
        if isinstance(value, dict) and isinstance(there, dict) and key == "choice":
            named += _differences(there, value)
        elif there != value:
            named.append(f"{key} {there!r} there, {value!r} here")
    return named
