"""Annotated videos as a stage of its own, on CPUs: beside a running job, or later from a finished run.

A clip is rendered once its annotations are committed. What goes wrong here is reported and never
touches the clip. Resume is by the videos that are there.

Crash contract: a video is made in a local work folder and published in one step; a task that dies
leaves nothing on the store and is tried once more.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sam3ray.config import ClusterConfig, RenderConfig, VideoConfig
from sam3ray.failures import ClipError, UserError
from sam3ray.job.logs import event
from sam3ray.job.observe import Observer, Snapshot
from sam3ray.job.result import JobSummary
from sam3ray.redact import redact
from sam3ray.store import RunStore

if TYPE_CHECKING:
    from sam3ray.manifest import Clip

_LOG = logging.getLogger(__name__)

TRIES = 2  # of a task whose process dies
NICENESS = 19  # where an actor and a task share cores, the actor goes first; Ray's own workers have 15


@dataclass(frozen=True)
class RenderOrder:
    """What all rendering tasks of a job are told."""

    store: RunStore
    render: RenderConfig
    video: VideoConfig
    storage: Mapping[str, Any]
    overwrite: bool = False


def render_one(order: RenderOrder, clip: Clip) -> int:
    """Renders and publishes one clip's video; returns its number of frames. Runs without Ray, too.

    Raises:
        ClipError: the source cannot be read (any more), or storage fails.
    """
    from sam3ray.job.workdir import WorkDir
    from sam3ray.render import read_frames, render_clip
    from sam3ray.video import VideoCache

    table = order.store.read_clip(clip.clip_id)
    cache = VideoCache(order.video.cache_dir, order.video.cache_bytes, order.storage, limits=order.video)
    with WorkDir() as work, cache, cache.open(clip.uri) as source:
        target = work.path / "video.mp4"
        frames = render_clip(source, read_frames(table, clip.clip_id), target, clip, order.render, order.video)
        order.store.publish_video(clip.clip_id, target, overwrite=order.overwrite)
    return frames


def _render_task(order: RenderOrder, clip: Clip) -> int | str:
    """In a worker of Ray's: the number of frames, or what went wrong."""
    import os

    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    try:
        return render_one(order, clip)
    except Exception as error:  # noqa: BLE001 - whatever it is, it becomes this video's failure
        text = str(error) if isinstance(error, ClipError) else f"{type(error).__name__}: {error}"
        return redact(" ".join(text.split()))[:500]


class RenderStage:
    """A queue of clips and the tasks under way. Not a thread: `pump` is called from a loop, as are task ends."""

    def __init__(self, order: RenderOrder, post: Callable[[Callable[[], None]], None]) -> None:
        """`post`: hands a call over to the loop's thread."""
        import ray

        from sam3ray.job.cluster import largest_node_cpus

        self._order = ray.put(order)
        # A machine with fewer cores than a task asks for renders all the same.
        self.cpus_per_task = min(order.render.cpus_per_task, max(largest_node_cpus(), 0.01))
        self._post = post
        # The environment keeps these workers apart from those that become actors: a low priority sticks.
        options: dict[str, Any] = {
            "num_cpus": self.cpus_per_task,
            "max_retries": 0,
            "runtime_env": {"env_vars": {"SAM3RAY_STAGE": "render"}},
        }
        self._task = ray.remote(_render_task).options(**options)
        self._waiting: deque[tuple[Clip, int]] = deque()
        self._running: dict[str, Any] = {}
        self.rendered = 0
        self.failures: dict[str, str] = {}

    def add(self, clip: Clip) -> None:
        self._waiting.append((clip, 1))

    @property
    def pending(self) -> int:
        return len(self._waiting) + len(self._running)

    def pump(self, slots: int) -> None:
        """Starts tasks, so that no more than `slots` are under way."""
        while self._waiting and len(self._running) < slots:
            clip, attempt = self._waiting.popleft()
            ref = self._task.remote(self._order, clip)
            self._running[clip.clip_id] = ref

            def ended(future: Future[int | str], clip: Clip = clip, attempt: int = attempt) -> None:
                self._post(lambda: self._ended(clip, attempt, future))

            ref.future().add_done_callback(ended)

    def _ended(self, clip: Clip, attempt: int, future: Future[int | str]) -> None:
        if self._running.pop(clip.clip_id, None) is None:
            return
        error = future.exception()
        if error is not None and attempt < TRIES:
            self._waiting.append((clip, attempt + 1))
            return
        outcome = f"the rendering process died: {type(error).__name__}" if error is not None else future.result()
        if isinstance(outcome, int):
            self.rendered += 1
            event(_LOG, logging.INFO, "video rendered", clip_id=clip.clip_id, frames=outcome)
        else:
            self.failures[clip.clip_id] = outcome
            event(_LOG, logging.WARNING, "video not rendered", clip_id=clip.clip_id, error=outcome)

    def cancel(self) -> None:
        import ray

        self._waiting.clear()
        for ref in self._running.values():
            ray.cancel(ref, force=True)
        self._running.clear()


