"""Counts what phrases found in a clip."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Tally:
    """Counts over a clip.

    Attributes:
        objects: number of ids given.
        removed: how many of these hotstart removed.
        dropped: the most detections on one frame that the cap kept from becoming objects. A cap higher by this number
            would have admitted all.
        forgotten: objects whose state was dropped after `forget_after_frames`, or to make room under the cap.
    """

    frames: int = 0
    objects: int = 0
    removed: int = 0
    dropped: int = 0
    forgotten: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})
