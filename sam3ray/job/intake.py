"""Fetches, opens and reads the videos of clips, and prefetches that of the next clip."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sam3ray.config import JobConfig
from sam3ray.job.clip_progress import ClipProgress, StageClock
from sam3ray.job.frame_index import ClipIndex
from sam3ray.job.sources import check_source
from sam3ray.prompts import resolve_exemplars, resolve_prompts
from sam3ray.store import RunStore
from sam3ray.values.clip import Clip
from sam3ray.values.prompts import ExemplarPrompt, VisualPrompt
from sam3ray.video import ClipFrames, Frame, VideoCache, VideoInfo, VideoReader

INDEX_ENTRY_BYTES = 64  # of memory, for each frame of an index


@dataclass
class Opened:
    """A clip whose video has been opened, perhaps with its first frames decoded."""

    clip: Clip
    resources: contextlib.ExitStack
    path: Any
    fetch_s: float
    source: str = ""  # the video's sighting: `sam3ray.files.sighting`
    reader: VideoReader | None = None
    frames: Iterator[Frame] | None = None
    was_read: bool = False

    def close(self) -> None:
        self.resources.close()


@dataclass
class Source:
    """The model's input: an iterator of frames, or frames that can be read again."""

    info: VideoInfo
    frames_or_source: Any
    video: VideoReader | ClipFrames
    visual_prompts: tuple[VisualPrompt, ...] = ()
    exemplars: tuple[ExemplarPrompt, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that reading the video has revealed so far. Another thread may still be reading."""
        names = {str(i): name for i, name in self.video.frame_names.copy().items()}
        return {"clock": self.video.clock, **({"frame_names": names} if names else {})}

    @property
    def anchor(self) -> dict[str, Any]:
        """Where another attempt could continue reading the video; empty if that is unknown or not needed."""
        anchor = self.video.anchors.latest() if self.video.needs_anchors else None
        return {} if anchor is None else {"anchor": anchor}

    def frames(self, clock: StageClock) -> Any:
        once = self.frames_or_source is not self.video
        return clock.timed("decode", self.frames_or_source) if once else self.frames_or_source


class Intake:
    """Opens the videos of clips, and prefetches one.

    Args:
        store: keeps the index of a remote video's frames; None: it is not kept.
    """

    def __init__(self, config: JobConfig, store: RunStore | None = None) -> None:
        self._store = store
        self._video, self._storage = config.video, config.storage
        self._is_shared = config.windows.mode == "parallel"
        self._cache = VideoCache(config.video.cache_dir, config.video.cache_bytes, config.storage, limits=config.video)
        self._ahead: dict[str, Future[Opened]] = {}
        self._pool = ThreadPoolExecutor(1, "sam3ray-prefetch")
        self._lock = threading.Lock()
        self._fetched_bytes = 0  # bytes of the current download, in any thread

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for clip_id in list(self._ahead):
            self.drop(clip_id)
        self._cache.close()

    def prefetch(self, clip: Clip, first_frames: bool = True) -> Future[Opened]:
        """Fetches the clip's video in the background; with `first_frames`, starts decoding it, too.

        Errors are ignored here: processing the clip opens it again and reports them.
        """
        with self._lock:
            future = self._pool.submit(self._open, clip, first_frames, None)
            self._ahead[clip.clip_id] = future
            return future

    def drop(self, clip_id: str) -> None:
        """Drops the prefetched clip, which another actor will process."""
        with self._lock:
            future = self._ahead.pop(clip_id, None)
        if future is not None and not future.cancel():
            future.add_done_callback(_close_opened)

    def take(self, clip: Clip, clock: StageClock, progress: ClipProgress) -> Opened:
        """The prefetched clip, or the clip opened now."""
        with self._lock:
            future = self._ahead.pop(clip.clip_id, None)
        progress.stage = "fetch"
        with clock.time("fetch"):
            if future is not None and not future.cancel():
                while not future.done():
                    # A download for this clip in another thread counts as its progress.
                    with contextlib.suppress(TimeoutError):
                        future.exception(timeout=0.5)
                    progress.ticks = self._fetched_bytes
                if future.exception() is None:
                    opened = future.result()
                    clock.seconds["prefetch"] = opened.fetch_s
                    return opened
            return self._open(clip, False, progress)

    def _open(self, clip: Clip, first_frames: bool, progress: ClipProgress | None) -> Opened:
        began = time.perf_counter()

        def fetched(count: int) -> None:
            self._fetched_bytes = count
            if progress is not None:
                progress.ticks = count

        with contextlib.ExitStack() as resources:
            seen: list[str] = []

            def saw(source: str) -> None:
                seen.append(source)
                check_source(clip, source)

            parts = self._cache.open_parts(clip.uri, fetched, saw, keeper=self._keeper(clip))
            path = resources.enter_context(parts)
            opened = Opened(clip, resources, path, time.perf_counter() - began, seen[-1])
            if first_frames and not _is_read_again(clip):
                self._start_reading(opened)
            opened.resources = resources.pop_all()
        return opened

    def _keeper(self, clip: Clip) -> ClipIndex | None:
        if self._store is None:
            return None
        # A single pass counts the frames before the first one, and none after it.
        in_order = not (self._is_shared or _is_read_again(clip))
        until_s = (clip.start_s or 0.0) if in_order else clip.end_s
        return ClipIndex(self._store, clip.clip_id, until_s, self._video.max_open_bytes // INDEX_ENTRY_BYTES)

    def source(self, opened: Opened, *, again: bool = False) -> Source:
        """Frames in one pass, or frames that can be read again for visual prompts and moments in time.

        Args:
            again: also return frames that can be read again if one pass would be enough.
        """
        clip, limits = opened.clip, self._video
        again = again or opened.was_read
        opened.was_read = True
        if not _is_read_again(clip) and not again:
            if opened.reader is None:
                self._start_reading(opened)
            assert opened.reader is not None
            assert opened.frames is not None
            info = opened.reader.info
            shown = resolve_exemplars(clip.exemplars, info.width, info.height)
            return Source(info, opened.frames, opened.reader, exemplars=shown)

        fps = clip.fps or limits.fps
        frames = ClipFrames(opened.path, start_s=clip.start_s, end_s=clip.end_s, fps=fps, limits=limits)
        prompts = resolve_prompts(clip.visual_prompts, frames.width, frames.height, frames.frame_at, self._storage)
        shown = resolve_exemplars(clip.exemplars, frames.width, frames.height, frames.frame_at)
        return Source(frames.info, frames if prompts or again else frames.read(), frames, prompts, shown)

    def _start_reading(self, opened: Opened) -> None:
        """Opens the reader and waits for the first frame; it decodes on in its own thread."""
        clip = opened.clip
        reader = VideoReader(
            opened.path,
            start_s=clip.start_s,
            end_s=clip.end_s,
            fps=clip.fps or self._video.fps,
            limits=self._video,
        )
        opened.resources.enter_context(reader)
        frames = iter(reader)
        first = next(frames)
        opened.reader, opened.frames = reader, itertools.chain([first], frames)


def _is_read_again(clip: Clip) -> bool:
    """Whether reading each frame once, in order, is not enough."""
    return bool(clip.visual_prompts) or any(each.time_s is not None for each in clip.exemplars)


def _close_opened(future: Future[Opened]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()
