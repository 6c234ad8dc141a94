"""Keeps results of frames until they can be released in display order."""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager

from pydantic import TypeAdapter

from sam3ray.values.annotations import FrameAnnotations

_IN_MEMORY = 8 * 2**20
_FRAMES = TypeAdapter(FrameAnnotations)


class Spool(AbstractContextManager["Spool"]):
    """Frames by position. More than a few MB are kept in a temporary file until the spool is closed.

    The file has no name, so if the process dies, the operating system removes it.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        self._places: dict[int, tuple[int, int]] = {}

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def put(self, position: int, frame: FrameAnnotations) -> None:
        data = _FRAMES.dump_json(frame)
        self._file.seek(0, 2)
        self._places[position] = (self._file.tell(), len(data))
        self._file.write(data)

    def get(self, position: int) -> FrameAnnotations | None:
        place = self._places.get(position)
        if place is None:
            return None
        self._file.seek(place[0])
        return _FRAMES.validate_json(self._file.read(place[1]))
