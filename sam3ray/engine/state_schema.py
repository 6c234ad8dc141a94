"""What a session's state says beside its tensors, and of which types: strict, since the file may come from anywhere."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass as checked

from sam3ray.values.prompts import BoxPrompt, ExemplarPrompt, MaskPrompt, PointPrompt

STRICT = ConfigDict(strict=True, extra="forbid")
Whole = Annotated[int, Field(ge=-(2**63), le=2**63)]
Count = Annotated[int, Field(ge=0, le=2**53)]


@checked(config=STRICT)
class MemoryState:
    conditioning: list[tuple[Whole, Whole, Whole, bool | None]]  # frame, rows of pointer and memory, passed
    tracked: list[tuple[Whole, Whole, Whole, bool | None]]
    borrowed: list[Whole]
    backward_from: Whole | None


@checked(config=STRICT)
class DetectedObjectState:
    object_id: Count
    prompt: Count
    score: float
    born: Count
    last_occluded: Whole | None
    empty_frames: Count
    pointed_at: list[Count]
    memory: MemoryState


@checked(config=STRICT)
class StandingState:
    first_frame: Count
    keep_alive: Whole
    unmatched_frames: Count
    is_confirmed: bool
    overlaps: list[tuple[Count, Count]]


@checked(config=STRICT)
class LoanState:
    frame: Count
    givers: list[Count]
    borrowers: list[Count]


@checked(config=STRICT)
class GoneState:
    object_id: Count
    prompt: Count
    score: float
    last: Count
    memory: MemoryState


@checked(config=STRICT)
class WatchState:
    object_id: Count
    first: Count
    found: list[tuple[Count, list[float]]]


@checked(config=STRICT)
class RelinkingState:
    frame: Count
    gone: list[GoneState]
    watches: list[WatchState]


@checked(config=STRICT)
class PropagationState:
    phrases: list[str]
    found_at_first: Count
    num_frames: Count | None
    objects: list[DetectedObjectState]
    standing: list[tuple[Count, StandingState]]
    loans: list[LoanState]
    tally: dict[str, Count]
    relinking: RelinkingState | None = None


@checked(config=STRICT)
class PromptedObjectState:
    object_id: Count
    label: str
    born: Whole | None
    shown: list[Whole]
    memory: MemoryState


@checked(config=STRICT)
class PromptTrackerState:
    num_frames: Count | None
    rehearsing: bool
    objects: list[PromptedObjectState]


@checked(config=STRICT)
class PartState:
    object_ids: list[Count]
    prompts: list[str]
    groups: list[Count]
    scores: list[float]


@checked(config=STRICT)
class StepState:
    stamp: tuple[Count, Whole, float]
    found: PartState | None
    pointed: PartState | None
    hidden: list[Count]
    removed: list[Count]
    young: list[Count]


@checked(config=STRICT)
class ClockState:
    worked: Count
    first: Whole
    worked_index: Count | None
    phrases_from: Count | None
    follows: bool
    asked: list[tuple[Count, list[str]]]
    removals: list[tuple[Count, int | str]]


@checked(config=STRICT)
class ShownState:
    name: str
    phrase: str
    since: Count
    until: Count | None
    said: list[tuple[Count, Count]]  # frame, tokens


@checked(config=STRICT)
class ExemplarsState:
    prompts: list[ExemplarPrompt]
    count: Count
    shown: list[ShownState]


@checked(config=STRICT)
class SessionState:
    format: int
    bound_to: dict[str, Any]
    size: tuple[Count, Count]
    policy: dict[str, Any]
    length: Count | None
    next_id: Annotated[int, Field(ge=1, le=2**31)]
    again: list[Count]
    phrases: list[str]
    labels: list[tuple[Count, str]]
    prompts: list[tuple[PointPrompt | None, BoxPrompt | None, MaskPrompt | None]]  # one of each three
    clock: ClockState
    pass_number: Count
    delay: Count
    unsure: list[Count]
    held: list[StepState]
    ready: list[tuple[list[Any], list[Count], list[Count]]]  # finished frame, tentative, retracted
    propagation: PropagationState | None = None
    prompt_tracker: PromptTrackerState | None = None
    exemplars: ExemplarsState | None = None


ADAPTER = TypeAdapter(SessionState)
