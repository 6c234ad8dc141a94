"""Renders annotated videos on CPUs, as a separate stage: during a job, or later from a finished run.

A clip is rendered once its annotations are committed. Errors are reported here and never affect the clip. A resumed run
skips existing videos.

Crash contract: a video is made in a local work folder and published in one step; a task that dies
leaves nothing on the store and is tried once more.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sam3ray.config import ClusterConfig, RenderConfig, VideoConfig
from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.files.workdir import WorkDir
from sam3ray.guard.redact import redact
from sam3ray.job.actions import Limits
from sam3ray.job.capacity import Room
from sam3ray.job.cluster import LOOK_EVERY_S, connected, look
from sam3ray.job.logs import event
from sam3ray.job.loop import Loop
from sam3ray.job.losses import judge
from sam3ray.job.observe import Observer, Observers, Snapshot, reading_told
from sam3ray.job.render_queue import RenderQueue
from sam3ray.job.result import JobSummary
from sam3ray.job.scheduler import Scheduler
from sam3ray.job.stages import Stages
from sam3ray.job.watchdog import Watchdog
from sam3ray.rendering import render_clip
from sam3ray.revisions import ClipOperation, Edits, changes_rows
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import read_frames
from sam3ray.values.phrases import as_names
from sam3ray.video import VideoCache

if TYPE_CHECKING:
    from sam3ray.store import DriverLease
    from sam3ray.values.clip import Clip

_LOG = logging.getLogger(__name__)

# The environment keeps these workers apart from those that become actors: a low priority sticks.
TASK_OPTIONS: Mapping[str, Any] = {"max_retries": 0, "runtime_env": {"env_vars": {"SAM3RAY_STAGE": "render"}}}
NICENESS = 19  # an actor on the same cores goes first; Ray's own workers have 15


@dataclass(frozen=True)
class RenderOrder:
    """The settings sent to every rendering task of a job.

    Attributes:
        revision: the revision to draw; 0 is the model's result.
        corrections: clip -> the revision's corrections.
    """

    store: RunStore
    render: RenderConfig
    video: VideoConfig
    storage: Mapping[str, Any]
    overwrite: bool = False
    no_progress_s: float = 600.0
    revision: int = 0
    corrections: Mapping[str, Sequence[ClipOperation]] = field(default_factory=dict)


def render_one(order: RenderOrder, clip: Clip) -> int:
    """Renders and publishes one clip's video; returns its number of frames. Does not need Ray.

    Raises:
        ClipError: the source cannot be read, or storage fails.
    """
    order.store.confirm()
    rows = read_frames(order.store.read_clip(clip.clip_id), clip.clip_id)
    corrections = order.corrections.get(clip.clip_id, ())
    cache = VideoCache(order.video.cache_dir, order.video.cache_bytes, order.storage, limits=order.video)
    fetched = drawn = 0

    def on_bytes(count: int) -> None:
        nonlocal fetched
        fetched = count

    with WorkDir() as work, cache:
        target = work.path / "video.mp4"

        def progress() -> tuple[int, int]:
            return fetched, drawn

        def on_frame() -> None:
            nonlocal drawn
            drawn += 1

        with Watchdog(progress, order.no_progress_s):
            with cache.open_parts(clip.uri, on_bytes) as source:
                annotations = iter(Edits(order.store).clip(clip.clip_id, corrections)) if corrections else rows
                frames = render_clip(source, annotations, target, clip, order.render, order.video, on_frame)
            order.store.confirm()  # checked again, because rendering takes minutes
            order.store.publish_video(clip.clip_id, target, overwrite=order.overwrite, revision=order.revision)
    return frames


def _render_task(order: RenderOrder, clip: Clip) -> int | str:
    """In a Ray worker: the number of frames, or the error."""
    import os

    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    try:
        return render_one(order, clip)
    except Exception as error:  # noqa: BLE001 - any error becomes this video's failure
        text = str(error) if isinstance(error, ClipError) else f"{type(error).__name__}: {error}"
        return redact(" ".join(text.split()))[:500]


class RenderStage:
    """Renders the queue's clips as Ray tasks, all from the driver's loop, without a thread of its own."""

    def __init__(self, order: RenderOrder, loop: Loop) -> None:
        import ray

        self.queue = RenderQueue()
        self._order = ray.put(order)
        self._loop = loop
        self._task = ray.remote(_render_task)
        self._running: dict[str, tuple[Any, float]] = {}  # clip id -> its task and the CPUs that it requests

    def pump(self, slots: int, cpus_per_task: float) -> None:
        """Starts tasks, as long as fewer than `slots` are running."""
        import ray

        for clip_id, (ref, cpus) in list(self._running.items()):
            if cpus > cpus_per_task:  # requested when the cluster had larger nodes: no node could run it now
                ray.cancel(ref, force=True)
                del self._running[clip_id]
                self.queue.put_back(clip_id)
        for clip in self.queue.take(slots, time.monotonic()):
            options = {**TASK_OPTIONS, "num_cpus": cpus_per_task}
            ref = self._task.options(**options).remote(self._order, clip)
            self._running[clip.clip_id] = (ref, cpus_per_task)
            self._loop.watch(ref, functools.partial(self._ended, clip.clip_id, ref))

    def _ended(self, clip_id: str, ref: Any, future: Future[int | str]) -> None:
        if self._running.get(clip_id, (None, 0.0))[0] is not ref:
            return  # was cancelled
        del self._running[clip_id]
        error = future.exception()
        if error is not None:
            verdict = judge(error, None)
            why = f"the rendering process died: {verdict.message}"
            self.queue.died(clip_id, why, with_its_node=verdict.reason is Reason.PREEMPTED)
        elif isinstance(outcome := future.result(), int):
            self.queue.made(clip_id)
            event(_LOG, logging.INFO, "video rendered", clip_id=clip_id, frames=outcome)
        else:
            self.queue.failed(clip_id, outcome)
            event(_LOG, logging.WARNING, "video not rendered", clip_id=clip_id, error=outcome)

    def cancel(self) -> None:
        import ray

        for ref, _ in self._running.values():
            ray.cancel(ref, force=True)
        self._running.clear()
        self.queue.clear()


def render_run(
    output: str,
    clip_ids: str | Iterable[str] | None = None,
    *,
    storage: Mapping[str, Any] | None = None,
    render: RenderConfig | None = None,
    cluster: ClusterConfig | None = None,
    overwrite: bool = False,
    revision: int | str | None = None,
    progress: Observer | None = None,
) -> JobSummary:
    """Renders the missing annotated videos of a run's finished clips.

    Args:
        clip_ids: render only these clips; None means all.
        storage: fsspec options.
        cluster: only its address is used.
        overwrite: re-render existing videos.
        revision: draw the corrections up to this one, "latest" or a number, into `edits/videos/<number>/`; without
            `clip_ids` those clips that were corrected. None or 0 draws what the model found.

    Raises:
        UserError: there is no run, no such revision, or it has no such finished clip.
        JobStopped: storage or Ray cannot be reached.
    """
    observer = Observers([progress] if progress is not None else [])
    with contextlib.closing(observer):
        return _render_run(
            output,
            as_names(clip_ids, "clips"),
            dict(storage or {}),
            render,
            cluster or ClusterConfig(),
            overwrite,
            revision,
            observer,
        )


def _asked(saved: RenderConfig, given: RenderConfig | None) -> RenderConfig:
    """The run's own options, with the given ones in their place."""
    names = given.model_fields_set if given is not None else ()
    return saved.model_copy(update={name: getattr(given, name) for name in names})


