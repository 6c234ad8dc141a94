"""Processes a clip in an actor: fetch, decode, segment, write, commit. A plain class, no Ray.

    worker = ClipWorker(config, RunStore(config.output), fingerprint)
    result = worker.process(Clip("a", "a.mp4", ("person",)))

Crash contract: annotations are built in a local work folder and reach the store in one create-if-absent step, the last
one. A process that dies before that leaves nothing on the store but windows of the clip (`job.windows`), from which the
next attempt continues; the work folder is removed by the next worker on the machine.

The out-of-memory ladder: each rung adds to the measures of the previous ones.

    0  as configured
    1  the same, after caches were freed
    2  smaller look-ahead and object batches
    3  the tracker's state on the CPU
    4  prompts one at a time
    5  in a fresh process
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from sam3ray import stitching
from sam3ray.config import JobConfig, ModelConfig, TrackingConfig
from sam3ray.engine import checkpoint
from sam3ray.failures import ClipError, Failure, JobStopped, Reason
from sam3ray.faults.machine import machine_fault
from sam3ray.files import is_local, local_path
from sam3ray.files.workdir import WorkDir
from sam3ray.guard.redact import redact
from sam3ray.job.agreement import Agreement, check_device, check_model, check_software
from sam3ray.job.clip_progress import Attempt, ClipProgress, StageClock
from sam3ray.job.graph import Stage, Work
from sam3ray.job.intake import Intake, Opened, Source
from sam3ray.job.mishaps import classify, device_name, free_memory, gpu_peak_bytes, reset_gpu_peak
from sam3ray.job.parts import PartWorker, Stitching
from sam3ray.job.refinement import Refinement
from sam3ray.job.result import Answer, ClipResult, PartDone, PartsLost
from sam3ray.job.sink import WriterThread
from sam3ray.job.sources import check_source
from sam3ray.job.versions import software_versions
from sam3ray.job.windows import ClipWindows, Maker, WindowTaken
from sam3ray.segment import Segmenter
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import AnnotationWriter, FileFacts
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.clip import Clip
from sam3ray.values.exemplars import exemplar_items
from sam3ray.values.prompt_writing import prompt_items
from sam3ray.values.versions import ENGINE_VERSION
from sam3ray.video import ClipFrames, local_sighting

_LOG = logging.getLogger(__name__)

SHORTAGE_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0)  # waits for shortages that may pass
MAX_TRACEBACK = 8_000  # characters kept in a failure record


class Segments(Protocol):
    """The part of `sam3ray.segment.Segmenter` that a worker uses."""

    @property
    def model_info(self) -> Mapping[str, Any]: ...

    @property
    def stats(self) -> Mapping[str, int]: ...

    def segment(
        self,
        frames: Any,
        height: int,
        width: int,
        prompts: Any = (),
        visual_prompts: Any = (),
        *,
        exemplars: Any = (),
        progress: Callable[[], None] | None = None,
    ) -> Iterator[FrameAnnotations]:
        """Segments a clip. With a `recorder` (`sam3ray.engine.recorder`) only if `can_resume` is True."""
        ...

    def set_memory_rung(self, rung: int) -> None: ...


MakeSegmenter = Callable[[ModelConfig, TrackingConfig], Segments]


@dataclass(frozen=True)
class _Written:
    """A finished local file, with its timings and peak memory."""

    file: FileFacts
    timings: dict[str, float]
    dropped: int  # objects dropped because of `tracking.max_num_objects`


class ClipWorker:
    """Holds one loaded model and processes clips one at a time; the next clip can be prefetched."""

    def __init__(
        self,
        config: JobConfig,
        store: RunStore,
        fingerprint: Mapping[str, Any] | None = None,
        make_segmenter: MakeSegmenter | None = None,
        agreed: Agreement | None = None,
        refinement: Refinement | None = None,
    ) -> None:
        """Loads the model.

        Args:
            refinement: the corrections that the job follows: clips are tracked from their prompts, phrases are not
                detected, and all else is copied from the corrected run.
            agreed: the driver's decisions; None without a driver.

        Raises:
            JobStopped: the model cannot be loaded; the message says what to do.
            WorkerUnfit: versions, device, dtype or checkpoint are not those of the run.
        """
        self.config = config
        self.store = store
        self.fingerprint = dict(fingerprint or {})
        self.software = software_versions()
        self.refinement = refinement
        self.segmenter: Segments = _segmenter(config, make_segmenter, agreed, self.software)
        self._work = WorkDir()
        keeps = config.windows.mode != "off" and getattr(self.segmenter, "can_resume", False)
        self._intake = Intake(config, store if keeps else None)
        self._progress = ClipProgress()
        self._kept: ClipWindows | None = None  # of the running clip
        self._parts: PartWorker | None = None  # where clips may be cut
        how = _stitching(self.segmenter) if config.windows.mode == "parallel" and refinement is None else None
        if how is not None:
            self._parts = PartWorker(config, store, self.segmenter, how, self._intake, self._work.path, self._facts)

    @property
    def progress(self) -> tuple[str, int, int, str]:
        """(stage, frames annotated, ticks, newest window): any change is progress. Read from any thread."""
        return self._progress.value

    def close(self) -> None:
        self._intake.close()
        self._work.close()

    def keep_now(self) -> threading.Event:
        """Requests a window of the running clip. May be called from any thread.

        Returns:
            An event, set once the window is stored or there is nothing to save.
        """
        windows = self._kept
        if windows is None:
            nothing = threading.Event()
            nothing.set()
            return nothing
        return windows.keep_now()

    # Prefetching

    def prefetch(self, clip: Clip, first_frames: bool = True) -> Future[Opened]:
        """Fetches the clip's video in the background; with `first_frames`, starts decoding it, too.

        Errors are ignored here: processing the clip opens it again and reports them.
        """
        return self._intake.prefetch(clip, first_frames)

    def drop_prefetch(self, clip_id: str) -> None:
        """Drops the prefetched clip, which another actor will process."""
        self._intake.drop(clip_id)

    # The clip itself

    def attempt(self, clip: Clip, rung: int = 0, attempt: int = 1, work: Work | None = None) -> Answer | Failure:
        """Like `process`, but returns the clip's errors as values.

        Raises:
            JobStopped: the cause is not this clip, and other clips would also fail.
        """
        began = time.perf_counter()
        for wait_s in (*SHORTAGE_WAITS_S, None):
            try:
                return self.process(clip, rung, attempt, work)
            except JobStopped:
                raise
            except Exception as error:  # noqa: BLE001 - any error becomes this clip's failure record
                fault = machine_fault(error, gpu_share=self._gpu_share)
                if wait_s is None or fault is None or not fault.passing:
                    return self._failure(clip, error, attempt, time.perf_counter() - began)
                _LOG.warning("clip %s waits %.0f s: %s", clip.clip_id, wait_s, fault.message)
            self._wait_out(wait_s)
        raise AssertionError("unreachable: the last try returns or raises")

    @property
    def _gpu_share(self) -> float:
        return self.config.cluster.gpus_per_actor or 1.0

    def _wait_out(self, seconds: float) -> None:
        """Waiting counts as progress, so it is not mistaken for a hang."""
        self._progress = ClipProgress("wait")
        end = time.monotonic() + seconds * random.uniform(0.5, 1.0)
        while time.monotonic() < end:
            time.sleep(min(1.0, max(0.0, end - time.monotonic())))
            self._progress.tick()
        free_memory()
        self._progress = ClipProgress()

    def process(self, clip: Clip, rung: int = 0, attempt: int = 1, work: Work | None = None) -> Answer:
        """Annotates the clip and commits the result, or returns that it must be cut into windows.

        Args:
            work: the part of the clip to process; None for a whole clip.

        Raises:
            ClipError: an error whose reason is known.
            Exception: any other error of the model or a library; `attempt` classifies it.
        """
        began = time.perf_counter()
        clock = StageClock()
        self._progress = ClipProgress("begin")
        try:
            if attempt > 1 and self.store.is_done(clip.clip_id):
                # An attempt that was presumed dead has committed it after all.
                return self._committed_before(clip.clip_id, rung, time.perf_counter() - began)
            if self.refinement is not None and not clip.visual_prompts:
                return self._copy(clip, self.refinement, began)
            if rung > 0:
                free_memory()
            self.segmenter.set_memory_rung(rung)
            reset_gpu_peak()
            tried = Attempt(rung, attempt, began)
            if work is not None and work.stage is not Stage.CLIP:
                return self._part(clip, work, tried, clock)
            with contextlib.closing(self._intake.take(clip, clock, self._progress)) as opened:
                cut = self._parts.cut(opened, self._run_id, clock, self._progress) if self._parts is not None else None
                if cut is not None:
                    return cut
                while True:
                    try:
                        return self._annotate(opened, clock, tried)
                    except WindowTaken as taken:
                        _LOG.warning("clip %s: another attempt has saved window %s first", clip.clip_id, taken)
        finally:
            self._progress = ClipProgress()

    def _part(self, clip: Clip, work: Work, tried: Attempt, clock: StageClock) -> PartDone | PartsLost:
        assert self._parts is not None, "this worker's segmenter cannot cut clips, so it takes no parts of them"
        if work.stage is Stage.LINK:
            return self._parts.link(clip, tried, clock, self._progress)
        return self._parts.window(clip, work.index, tried, clock, self._progress)

    def _annotate(self, opened: Opened, clock: StageClock, tried: Attempt) -> ClipResult:
        """Reads frames, writes annotations to a local file, and puts the complete file onto the store."""
        with contextlib.ExitStack() as stack:
            windows = self._windows(opened, tried)
            if windows is not None:
                stack.enter_context(contextlib.closing(windows))
                stack.callback(setattr, self, "_kept", None)
                self._kept = windows
            result = self._annotated(opened, clock, tried, windows)
            if windows is not None:
                windows.clear()
            return result

    def _windows(self, opened: Opened, tried: Attempt) -> ClipWindows | None:
        """The windows of the running clip; None if it is not checkpointed."""
        config, clip_id, progress = self.config.windows, opened.clip.clip_id, self._progress
        if config.mode == "off" or not getattr(self.segmenter, "can_resume", False):
            return None
        return ClipWindows(
            self.store,
            clip_id,
            self._run_id,
            opened.source,
            config.seconds,
            self._work.path / f"{clip_id[:100]}-{tried.attempt}.windows",
            Maker(tried.attempt, tried.rung, device_name()),
            lambda name: progress.keep(f"{clip_id}/{name}"),
        )

    @functools.cached_property
    def _run_id(self) -> str:
        return str(self.store.run_info().get("run_id", ""))

    def _annotated(self, opened: Opened, clock: StageClock, tried: Attempt, windows: ClipWindows | None) -> ClipResult:
        clip = opened.clip
        with clock.time("decode"):
            source = self._intake.source(opened, again=windows is not None and windows.are_there)
        if windows is not None:
            windows.reads(lambda: source.facts | source.anchor)
            if isinstance(source.video, ClipFrames):
                source.video.anchor = lambda: windows.anchor
        path = self._work.path / f"{clip.clip_id[:100]}-{tried.attempt}.parquet"
        try:
            with AnnotationWriter(path, clip.clip_id, self._facts(opened, source)) as writer:
                written = self._write(
                    self._segment(clip, source, clock, windows), source, writer, clock, tried, windows
                )
            committed = self._commit(opened, path, clock)
        finally:
            path.unlink(missing_ok=True)  # including one that is incomplete because the disk is full
        if not committed:
            return self._committed_before(clip.clip_id, tried.rung, tried.seconds)
        return ClipResult(
            clip_id=clip.clip_id,
            frames=written.file.frames,
            objects=written.file.objects,
            rows=written.file.rows,
            seconds=tried.seconds,
            timings=written.timings | {"commit": round(clock.seconds["commit"], 4)},
            committed=committed,
            dropped_objects=written.dropped,
            rung=tried.rung,
            size_bytes=written.file.size_bytes,
            source=opened.source,
            gpu_memory_bytes=gpu_peak_bytes(),
        )

    def _facts(self, opened: Opened, source: Source) -> dict[str, Mapping[str, Any]]:
        """The file's metadata: clip, model and software."""
        clip, info = opened.clip, source.info
        about = {
            "uri": clip.uri,
            "start_s": clip.start_s,
            "end_s": clip.end_s,
            "fps": clip.fps or self.config.video.fps,
            "source": json.loads(opened.source),
            "prompts": list(clip.prompts),
            "visual_prompts": prompt_items(source.visual_prompts),
            "exemplars": exemplar_items(source.exemplars),
            "source_fps": float(info.fps) if info.fps else None,
            "time_base": str(info.time_base),
            "codec": info.codec,
            "height": info.height,
            "width": info.width,
        }
        return {
            "fingerprint": self.fingerprint,
            "clip": about,
            "model": dict(self.segmenter.model_info),
            "software": self.software,
        }

    def _write(
        self,
        found: Iterator[FrameAnnotations],
        source: Source,
        writer: AnnotationWriter,
        clock: StageClock,
        tried: Attempt,
        windows: ClipWindows | None,
    ) -> _Written:
        """Segments the clip and writes its file, in two threads."""
        progress = self._progress
        progress.stage = "segment"
        began = time.perf_counter()
        with WriterThread(writer) as sink:
            for frame in found:
                with clock.time("write_wait"):
                    sink.put(frame)
                progress.done += 1
            sink.finish()
        if windows is not None:
            windows.finish()
        timings = {name: round(seconds, 4) for name, seconds in clock.seconds.items()}
        waits = timings.get("decode", 0.0) + timings.pop("write_wait", 0.0)
        timings["segment"] = round(max(0.0, time.perf_counter() - began - waits), 4)
        timings["write"] = round(sink.busy_s, 4)
        dropped = int(self.segmenter.stats.get("dropped_objects", 0))
        file = writer.finish(
            seconds=tried.seconds,
            timings=timings,
            rung=tried.rung,
            dropped_objects=dropped,
            attempt=tried.attempt,
            **(source.facts if windows is None else windows.facts),
        )
        return _Written(file, timings, dropped)

    def _commit(self, opened: Opened, path: Path, clock: StageClock) -> bool:
        """Puts the file onto the store; False if another attempt's file exists."""
        clip = opened.clip
        if is_local(clip.uri):  # if the file was replaced while it was read, the frames may come from both versions
            check_source(replace(clip, source=opened.source), local_sighting(Path(local_path(clip.uri))))
        self._progress.stage = "commit"
        with clock.time("commit"):
            return self.store.commit(clip.clip_id, path)

    def _segment(
        self, clip: Clip, source: Source, clock: StageClock, windows: ClipWindows | None
    ) -> Iterator[FrameAnnotations]:
        size = source.info.height, source.info.width
        phrases = clip.prompts if self.refinement is None else ()
        how: dict[str, Any] = {}
        if source.exemplars and self.refinement is None:
            how["exemplars"] = source.exemplars
        if windows is not None:
            how["recorder"] = windows
        found = self.segmenter.segment(
            source.frames(clock), *size, phrases, source.visual_prompts, progress=self._progress.tick, **how
        )
        return found if self.refinement is None else self.refinement.clip(clip.clip_id)[0].with_tracks(found)

    def _copy(self, clip: Clip, refinement: Refinement, began: float) -> ClipResult:
        """The clip with its corrections applied: nothing is tracked."""
        corrected, about = refinement.clip(clip.clip_id)
        path = self._work.path / f"{clip.clip_id[:100]}-copy.parquet"
        facts = {"clip": about.get("clip", {}), "model": about.get("model", {}), "software": self.software}
        try:
            with AnnotationWriter(path, clip.clip_id, {"fingerprint": self.fingerprint, **facts}) as writer:
                for frame in corrected.all_frames():
                    writer.write(frame)
                written = writer.finish(seconds=round(time.perf_counter() - began, 4), timings={})
            committed = self.store.commit(clip.clip_id, path)
        finally:
            path.unlink(missing_ok=True)
        seconds = round(time.perf_counter() - began, 4)
        if not committed:
            return self._committed_before(clip.clip_id, 0, seconds)
        return ClipResult(
            clip.clip_id, written.frames, written.objects, written.rows, seconds, source=clip.source or ""
        )

    def _committed_before(self, clip_id: str, rung: int, seconds: float) -> ClipResult:
        """The figures of the file that another attempt committed."""
        try:
            found = self.store.summary_of(clip_id)
        except (FileNotFoundError, ValueError):  # damaged: `verify` reports it
            return ClipResult(clip_id, 0, 0, 0, seconds, committed=False, rung=rung)
        return ClipResult(
            clip_id, found.frames, found.objects, found.rows, found.seconds, found.timings, committed=False, rung=rung
        )

    def _failure(self, clip: Clip, error: Exception, attempt: int, seconds: float) -> Failure:
        reason, message, where = classify(error, gpu_share=self._gpu_share)
        if reason is Reason.OUT_OF_MEMORY:
            error.__traceback__, trace = None, ""  # the traceback's frames hold the memory that must be freed
            free_memory()
        else:
            trace = redact("".join(traceback.format_exception(error)))[-MAX_TRACEBACK:]
        if isinstance(error, ClipError) and reason is not Reason.INTERNAL:
            trace = ""
        return Failure(
            clip_id=clip.clip_id,
            reason=reason,
            message=redact(message),
            where=redact(where or clip.uri),
            traceback=trace,
            seconds=round(seconds, 3),
            versions=self.software,
            attempt=attempt,
        )


def _stitching(segmenter: Segments) -> Stitching | None:
    """What processes and links windows. A custom segmenter may provide its own; without one, no clip is cut."""
    if isinstance(segmenter, Segmenter):
        return cast(Stitching, stitching)
    own: Stitching | None = getattr(segmenter, "stitching", None)
    return own


def _segmenter(
    config: JobConfig, make: MakeSegmenter | None, agreed: Agreement | None, software: Mapping[str, str]
) -> Segments:
    """Loads the model and compares it with the driver's decisions, starting with the cheap checks."""
    if agreed is not None:
        check_software(agreed, software, ENGINE_VERSION)
    if make is not None:
        return make(config.model, config.tracking)
    if agreed is None:
        return Segmenter(config.model, config.tracking, config.storage)
    check_device(agreed)
    segmenter = Segmenter(config.model, config.tracking, config.storage)
    digest = None
    if "commit" not in agreed.checkpoint:
        digest = checkpoint.checkpoint_identity(config.model, storage_options=config.storage).get("sha256")
    check_model(agreed, segmenter.model_info, digest)
    return segmenter
