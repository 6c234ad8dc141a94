"""What comes back of an attempt at a clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sam3ray.display import html


@dataclass(frozen=True)
class ClipResult:
    """A clip that is done: its annotations are on the store.

    Attributes:
        frames: processed, after sampling.
        objects: distinct object ids in the file.
        rows: of the file: frame x object.
        seconds: of wall time for the whole attempt.
        timings: seconds per stage. `fetch`, `decode` (waiting for frames), `segment` (the model),
            `write` (beside the others, in a thread), `commit`.
        committed: False where another attempt had committed the clip before.
        dropped_objects: that `tracking.max_num_objects` kept out.
        rung: of the out-of-memory ladder, 0 where memory sufficed.
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
    source: str = ""  # how the video looked: `sam3ray.files.sighting`
    gpu_memory_bytes: int = 0  # the highest during the clip


@dataclass(frozen=True)
class JobSummary:
    """How a job ended. `failed` counts clips by reason, those of earlier runs included.

    `set_aside`: the nodes and GPUs that were, for a time or to the end, and why.
    """

    clips: int
    done: int  # by this run
    skipped: int  # done before it began
    failed: Mapping[str, int]
    left: int  # neither done nor failed: the job was stopped or interrupted
    frames: int
    objects: int
    seconds: float
    exit_code: int
    message: str = ""
    rendered: int = 0
    render_failures: Mapping[str, str] = field(default_factory=dict)
    set_aside: Mapping[str, str] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """For notebooks. `sam3ray.Run` shows the run itself, with stills."""
        failed = ", ".join(f"{reason} {count:,}" for reason, count in self.failed.items())
        values = {
            "clips": f"{self.clips:,}",
            "done": f"{self.done:,} now, {self.skipped:,} before",
            "failed": failed,
            "left": f"{self.left:,}" if self.left else "",
            "frames": f"{self.frames:,}",
            "objects": f"{self.objects:,}",
            "videos": f"{self.rendered:,}" if self.rendered else "",
            "videos failed": f"{len(self.render_failures):,}" if self.render_failures else "",
            "seconds": f"{self.seconds:,.1f}",
            "exit code": self.exit_code,
            "message": self.message,
        }
        return html.facts("job", values)