def _render_run(
    output: str,
    clip_ids: Iterable[str] | None,
    storage: dict[str, Any],
    render: RenderConfig | None,
    cluster: ClusterConfig,
    overwrite: bool,
    revision: int | str | None,
    progress: Observer,
) -> JobSummary:
    began = time.monotonic()
    store = RunStore(output, storage)
    if not store.exists():
        raise UserError(f"there is no run in {output}")
    saved = store.run_info()["config"]
    render = _asked(RenderConfig.model_validate(saved.get("render", {}), strict=False), render)
    video = VideoConfig.model_validate(saved.get("video", {}), strict=False)
    edits = Edits(store)
    number = edits.number_of(revision)
    corrections = {clip_id: each for clip_id, each in edits.operations(number).items() if changes_rows(each)}
    done, there = store.done_ids(reading_told(progress)), set() if overwrite else store.rendered_ids(number)
    clips = {clip.clip_id: clip for clip in store.manifest()}
    wanted = (
        list(dict.fromkeys(clip_ids))
        if clip_ids is not None
        else [c for c in clips if c in (corrections if number else done)]
    )
    problems = [f"clip {c!r} is not in the manifest of {output}" for c in wanted if c not in clips]
    problems += [
        f"clip {c!r} is not done, so there is nothing to render" for c in wanted if c in clips and c not in done
    ]
    if problems:
        raise UserError(problems)
    todo = [clips[c] for c in wanted if c not in there]
    rendered, failures, exit_code = 0, {}, 0
    if todo:
        with store.lease("render") as lease, connected(cluster):
            store.expect(lease)
            order = RenderOrder(store, render, video, storage, overwrite, revision=number, corrections=corrections)
            queue = _render_all(order, todo, cluster, lease, progress)
        rendered, failures = queue.rendered, queue.failures
        exit_code = 1 if failures else 0
    return JobSummary(
        clips=len(wanted),
        done=0,
        skipped=len(wanted) - len(todo),
        failed={},
        left=0,
        frames=0,
        objects=0,
        seconds=round(time.monotonic() - began, 3),
        exit_code=exit_code,
        rendered=rendered,
        render_failures=failures,
    )


def _render_all(
    order: RenderOrder, clips: Sequence[Clip], cluster: ClusterConfig, lease: DriverLease, progress: Observer
) -> RenderQueue:
    began = time.monotonic()
    loop = Loop()
    stage = RenderStage(order, loop)
    queue = stage.queue
    for clip in clips:
        queue.add(clip)
    stages = Stages(cluster, Scheduler([], Limits()), Room(0, 0.0), queue, order.render.cpus_per_task)
    look_at = 0.0
    try:
        while not stages.finished:
            if lease.lost:
                lease.check()
            now = time.monotonic()
            if now >= look_at:
                look_at = now + LOOK_EVERY_S
                stages.look(look(), {}, now)
            stage.pump(stages.render_slots, stages.cpus_per_task)
            loop.run_next(until=now + 1.0)
            progress.update(
                Snapshot(
                    rendered=queue.rendered,
                    rendering=queue.pending,
                    render_failed=len(queue.failures),
                    render_eta_s=queue.eta_s(now),
                    seconds=now - began,
                    notice=stages.notice,
                )
            )
    finally:
        stage.cancel()
    return queue
