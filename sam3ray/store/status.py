"""Progress of a run, from storage alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sam3ray.store.lease import active_driver
from sam3ray.store.run import RunStore
from sam3ray.store.summary import ClipSummary

RATE_WINDOW_S = 600.0


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        clips: in the manifest.
        failed: clips that failed for good, by reason.
        left: clips still to do.
        frames, objects, rows: of the finished clips.
        frames_per_s: over the ten minutes before the latest commit; None before the first one.
        rendered: annotated videos.
        driver: the record of the driver at work, if there is one.
    """

    output: str
    created_at: str
    clips: int
    done: int
    failed: dict[str, int]
    left: int
    frames: int
    objects: int
    rows: int
    frames_per_s: float | None
    rendered: int
    driver: dict[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read_status(
    output: str, storage_options: Mapping[str, Any] | None = None, told: Callable[[int], None] | None = None
) -> Status:
    """The progress of a run that may be driven elsewhere.

    Three listings, `clips.parquet`, and the footers of the files committed since that was written.

    Args:
        told: is told now and then how many files have been listed or looked at.

    Raises:
        UserError: there is no run in this folder.
    """
    store = RunStore(output, storage_options)
    run = store.run_info()
    summaries = store.summaries(told=told)
    done = [item for item in summaries.values() if item.status == "done"]
    failed = Counter(item.reason for item in summaries.values() if item.status == "failed")
    return Status(
        output=repr(store)[len("RunStore('") : -len("')")],
        created_at=str(run.get("created_at", "")),
        clips=len(summaries),
        done=len(done),
        failed=dict(failed.most_common()),
        left=len(summaries) - len(done) - failed.total(),
        frames=sum(item.frames for item in done),
        objects=sum(item.objects for item in done),
        rows=sum(item.rows for item in done),
        frames_per_s=rate(done),
        rendered=len(store.rendered_ids()),
        driver=active_driver(store.storage),
    )


def rate(done: list[ClipSummary], window_s: float = RATE_WINDOW_S) -> float | None:
    """Frames per second over the last stretch of work: of clips finished within the window before the latest one."""
    timed = [(item.finished_at, item) for item in done if item.finished_at is not None]
    if not timed:
        return None
    latest = max(at for at, _ in timed)
    recent = [(at, item) for at, item in timed if at > latest - window_s]
    began = max(latest - window_s, min(at - item.seconds for at, item in recent))
    return sum(item.frames for _, item in recent) / max(latest - began, 1e-3)
