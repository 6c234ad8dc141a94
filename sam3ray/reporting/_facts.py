"""The facts on the page, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Still:
    """A JPEG of one frame with its masks. `is_suspect` marks the frame to look at first."""

    frame_index: int
    time_s: float
    jpeg: bytes
    is_suspect: bool = False


@dataclass(frozen=True)
class ClipCard:
    """A clip shown on the page.

    Attributes:
        uri: its video's address, without credentials.
        why: what makes it suspicious; empty for one of the best clips.
        frame_index: the frame to look at first; None if nothing was found.
        has_video: whether there is an annotated video under videos/.
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
    """The clips that failed for one reason, with (clip, message) for some of them."""

    reason: str
    count: int
    examples: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PromptFacts:
    """One phrase: clips with this prompt, clips in which it was found, objects, masks, the objects' median score."""

    prompt: str
    asked: int
    clips: int
    objects: int
    rows: int
    score: float | None


@dataclass(frozen=True)
class Histogram:
    """Counts per bin; there is one more edge than counts."""

    title: str
    note: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class ReportFacts:
    """Everything on the page.

    Attributes:
        outcomes: clips by status: done, failed, left.
        seconds: seconds of work, by stage.
        began, ended: Unix seconds.
        device_hours: hours of `device` ("GPU" or "CPU") that the work took.
        looked_at: how many of the `done` clips were read for prompts, distributions and ranking.
        more_prompts: number of phrases not listed.
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
