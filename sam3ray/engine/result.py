"""A frame as it leaves a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sam3ray.display.html import facts
from sam3ray.engine.outputs import FrameMasks
from sam3ray.values.annotations import FrameAnnotations


@dataclass(frozen=True, eq=False)
class SessionResult:
    """One frame.

    Attributes:
        masks: its objects.
        tentative: of these, the ids that a later frame may still retract (under `live`).
        retracted: ids shown on earlier frames that this one takes back: nothing is there, and on those frames nothing
            was.
    """

    masks: FrameMasks
    tentative: frozenset[int] = frozenset()
    retracted: frozenset[int] = frozenset()

    @property
    def frame_index(self) -> int:
        """In the source video."""
        return self.masks.stamp.index

    @property
    def time_s(self) -> float:
        return self.masks.stamp.time_s

    @property
    def shown(self) -> tuple[int, ...]:
        """Ids of the objects of this frame, ascending."""
        return self.masks.object_ids

    @property
    def annotations(self) -> FrameAnnotations:
        """The frame as rows, for a session whose masks are run lengths.

        Raises:
            ValueError: they are arrays or tensors.
        """
        if self.masks.pixels is not None:
            raise ValueError('rows hold run lengths; allowed: a session with masks="rle"')
        return self.masks.annotations()

    def _repr_html_(self) -> str:
        """For notebooks: the masks and the objects, and which of them may be retracted."""
        said = {
            "tentative": ", ".join(map(str, sorted(self.tentative))),
            "retracted": ", ".join(map(str, sorted(self.retracted))),
        }
        shown = facts(
            f"frame {self.frame_index}, {self.time_s:.3f} s", {"shown": ", ".join(map(str, self.shown)), **said}
        )
        return shown if self.masks.pixels is not None else self.masks.annotations()._repr_html_() + shown

    @property
    def pixels(self) -> Any:
        """(n, height, width) bool, in the order of `shown`: an array, or a tensor on the model's device.

        Raises:
            ValueError: the session's masks are run lengths.
        """
        if self.masks.pixels is None:
            raise ValueError('this session makes run lengths; allowed: masks="array" or masks="tensor"')
        return self.masks.pixels
