"""Counts what phrases found in a clip."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Tally:
    """Counts over a clip.

    Attributes:
        objects: ids given out.
        removed: of these, taken back by hotstart.
        dropped: the most detections on one frame that would have been objects but for the cap: a cap higher by so
            many would have let all in.
        forgotten: objects whose state was dropped after `forget_after_frames`, or to make room under the cap.
    """

    frames: int = 0
    objects: int = 0
    removed: int = 0
    dropped: int = 0
    forgotten: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})
