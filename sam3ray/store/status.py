"""Progress of a run, from storage alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sam3ray.display import html
from sam3ray.display.readable import counted, readable_span, readable_time
from sam3ray.store.cut_clip import windows_done
from sam3ray.store.lease import active_driver
from sam3ray.store.run import RunStore
from sam3ray.store.summary import ClipSummary
from sam3ray.store.windows import clip_windows

RATE_WINDOW_S = 600.0


@dataclass(frozen=True)
class Status:
    """The progress of a run.

    Attributes:
        clips: in the manifest.
        failed: number of clips that failed for good, by reason.
        left: number of open clips.
        frames, objects, rows: of the finished clips.
        frames_per_s: rate during the ten minutes before the latest commit; None before the first commit.
        rendered: annotated videos.
        driver: the record of the process that holds the lease, if any.
        edits: the run's corrections: `revision`, and the numbers of clips `corrected` and `accepted`. Empty: none.
        windows: unfinished clips of which a part is done: a saved state or a finished parallel window. Preparations,
            such as a kept index of the video, do not count.
        windows_done: finished parallel windows of unfinished clips.
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
    edits: dict[str, int] = field(default_factory=dict)
    windows: int = 0
    windows_done: int = 0

    def as_json(self) -> dict[str, Any]:
        data = asdict(self)
        return {**data, **data.pop("edits")}

    def facts(self) -> dict[str, str]:
        """Names and values, formatted for people."""
        failed = ", ".join(f"{reason} {count:,}" for reason, count in self.failed.items())
        values = {
            "output": self.output,
            "created": readable_time(self.created_at),
            "clips": f"{self.clips:,}",
            "done": _share(self.done, self.clips),
            "failed": f"{_share(sum(self.failed.values()), self.clips)}: {failed}" if failed else "0",
            "left": _share(self.left, self.clips),
            "partly done": _partly_words(self.windows, self.windows_done),
            "frames": f"{self.frames:,}",
            "objects": f"{self.objects:,}",
            "rows": f"{self.rows:,}",
            "rate": "" if self.frames_per_s is None else f"{self.frames_per_s:,.1f} frames/s before the latest commit",
            "videos": f"{self.rendered:,}" if self.rendered else "",
            "running": _driver_words(self.driver),
            "corrections": _edits_words(self.edits),
        }
        return {name: value for name, value in values.items() if value}

    def _repr_html_(self) -> str:
        return html.facts("run", self.facts())


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f}%)" if whole and part else f"{part:,}"


def _partly_words(clips: int, windows: int) -> str:
    shared = f", {windows:,} of their parallel windows" if windows else ""
    return f"{clips:,}{shared}" if clips else ""


def _driver_words(driver: Mapping[str, Any] | None) -> str:
    if driver is None:
        return "no"
    task, host, process = driver.get("task", "run"), driver.get("host", "?"), driver.get("pid", "?")
    words = f"yes, `{task}` on {host}, process {process}"
    beat = driver.get("heartbeat_at")
    return f"{words}; heartbeat {readable_span(max(0.0, time.time() - beat))} ago" if isinstance(beat, float) else words


def _edits_words(edits: Mapping[str, int]) -> str:
    if not edits:
        return ""
    corrected, accepted = edits.get("corrected", 0), edits.get("accepted", 0)
    return f"revision {edits.get('revision', 0)}: {counted(corrected, 'clip')} corrected, {accepted:,} accepted"


def read_status(
    output: str, storage_options: Mapping[str, Any] | None = None, told: Callable[[int], None] | None = None
) -> Status:
    """The progress of a run, wherever its driver is.

    Needs three listings, `clips.parquet`, and the footers of files committed since that was written.

    Args:
        told: called from time to time with the number of files listed or read.

    Raises:
        UserError: there is no run in this folder.
    """
    store = RunStore(output, storage_options)
    run = store.run_info()
    summaries = store.summaries(told=told)
    done = [item for item in summaries.values() if item.status == "done"]
    failed = Counter(item.reason for item in summaries.values() if item.status == "failed")
    to_do = {clip_id for clip_id, item in summaries.items() if item.status != "done"}
    under_way = clip_windows(store.storage)
    shared = windows_done(store.storage) if under_way.keys() & to_do else {}
    saved = {clip_id for clip_id, newest in under_way.items() if newest is not None}
    partly = (saved | {clip_id for clip_id, count in shared.items() if count}) & to_do
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
        windows=len(partly),
        windows_done=sum(shared.get(each, 0) for each in partly),
    )


def rate(done: list[ClipSummary], window_s: float = RATE_WINDOW_S) -> float | None:
    """Frames per second of the clips finished in the time window before the latest one."""
    timed = [(item.finished_at, item) for item in done if item.finished_at is not None]
    if not timed:
        return None
    latest = max(at for at, _ in timed)
    recent = [(at, item) for at, item in timed if at > latest - window_s]
    began = max(latest - window_s, min(at - item.seconds for at, item in recent))
    return sum(item.frames for _, item in recent) / max(latest - began, 1e-3)