def render_run(
    output: str,
    clip_ids: Iterable[str] | None = None,
    *,
    storage: Mapping[str, Any] | None = None,
    render: RenderConfig | None = None,
    cluster: ClusterConfig | None = None,
    overwrite: bool = False,
    progress: Observer | None = None,
) -> JobSummary:
    """Renders the annotated videos of a run's finished clips, those that are not there yet.

    Args:
        clip_ids: only these; None is all.
        storage: fsspec options.
        cluster: only its address counts.
        overwrite: make videos anew that are there.

    Raises:
        UserError: there is no run, or it has no such finished clip.
        JobStopped: storage or Ray cannot be reached.
    """
    from sam3ray.job.cluster import connected

    began = time.monotonic()
    storage, cluster = dict(storage or {}), cluster or ClusterConfig()
    store = RunStore(output, storage)
    if not store.exists():
        raise UserError(f"output {output} holds no run")
    saved = store.run_info()["config"]
    render = render or RenderConfig.model_validate(saved.get("render", {}), strict=False)
    video = VideoConfig.model_validate(saved.get("video", {}), strict=False)
    done, there = store.done_ids(), set() if overwrite else store.rendered_ids()
    clips = {clip.clip_id: clip for clip in store.manifest()}
    wanted = list(dict.fromkeys(clip_ids)) if clip_ids is not None else [c for c in clips if c in done]
    problems = [f"clip {c!r} is not in the manifest of {output}" for c in wanted if c not in clips]
    problems += [
        f"clip {c!r} is not done, so there is nothing to render" for c in wanted if c in clips and c not in done
    ]
    if problems:
        raise UserError(problems)
    todo = [clips[c] for c in wanted if c not in there]
    rendered, failures, exit_code = 0, {}, 0
    if todo:
        with connected(cluster):
            stage = _render_all(RenderOrder(store, render, video, storage, overwrite), todo, progress)
        rendered, failures = stage.rendered, stage.failures
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


def _render_all(order: RenderOrder, clips: list[Clip], progress: Observer | None) -> RenderStage:
    import ray

    began = time.monotonic()
    events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    cpus = ray.cluster_resources().get("CPU", 1.0)
    stage = RenderStage(order, events.put)
    for clip in clips:
        stage.add(clip)
    try:
        while stage.pending:
            stage.pump(max(1, int(cpus / stage.cpus_per_task)))
            try:
                events.get(timeout=1.0)()
            except queue.Empty:
                pass
            if progress is not None:
                progress.update(
                    Snapshot(
                        clips=len(clips),
                        done=stage.rendered,
                        rendered=stage.rendered,
                        rendering=stage.pending,
                        seconds=time.monotonic() - began,
                    )
                )
    finally:
        stage.cancel()
        if progress is not None:
            progress.close()
    return stage
