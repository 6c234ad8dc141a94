"""The index of a video's frames, kept in `windows/<clip_id>/frames.json` so that the video is read for it only once.

Only videos without their own table of frames need one. It is removed with the clip's windows. If it is missing or
damaged, the whole video is read again. The reader checks the index frame by frame.
"""

from __future__ import annotations

import logging
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from sam3ray.faults.damage import damage
from sam3ray.files.sighting import change
from sam3ray.store import layout
from sam3ray.store.storage import Storage

FORMAT = 1
MOST_BYTES = 2**26
_LOG = logging.getLogger(__name__)


@checked(config=ConfigDict(strict=True, extra="forbid"))
class FramesNote:
    """Attributes:
    source: the video's sighting (`sam3ray.files.sighting`).
    frames: text of `sam3ray.video.FrameIndex.dumps`; empty: frames are only found by decoding from the beginning.
    """

    source: str
    frames: str
    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)] = FORMAT


_NOTE = TypeAdapter(FramesNote)


class KeptIndex:
    """The kept index of one clip's video."""

    def __init__(self, storage: Storage, clip_id: str) -> None:
        self._storage = storage
        self._clip_id = clip_id
        self._path = f"{layout.window_folder(clip_id)}/{layout.FRAMES}"

    def read(self, source: str) -> str | None:
        """The index of the video with this sighting; None if there is none."""
        data = self._storage.read(self._path)
        if data is None:
            return None
        try:
            if len(data) > MOST_BYTES:
                raise ValueError(f"it has {len(data)} bytes; allowed: {MOST_BYTES}")
            note = _NOTE.validate_json(data)
        except ValidationError as error:
            self.refuse(damage(error))
        except ValueError as error:
            self.refuse(str(error))
        else:
            if not (how := change(note.source, source)):
                return note.frames
            self.refuse(f"the video has changed since ({how})")
        return None

    def refuse(self, why: str) -> None:
        _LOG.warning("clip %s: %s is not used: %s", self._clip_id, layout.FRAMES, why)

    def keep(self, source: str, frames: str) -> None:
        """Replace the existing index, which was not usable or not long enough."""
        data = _NOTE.dump_json(FramesNote(source, frames)) + b"\n"
        if len(data) <= MOST_BYTES and not self._storage.create_bytes(data, self._path):
            self._storage.delete(self._path)
            self._storage.create_bytes(data, self._path)
