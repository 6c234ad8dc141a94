"""How a clip that is gone through once can be left and taken up again: what a walk tells, and what it asks for.

A walk hands over each frame as soon as it is final within its pass, and says when it is at rest: everything that was
final has been handed over, and the session can be saved. Whoever keeps both can have another walk, in another process,
begin with the frames kept and go on where the session was saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sam3ray.engine.state import StateError
from sam3ray.values.annotations import FrameAnnotations

Save = Callable[[Path, str], None]
"""Saves the session to a file, with a note that its digest covers."""


@dataclass(frozen=True)
class Kept:
    """Where a clip can be taken up again.

    Attributes:
        state: a session's file.
        frames: those that a pass, by number, had handed over when the session was saved, in the same order.
    """

    state: Path
    frames: Callable[[int], Iterator[FrameAnnotations]]


class Recorder(Protocol):
    """Keeps what a walk has come to."""

    def kept(self) -> Iterator[Kept]:
        """Places to go on from, the best first. The next one is asked for if this one cannot be used."""
        ...

    def refused(self, error: StateError) -> None:
        """The state of the place given last cannot be used."""
        ...

    def took_up(self) -> None:
        """The place given last is the one that is gone on from."""
        ...

    def add(self, pass_number: int, frame: FrameAnnotations) -> None:
        """The next frame of a pass. In a reverse pass indices fall."""
        ...

    def at_rest(self, pass_number: int, save: Save) -> None:
        """Now is a moment to save. What this raises ends the walk."""
        ...
