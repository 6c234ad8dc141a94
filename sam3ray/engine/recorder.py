"""The interface for saving and resuming a walk through a clip.

A walk hands over each frame as soon as it is final within its pass. It also says when everything final has been handed
over and the session can be saved. With the saved frames and the saved session, another walk, in another process, can
continue from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sam3ray.engine.header import StateError
from sam3ray.values.annotations import FrameAnnotations

if TYPE_CHECKING:
    from sam3ray.engine.state import Snapshot  # it imports torch


@dataclass(frozen=True)
class Kept:
    """A point from which a clip can be resumed.

    Attributes:
        state: the file of a session.
        frames: by number of the pass, the frames that it had handed over when the session was saved, in the same order.
    """

    state: Path
    frames: Callable[[int], Iterator[FrameAnnotations]]


class Recorder(Protocol):
    """Saves the progress of a walk."""

    def kept(self) -> Iterator[Kept]:
        """Points to resume from, the best first. If one cannot be used, the next one is tried."""
        ...

    def refused(self, error: StateError) -> None:
        """Called if the state of the last point given cannot be used."""
        ...

    def took_up(self) -> None:
        """Called when the walk resumes from the last point given."""
        ...

    def add(self, pass_number: int, frame: FrameAnnotations) -> None:
        """The next frame of a pass. In a reverse pass, indices decrease."""
        ...

    def at_rest(self, pass_number: int, snapshot: Callable[[], Snapshot]) -> None:
        """Called when the session can be saved: `snapshot` copies its state, for any thread to write. An exception ends
        the walk.
        """
        ...
