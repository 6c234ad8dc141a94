"""How long a window continues after its last row for the objects that it ends without, and where it finds them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.cutting import MOST_FOLLOWED, Cut

SEEN = 8  # frames after the window's rows beyond which an object is no longer followed


class _Tracked(Protocol):
    object_id: int
    empty_frames: int


class Following:
    """Follows the objects of one window.

    Each object is awaited until it has been seen on `SEEN` frames from `cut.until` on, but for at most `MOST_FOLLOWED`
    frames after it was last seen and after `cut.end`.

    Attributes:
        until: the position up to which objects were followed; `cut.until` or more.
        found: object -> positions from `cut.until` to `until` on which it was seen, with its masks as run lengths.
            Includes objects that are new there.
    """

    def __init__(self, cut: Cut) -> None:
        self._cut = cut
        self._worked = cut.start
        self._awaited: dict[int, int] | None = None  # object -> number of frames on which it must still be seen
        self.until = cut.until
        self.found: dict[int, dict[int, str]] = {}

    @property
    def needs_more(self) -> bool:
        """Whether the window needs another frame."""
        return self._worked < self._cut.end or self._awaited is None or bool(self._awaited)

    def after(self, position: int, objects: Iterable[_Tracked]) -> None:
        """Notes a processed frame.

        Args:
            objects: all tracked objects.
        """
        self._worked = position + 1
        if self._worked < self._cut.until or self._awaited == {}:
            return
        away = {each.object_id: each.empty_frames for each in objects}
        if self._awaited is None:
            self._awaited = dict.fromkeys(away, SEEN)
        else:
            self._awaited = {key: left - (away.get(key) == 0) for key, left in self._awaited.items()}
        self._awaited = {
            key: left for key, left in self._awaited.items() if left and away.get(key, MOST_FOLLOWED) < MOST_FOLLOWED
        }
        self.until = self._worked
        if self.until >= self._cut.end + MOST_FOLLOWED:
            self._awaited = {}

    def take(self, position: int, row: FrameAnnotations) -> None:
        """Notes the result of a frame after the window's rows."""
        if position < self.until:
            for each in row.objects:
                self.found.setdefault(each.object_id, {})[position] = each.rle
