"""The results of attempts at a clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sam3ray.display import html
from sam3ray.display.readable import readable_span
from sam3ray.job.graph import Cutting

_NAMED = 5  # failed videos that are named


@dataclass(frozen=True)
class ClipResult:
    """A clip that is done: its annotations are on the store.

    Attributes:
        frames: processed, after sampling.
        objects: distinct object ids in the file.
        rows: rows of the file, one for each object on each frame.
        seconds: wall time of the whole attempt.
        timings: seconds per stage. `fetch`, `decode` (waiting for frames), `segment` (the model),
            `write` (in a thread, in parallel), `commit`.
        committed: False if another attempt had already committed the clip.
        dropped_objects: objects dropped because of `tracking.max_num_objects`.
        rung: rung of the out-of-memory ladder; 0 if memory sufficed.
    """

    clip_id: str
    frames: int
    objects: int
    rows: int
    seconds: float
    timings: Mapping[str, float] = field(default_factory=dict)
    committed: bool = True
    dropped_objects: int = 0
    rung: int = 0
    size_bytes: int = 0
    source: str = ""  # the video's sighting (`sam3ray.files.sighting`)
    gpu_memory_bytes: int = 0  # the highest during the clip


@dataclass(frozen=True)
class ClipCut:
    """A clip that is cut into windows.

    Attributes:
        frames: number of frames of the clip, after sampling.
    """

    clip_id: str
    frames: int
    cutting: Cutting


@dataclass(frozen=True)
class PartDone:
    """A window, or the links of a clip, are on the store.

    Attributes:
        frames: number of frames that the clip takes from the window.
        seconds: wall time of the attempt.
    """

    clip_id: str
    frames: int
    seconds: float


@dataclass(frozen=True)
class PartsLost:
    """Windows (or, if empty, the links) were missing or damaged on the store, and must be processed again."""

    clip_id: str
    windows: tuple[int, ...]
    message: str


Answer = ClipResult | ClipCut | PartDone | PartsLost
"""The result of an attempt that did not fail."""


@dataclass(frozen=True)
class JobSummary:
    """How a job ended. `failed` counts clips by reason, including those of earlier runs.

    `set_aside`: nodes and GPUs that were set aside, for a time or to the end, and why.
    """

    clips: int
    done: int  # by this run
    skipped: int  # done before this run
    failed: Mapping[str, int]
    left: int  # neither done nor failed, because the job was stopped or interrupted
    frames: int
    objects: int
    seconds: float
    exit_code: int
    message: str = ""
    rendered: int = 0
    render_failures: Mapping[str, str] = field(default_factory=dict)
    set_aside: Mapping[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, str]:
        """Names and values, formatted for people."""
        failed = ", ".join(f"{reason} {count:,}" for reason, count in self.failed.items() if count)
        values = {
            "clips": f"{self.clips:,}",
            "done": f"{self.done:,}" + (f", and {self.skipped:,} before" if self.skipped else ""),
            "failed": f"{sum(self.failed.values()):,}: {failed}" if failed else "0",
            "left": f"{self.left:,}",
            "frames": f"{self.frames:,}",
            "objects": f"{self.objects:,}",
            "videos": f"{self.rendered:,}" if self.rendered else "",
            "videos failed": _videos_failed(self.render_failures),
            "set aside": "; ".join(f"{name}: {why}" for name, why in self.set_aside.items()),
            "time": readable_span(self.seconds),
        }
        return {name: value for name, value in values.items() if value}

    def render_facts(self) -> dict[str, str]:
        """Names and values of a summary of `render`, formatted for people."""
        values = {
            "clips": f"{self.clips:,}",
            "videos rendered": f"{self.rendered:,}",
            "already rendered": f"{self.skipped:,}" if self.skipped else "",
            "videos failed": _videos_failed(self.render_failures),
            "time": readable_span(self.seconds),
        }
        return {name: value for name, value in values.items() if value}

    def _repr_html_(self) -> str:
        """For notebooks. `sam3ray.Run` shows the run itself, with stills."""
        return html.facts("job", {**self.facts(), "exit code": self.exit_code, "message": self.message})


def _videos_failed(failures: Mapping[str, str]) -> str:
    shown = "; ".join(f"{clip_id}: {why}" for clip_id, why in list(failures.items())[:_NAMED])
    more = f"; and {len(failures) - _NAMED:,} more (--json lists them)" if len(failures) > _NAMED else ""
    return f"{len(failures):,}: {shown}{more}" if failures else ""
