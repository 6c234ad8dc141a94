"""Keeps track of how far a session has come, and of what changes on which frame."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Clock:
    """How far a pass has come. Frames count from 0 within the pass.

    Attributes:
        given, worked: number of frames given, and of those processed.
        first: position of the pass's first frame; the others come after it, or before it in a reverse pass.
        last_index, worked_index: source index of the last frame given, and of the last one processed; None before.
        phrases_from: the frame on which phrases were first looked for; None before.
        follows: whether a frame with visual prompts has been given, so that all later frames are looked at.
        removals: (frame, id or phrase): what is dropped before that frame is processed.
    """

    given: int = 0
    worked: int = 0
    worked_index: int | None = None
    first: int = 0
    last_index: int | None = None
    phrases_from: int | None = None
    follows: bool = False
    removals: list[tuple[int, int | str]] = field(default_factory=list)
