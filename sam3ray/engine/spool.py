"""Frames' results set aside until they can leave in display order."""

from __future__ import annotations

import json
import tempfile
from types import TracebackType
from typing import Any

from sam3ray.engine.outputs import FrameMasks
from sam3ray.masks import EncodedMask
from sam3ray.video import FrameStamp

_IN_MEMORY = 8 * 2**20


class Spool:
    """Results by position, beyond a few MB in a temporary file, which goes when the spool is closed.

    If the process dies, the operating system removes the file: it has no name.
    """

    def __init__(self, height: int, width: int) -> None:
        self._size = height, width
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        self._places: dict[int, tuple[int, int]] = {}

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def put(self, position: int, masks: FrameMasks) -> None:
        data = json.dumps(as_json(masks)).encode()
        self._file.seek(0, 2)
        self._places[position] = (self._file.tell(), len(data))
        self._file.write(data)

    def get(self, position: int) -> FrameMasks | None:
        place = self._places.get(position)
        if place is None:
            return None
        self._file.seek(place[0])
        return from_json(json.loads(self._file.read(place[1])), *self._size)


def as_json(masks: FrameMasks) -> list[Any]:
    """A frame's result in JSON's types. Floats keep every bit."""
    stamp = masks.stamp
    rows = zip(masks.object_ids, masks.prompts, masks.scores, masks.track_scores, masks.masks, strict=True)
    return [stamp.index, stamp.pts, stamp.time_s, [[*row[:4], row[4].rle, row[4].area, row[4].bbox] for row in rows]]


def from_json(value: list[Any], height: int, width: int) -> FrameMasks:
    index, pts, time_s, rows = value
    return FrameMasks(
        stamp=FrameStamp(index, pts, time_s),
        height=height,
        width=width,
        object_ids=tuple(row[0] for row in rows),
        prompts=tuple(row[1] for row in rows),
        scores=tuple(row[2] for row in rows),
        track_scores=tuple(row[3] for row in rows),
        masks=tuple(EncodedMask(rle=row[4], area=row[5], bbox=tuple(row[6])) for row in rows),
    )
