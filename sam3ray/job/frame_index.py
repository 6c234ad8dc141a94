"""The index of a remote video's frames, kept on the store for later attempts at a clip."""

from __future__ import annotations

from sam3ray.store import RunStore
from sam3ray.store.kept_index import KeptIndex
from sam3ray.video import FrameIndex


class ClipIndex:
    """A `sam3ray.video.IndexKeeper` on the run's store.

    Args:
        until_s: time in the video up to which frames will be read; None: the end.
        most_frames: largest number of frames in an index.
    """

    def __init__(self, store: RunStore, clip_id: str, until_s: float | None, most_frames: int) -> None:
        self.until_s = until_s
        self._kept = KeptIndex(store.storage, clip_id)
        self._most_frames = most_frames

    def find(self, sighting: str) -> tuple[FrameIndex | None, bool]:
        """See there."""
        kept = self._kept.read(sighting)
        if not kept:
            return None, kept == ""
        try:
            return FrameIndex.loads(kept, self._most_frames), False
        except ValueError as error:
            self._kept.refuse(str(error))
            return None, False

    def keep(self, sighting: str, index: FrameIndex | None) -> None:
        """See there."""
        self._kept.keep(sighting, "" if index is None else index.dumps())
