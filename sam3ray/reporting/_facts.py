"""What the page says, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Still:
    """One frame of a clip with its masks: a JPEG. `is_suspect`: the frame to look at first."""

    frame_index: int
    time_s: float
    jpeg: bytes
    is_suspect: bool = False


@dataclass(frozen=True)
class ClipCard:
    """A clip that is shown.

    Attributes:
        uri: of its video, without credentials.
        why: what makes it suspicious; empty for one of the best.
        frame_index: the frame to look at first; None where nothing was found.
        has_video: an annotated video lies under videos/.
        no_stills: why there are no stills although they were requested.
    """

    clip_id: str
    uri: str
    suspicion: float
    why: str
    objects: int
    rows: int
    frames: int
    frame_index: int | None
    has_video: bool = False
    stills: tuple[Still, ...] = ()
    no_stills: str = ""


@dataclass(frozen=True)
class FailureGroup:
    """Clips that failed for one reason, and (clip, message) of some of them."""

    reason: str
    count: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PromptFacts:
    """One phrase: how many clips asked for it and have it, objects, masks, and the median of the objects' scores."""

    prompt: str
    asked: int
    clips: int
    objects: int
    rows: int
    score: float | None


@dataclass(frozen=True)
class Histogram:
    """Counts between edges (one more than counts)."""

    title: str
    note: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class ReportFacts:
    """Everything on the page.

    Attributes:
        outcomes: clips by status: done, failed, left.
        seconds: of work on clips; `began` and `ended` in Unix seconds.
        device_hours: hours of `device` ("GPU" or "CPU") that the work took.
        looked_at: finished clips whose rows were read for prompts, distributions and ranking, of all `done`.
        more_prompts: how many phrases are not listed.
    """

    name: str
    output: str
    about: Mapping[str, str]
    settings: str
    outcomes: Mapping[str, int]
    frames: int
    objects: int
    rows: int
    seconds: float
    device: str
    device_hours: float
    began: float | None
    ended: float | None
    failures: tuple[FailureGroup, ...] = ()
    prompts: tuple[PromptFacts, ...] = ()
    more_prompts: int = 0
    histograms: tuple[Histogram, ...] = ()
    stages: Mapping[str, float] = field(default_factory=dict)
    worst: Sequence[ClipCard] = ()
    best: Sequence[ClipCard] = ()
    looked_at: int = 0
    damaged: Mapping[str, str] = field(default_factory=dict)
    with_stills: bool = False

    @property
    def clips(self) -> int:
        return sum(self.outcomes.values())

    @property
    def done(self) -> int:
        return self.outcomes.get("done", 0)
