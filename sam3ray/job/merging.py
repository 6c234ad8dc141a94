"""Merges the windows of a clip into one file: a task on a CPU, separate from the actors, without a model.

Crash contract: the clip's file is built in a local work folder and created on the store in one step; then the clip's
windows are removed. A task that dies before that step leaves the windows as they are. One that dies after it leaves
windows of a clip that is done, which the next driver removes.

The rows of a window are fetched when they are needed and then deleted: local disk holds the rows of two windows and the
clip's file, memory holds a few frames.
"""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sam3ray.failures import Failure, JobStopped, Reason
from sam3ray.files.workdir import WorkDir
from sam3ray.guard.redact import redact
from sam3ray.job.loop import Loop
from sam3ray.job.losses import judge
from sam3ray.job.mishaps import classify
from sam3ray.job.parts import StoredRows, cuts_of, facts_of, forget_lost
from sam3ray.job.result import ClipResult, PartsLost
from sam3ray.job.seen import Seen
from sam3ray.job.versions import software_versions
from sam3ray.job.watchdog import Watchdog
from sam3ray.stitching import Links, Window, merge
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import AnnotationWriter
from sam3ray.store.cut_clip import CutClip, WindowLost, WindowMark
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.clip import Clip

if TYPE_CHECKING:
    from sam3ray.values.cutting import Cut

MAX_TRACEBACK = 8_000
# The environment keeps these workers apart from those that become actors: a low priority sticks.
TASK_OPTIONS: Mapping[str, Any] = {"max_retries": 0, "runtime_env": {"env_vars": {"SAM3RAY_STAGE": "merge"}}}
NICENESS = 10  # yields to actors on the same core, goes before rendering, for which nothing waits


@dataclass(frozen=True)
class MergeOrder:
    """The settings sent to every merging task of a job."""

    store: RunStore
    fingerprint: Mapping[str, Any]
    no_progress_s: float = 600.0


def merge_one(
    order: MergeOrder, clip: Clip, attempt: int = 1, told: Callable[[], None] = lambda: None
) -> ClipResult | PartsLost:
    """Merges the windows of one clip and commits it. Does not need Ray.

    Args:
        told: called after each frame.

    Raises:
        ClipError: storage fails.
    """
    store, clip_id = order.store, clip.clip_id
    if store.is_done(clip_id):
        return _committed_before(store, clip_id)  # by an earlier task that was presumed dead
    kept = CutClip(store.storage, clip_id)
    try:
        note, digest = cuts_of(kept)
        marks = kept.marks(note, digest)
        decided = kept.read_links(digest, marks)
        if decided is None:
            raise WindowLost((), "the links of its windows are missing or damaged")
        with WorkDir() as work:
            path = work.path / "clip.parquet"
            result = _merged(order, clip, kept, note.cuts, marks, decided, path, attempt, told)
            committed = store.commit(clip_id, path)
    except WindowLost as lost:
        if store.is_done(clip_id):  # another attempt committed first and removed them
            return _committed_before(store, clip_id)
        return forget_lost(kept, lost)
    kept.clear()
    return result if committed else _committed_before(store, clip_id)


def _merged(
    order: MergeOrder,
    clip: Clip,
    kept: CutClip,
    cuts: Sequence[Cut],
    marks: Sequence[WindowMark],
    decided: str,
    path: Path,
    attempt: int,
    told: Callable[[], None],
) -> ClipResult:
    """Returns the clip's file and its figures. Raises WindowLost if a window's rows are missing or damaged."""
    began = time.perf_counter()
    folder = path.parent
    try:
        links = Links.loads(decided)
    except ValueError as error:
        raise WindowLost((), f"the links of its windows cannot be used: {error}") from None
    rows = kept.fetch_rows(0, marks[0], folder)
    first = facts_of(rows)
    rows.unlink()
    about = {
        "fingerprint": order.fingerprint,
        "clip": first["clip"].get("about", {}),
        "model": first["model"],
        "software": first["software"],
    }
    seconds = round(sum(mark.seconds for mark in marks), 4)
    rung, dropped = max(mark.rung for mark in marks), max(mark.dropped for mark in marks)
    with AnnotationWriter(path, clip.clip_id, about) as writer:
        seen: list[Seen] = []
        pairs = zip(cuts, marks, strict=True)
        windows = [Window(cut, StoredRows(kept, cut.index, mark, folder, seen)) for cut, mark in pairs]
        for frame in _fitting(merge(windows, links)):
            writer.write(frame)
            told()
        timings = {"segment": seconds, "merge": round(time.perf_counter() - began, 4)}
        written = writer.finish(
            seconds=seconds,
            timings=timings,
            rung=rung,
            dropped_objects=dropped,
            attempt=attempt,
            windows=[_entry(cut, mark) for cut, mark in zip(cuts, marks, strict=True)],
            **functools.reduce(Seen.joined, seen, Seen()).facts,
        )
    return ClipResult(
        clip.clip_id,
        written.frames,
        written.objects,
        written.rows,
        seconds,
        timings,
        dropped_objects=dropped,
        rung=rung,
        size_bytes=written.size_bytes,
        source=clip.source or "",
    )


