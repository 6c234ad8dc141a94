"""Anchors: key frames passed while a clip is read, from which it can be continued without an index of the file."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import asdict, field
from typing import Any

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as checked

from sam3ray.video._decode import CodedFrame
from sam3ray.video._frame_index import KeyFrame, SeekPoint

_MOST_FRAMES = 1000  # frames of a group that are compared
_HELD = 32  # largest number of frames that a reader holds


@checked(config=ConfigDict(strict=True, extra="forbid"))
class Anchor:
    """A key frame, and the frames from it to the next one.

    Attributes:
        position: position in the clip of the first of the clip's frames at or after the key frame.
        index: index of the key frame in the source.
        start: the pts that counts as 0 s.
        pts_of_key, seek_to, byte, piece: see `KeyFrame`.
        pts: pts of these frames, in display order.
        taken: source indices of those that belong to the clip.
    """

    position: int
    index: int
    start: int
    pts_of_key: int
    seek_to: int
    byte: int | None
    pts: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    piece: int | None = None

    @classmethod
    def of(cls, facts: Any) -> Anchor | None:
        """The anchor from its `facts`; None if they do not describe one."""
        try:
            anchor = cls(**facts)
        except (TypeError, ValidationError):
            return None
        last = anchor.index + len(anchor.pts)
        return anchor if anchor.taken and all(anchor.index <= index < last for index in anchor.taken) else None

    def facts(self) -> dict[str, Any]:
        return asdict(self)

    def point(self, position: int) -> SeekPoint:
        """Where to start reading for that frame of the clip or a later one."""
        last = self.taken[min(position - self.position, len(self.taken) - 1)]
        ranks = {pts: rank for rank, pts in enumerate(self.pts, self.index) if rank <= last}
        key_frame = KeyFrame(self.pts_of_key, self.seek_to, self.byte, self.piece)
        return SeekPoint(key_frame, ranks, self.index, last, self.start)


class AnchorLog:
    """Records decoded frames in one thread; another thread reads the last key frame that has certainly been passed.

    Args:
        ahead: largest number of frames decoded but not yet consumed.
        taken: number of the clip's frames before the first one decoded here.
    """

    def __init__(self, ahead: int, taken: int = 0) -> None:
        self._margin = ahead + _HELD
        self._taken = taken
        self._groups: deque[Anchor] = deque()
        self._is_over = False
        self._lock = threading.Lock()

    def note(self, coded: CodedFrame, *, is_taken: bool) -> None:
        with self._lock:
            # A clock that must be rebuilt is not fully known from the middle of the file.
            if self._is_over or coded.is_rebuilt:
                self._is_over = True
                self._groups.clear()
                return
            if (key := coded.key_frame) is not None:
                start = coded.pts - coded.ticks
                anchor = Anchor(self._taken, coded.index, start, key.pts, key.seek_to, key.byte, piece=key.piece)
                self._groups.append(anchor)
                while len(self._groups) > 1 and self._groups[1].position <= self._taken - self._margin:
                    self._groups.popleft()
            if self._groups and len(self._groups[-1].pts) < _MOST_FRAMES:
                self._groups[-1].pts.append(coded.pts)
                if is_taken:
                    self._groups[-1].taken.append(coded.index)
            self._taken += is_taken

    def latest(self) -> dict[str, Any] | None:
        """The anchor's facts; None if there is no anchor."""
        with self._lock:
            passed = [each for each in self._groups if each.taken and each.position <= self._taken - self._margin]
            return passed[-1].facts() if passed else None
