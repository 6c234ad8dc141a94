"""An object found by a phrase."""

from __future__ import annotations

from dataclasses import dataclass, field

from sam3ray.engine.memory import ObjectMemory


@dataclass(eq=False)
class DetectedObject:
    """One tracked object."""

    object_id: int
    prompt: int
    score: float
    born: int
    memory: ObjectMemory = field(default_factory=ObjectMemory)
    last_occluded: int | None = None  # None: not tracked on any frame yet
    empty_frames: int = 0  # without a mask, up to now
    pointed_at: list[int] = field(default_factory=list)  # frames on which somebody pointed at it