def _fitting(frames: Iterator[FrameAnnotations]) -> Iterator[FrameAnnotations]:
    """Raises WindowLost if links and windows do not match."""
    try:
        yield from frames
    except ValueError as error:
        raise WindowLost((), f"the links do not match the windows: {error}") from None


def _entry(cut: Cut, mark: WindowMark) -> dict[str, Any]:
    """The window's entry in the clip's metadata, in the form that `windows.mode: checkpoint` uses."""
    values = asdict(mark)
    return {"name": f"w{cut.index}", "sha256": mark.rows, "start": cut.start} | {
        key: values[key] for key in ("frames", "rung", "device", "attempt", "seconds")
    }


def _committed_before(store: RunStore, clip_id: str) -> ClipResult:
    """The figures of the file that is already on the store."""
    try:
        found = store.summary_of(clip_id)
    except (FileNotFoundError, ValueError):  # damaged: `verify` reports it
        return ClipResult(clip_id, 0, 0, 0, 0.0, committed=False)
    return ClipResult(clip_id, found.frames, found.objects, found.rows, found.seconds, found.timings, committed=False)


def _merge_task(order: MergeOrder, clip: Clip, attempt: int) -> ClipResult | PartsLost | Failure:
    """In a Ray worker: errors are returned as values."""
    import os

    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    frames = 0

    def told() -> None:
        nonlocal frames
        frames += 1

    began = time.perf_counter()
    try:
        order.store.confirm()
        with Watchdog(lambda: frames, order.no_progress_s):
            return merge_one(order, clip, attempt, told)
    except JobStopped as error:
        reason, message, where, trace = Reason.STORAGE, str(error), "", ""
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this clip's record
        reason, message, where = classify(error)
        text = redact("".join(traceback.format_exception(error)))[-MAX_TRACEBACK:]
        trace = text if reason is Reason.INTERNAL else ""
    return Failure(
        clip_id=clip.clip_id,
        reason=reason,
        message=redact(message),
        where=redact(where or "merge"),
        traceback=trace,
        seconds=round(time.perf_counter() - began, 3),
        versions=software_versions(),
        attempt=attempt,
    )


class MergeEvents(Protocol):
    """Receives the outcome of each merge, in the driver's thread."""

    def merged(self, item: int, outcome: ClipResult | PartsLost | Failure) -> None: ...


class MergeStage:
    """Runs merges as Ray tasks, all from the driver's loop, without a thread of its own."""

    def __init__(self, order: MergeOrder, loop: Loop, events: MergeEvents) -> None:
        import ray

        self._order = ray.put(order)
        self._loop = loop
        self._events = events
        self._task = ray.remote(_merge_task)
        self._running: dict[int, Any] = {}  # item -> its task

    def begin(self, item: int, clip: Clip, attempt: int, cpus: float) -> None:
        ref = self._task.options(**TASK_OPTIONS, num_cpus=cpus).remote(self._order, clip, attempt)
        self._running[item] = ref
        self._loop.watch(ref, functools.partial(self._ended, item, clip.clip_id))

    def _ended(self, item: int, clip_id: str, future: Future[ClipResult | PartsLost | Failure]) -> None:
        if self._running.pop(item, None) is None:
            return  # was cancelled
        if (error := future.exception()) is None:
            self._events.merged(item, future.result())
            return
        verdict = judge(error, None)
        self._events.merged(item, Failure(clip_id, verdict.reason, verdict.message, "merge"))

    def cancel(self) -> None:
        import ray

        for ref in self._running.values():
            ray.cancel(ref, force=True)
        self._running.clear()
