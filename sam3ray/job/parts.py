"""An actor's work on a part of a long clip: decide how the clip is cut, process a window, link the windows.

Crash contract: see `sam3ray.store.cut_clip`. The last file of each part marks the part as done. If the process dies
before that, only this part is processed again.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow.parquet as pq

from sam3ray.config import JobConfig
from sam3ray.engine.header import StateError
from sam3ray.failures import ClipError, Reason
from sam3ray.files import is_local, local_path
from sam3ray.files.sighting import change
from sam3ray.job.clip_progress import Attempt, ClipProgress, StageClock
from sam3ray.job.graph import Cutting
from sam3ray.job.intake import Intake, Opened, Source
from sam3ray.job.mishaps import device_name
from sam3ray.job.result import ClipCut, PartDone, PartsLost
from sam3ray.job.seen import Seen
from sam3ray.job.sink import WriterThread
from sam3ray.job.sources import check_source
from sam3ray.job.window_rows import read_window
from sam3ray.planning import sequential_reason
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import AnnotationWriter, read_file_metadata
from sam3ray.store.cut_clip import CutClip, CutsNote, WindowLost, WindowMark
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.clip import Clip
from sam3ray.values.cutting import Cut
from sam3ray.values.versions import ENGINE_VERSION
from sam3ray.video import ClipFrames, Frame, local_sighting

if TYPE_CHECKING:
    from sam3ray.job.worker import Segments

_LOG = logging.getLogger(__name__)

# the keys of the model's description that must match
_BINDING = ("dtype", "device_kind", "rules", "thresholds", "image_size")


class Stitching(Protocol):
    """`sam3ray.stitching`, or the stitching of a custom segmenter."""

    def segment_window(
        self,
        segmenter: Any,
        frames: Any,
        height: int,
        width: int,
        prompts: Any,
        cut: Cut,
        *,
        ending: Path | None = None,
        exemplars: Any = (),
        progress: Callable[[], None] | None = None,
    ) -> Iterator[FrameAnnotations]: ...

    def link(
        self,
        segmenter: Any,
        windows: Any,
        height: int,
        width: int,
        prompts: Any,
        frame_at: Callable[[int], Frame],
        *,
        progress: Callable[[], None] | None = None,
    ) -> Any:
        """Links of the windows. The result's `dumps()` returns text that `sam3ray.stitching.Links.loads` reads."""
        ...


@dataclass(frozen=True)
class StoredRows:
    """The rows of a stored window, fetched when they are read and deleted afterwards.

    Attributes:
        seen: receives the facts that reading the video revealed.
    """

    clip: CutClip
    index: int
    mark: WindowMark
    folder: Path
    seen: list[Seen]

    def __iter__(self) -> Iterator[FrameAnnotations]:
        """Raises WindowLost if they are missing or damaged."""
        path = self.clip.fetch_rows(self.index, self.mark, self.folder)
        try:
            self.seen.append(Seen.of(facts_of(path)["clip"].get("seen", {})))
            yield from read_window(path)
        finally:
            path.unlink(missing_ok=True)


class StoredWindow:
    """A stored window for `Stitching.link`. The memories of its objects are fetched on demand.

    Attributes:
        fetched: local files with memories, by window; shared by all windows of the clip.
    """

    def __init__(self, clip: CutClip, cut: Cut, mark: WindowMark, folder: Path, fetched: dict[int, Path]) -> None:
        self.cut = cut
        self.frames = StoredRows(clip, cut.index, mark, folder, [])
        self.fetched = fetched
        self._clip, self._mark, self._folder = clip, mark, folder

    @property
    def ending(self) -> Path | None:
        """Raises WindowLost if it is missing or damaged."""
        path = self._clip.fetch_ending(self.cut.index, self._mark, self._folder)
        if path is not None:
            self.fetched[self.cut.index] = path
        return path


def facts_of(rows: Path) -> dict[str, Any]:
    """The metadata of a window's file: clip, model and software."""
    return read_file_metadata(pq.read_metadata(rows))


class PartWorker:
    """Processes parts of clips with one loaded model.

    Args:
        folder: for local files.
        facts: returns the metadata of a clip's file: clip, model and software.
    """

    def __init__(
        self,
        config: JobConfig,
        store: RunStore,
        segmenter: Segments,
        stitching: Stitching,
        intake: Intake,
        folder: Path,
        facts: Callable[[Opened, Source], dict[str, Mapping[str, Any]]],
    ) -> None:
        self._config = config
        self._store = store
        self._segmenter = segmenter
        self._stitching = stitching
        self._intake = intake
        self._folder = folder
        self._facts = facts

    # How a clip is cut

    def cut(self, opened: Opened, run_id: str, clock: StageClock, progress: ClipProgress) -> ClipCut | None:
        """How the clip is cut: as an earlier attempt decided, else by its number of frames; None if it is not cut.

        Windows of a different video, or made under different rules or versions, are removed.
        """
        clip = opened.clip
        if sequential_reason(clip, self._config) is not None:
            return None
        kept = CutClip(self._store.storage, clip.clip_id)
        fresh: CutsNote | None = None
        while True:
            try:
                found = kept.read_cuts()
            except ValueError as error:
                _LOG.warning("clip %s: its windows are not used: %s", clip.clip_id, error)
                kept.clear()
                found = None
            if found is not None:
                note = found[0]
                fresh = fresh or self._note(opened, run_id, note.num_frames)
                if problem := _difference(note, fresh):
                    _LOG.warning("clip %s: its windows are not used: %s", clip.clip_id, problem)
                    kept.clear()
                else:
                    kept.look()
                    cutting = Cutting(_shares(note), kept.done, kept.is_linked)
                    return ClipCut(clip.clip_id, note.num_frames, cutting)
            progress.stage = "index"
            with clock.time("index"):
                fresh = self._note(opened, run_id, self._count(opened, progress))
            if not fresh.cuts:
                return None
            kept.create_cuts(fresh)  # lost to another attempt, whose decision the next round reads

    def _count(self, opened: Opened, progress: ClipProgress) -> int:
        clip, limits = opened.clip, self._config.video
        fps = clip.fps or limits.fps
        frames = ClipFrames(opened.path, start_s=clip.start_s, end_s=clip.end_s, fps=fps, limits=limits)
        frames.looked = progress.tick
        return len(frames.indices)

    def _note(self, opened: Opened, run_id: str, num_frames: int) -> CutsNote:
        windows, info = self._config.windows, self._segmenter.model_info
        rules: Mapping[str, Any] = info.get("thresholds", {})
        every = int(rules.get("detect_every") or 1)
        facts = self._facts_of_software
        return CutsNote(
            run_id,
            opened.clip.clip_id,
            opened.source,
            num_frames,
            windows.frames,
            windows.overlap,
            int(rules.get("hotstart_delay") or 0) * every,
            math.lcm(int(rules.get("recondition_every_nth_frame") or 1), every),
            {**facts, **{name: info.get(name) for name in _BINDING}},
        )

    @property
    def _facts_of_software(self) -> dict[str, Any]:
        info = self._segmenter.model_info
        torch = str(info.get("torch", "")).partition("+")[0]
        return {"engine": ENGINE_VERSION, "torch": torch, "transformers": info.get("transformers", "")}

    # A window

    def window(
        self, clip: Clip, index: int, tried: Attempt, clock: StageClock, progress: ClipProgress
    ) -> PartDone | PartsLost:
        """Processes the window, unless it is stored: an attempt that was given up may have finished after all."""
        kept = CutClip(self._store.storage, clip.clip_id)
        note, digest = cuts_of(kept)
        cut = note.cuts[index]
        mark = kept.read_mark(index, digest)
        if mark is None:
            kept.look()
            if index in kept.done:
                kept.drop_mark(index)  # damaged, or of other cuts
            with contextlib.closing(self._intake.take(clip, clock, progress)) as opened:
                check_source(replace(clip, source=note.source), opened.source)
                self._make(opened, kept, digest, cut, cut.index == len(note.cuts) - 1, tried, clock, progress)
        return PartDone(clip.clip_id, cut.stop - cut.start, tried.seconds)

    def _make(
        self,
        opened: Opened,
        kept: CutClip,
        digest: str,
        cut: Cut,
        is_last: bool,
        tried: Attempt,
        clock: StageClock,
        progress: ClipProgress,
    ) -> None:
        clip = opened.clip
        with clock.time("decode"):
            source = self._intake.source(opened, again=True)
        video = source.video
        assert isinstance(video, ClipFrames), "what may be read from the middle"
        stem = f"{clip.clip_id[:100]}-w{cut.index}-{tried.attempt}"
        rows, ending = self._folder / f"{stem}.parquet", self._folder / f"{stem}.safetensors"
        facts = self._facts(opened, source)
        empty: list[tuple[int, int, float]] = []
        progress.stage = "segment"
        frames = video.read(cut.start, cut.end)
        if cut.reach > cut.until:  # further frames are read on demand
            frames = itertools.chain(frames, video.read(cut.end, cut.end + cut.reach - cut.until))
        try:
            with AnnotationWriter(rows, clip.clip_id, {**facts, "clip": {}}) as writer:
                found = self._stitching.segment_window(
                    self._segmenter,
                    clock.timed("decode", frames),
                    source.info.height,
                    source.info.width,
                    clip.prompts,
                    cut,
                    ending=None if is_last else ending,
                    exemplars=source.exemplars,
                    progress=progress.tick,
                )
                with WriterThread(writer) as sink:
                    for frame in found:
                        if not frame.objects:
                            empty.append((frame.frame_index, frame.pts, frame.time_s))
                        sink.put(frame)
                        progress.done += 1
                    sink.finish()
                written = writer.finish(
                    about=facts["clip"],
                    cut=asdict(cut),
                    falls=False,
                    height=source.info.height,
                    width=source.info.width,
                    empty=empty,
                    seen=source.facts,
                )
            if not cut.until - cut.start <= written.frames <= cut.reach - cut.start:
                raise ClipError(
                    Reason.UNREADABLE_VIDEO,
                    f"only {written.frames} frames could be read from frame {cut.start} of the clip on, but its index "
                    f"promises {cut.until - cut.start}",
                    clip.uri,
                )
            if is_local(clip.uri):  # if the file was replaced while it was read, the frames may come from both versions
                check_source(replace(clip, source=opened.source), local_sighting(Path(local_path(clip.uri))))
            progress.stage = "commit"
            mark = {
                "cuts": digest,
                "frames": cut.stop - cut.start,
                "objects": written.objects,
                "dropped": int(self._segmenter.stats.get("dropped_objects", 0)),
                "rung": tried.rung,
                "device": device_name(),
                "attempt": tried.attempt,
                "seconds": tried.seconds,
            }
            kept.create_window(cut.index, rows, None if is_last else ending, mark)
        finally:
            rows.unlink(missing_ok=True)
            ending.unlink(missing_ok=True)

    # Links

    def link(self, clip: Clip, tried: Attempt, clock: StageClock, progress: ClipProgress) -> PartDone | PartsLost:
        """Links the windows' objects, unless another attempt has done so."""
        kept = CutClip(self._store.storage, clip.clip_id)
        note, digest = cuts_of(kept)
        folder = self._folder / f"{clip.clip_id[:100]}-{tried.attempt}.link"
        folder.mkdir()
        fetched: dict[int, Path] = {}
        try:
            with contextlib.closing(self._intake.take(clip, clock, progress)) as opened:
                check_source(replace(clip, source=note.source), opened.source)
                marks = kept.marks(note, digest)
                if kept.read_links(digest, marks) is None:
                    kept.drop_links()
                    progress.stage = "link"
                    source = self._intake.source(opened, again=True)
                    video = source.video
                    assert isinstance(video, ClipFrames), "what may be read from the middle"
                    pairs = zip(note.cuts, marks, strict=True)
                    windows = [StoredWindow(kept, cut, mark, folder, fetched) for cut, mark in pairs]
                    links = self._stitching.link(
                        self._segmenter,
                        windows,
                        source.info.height,
                        source.info.width,
                        clip.prompts,
                        functools.partial(_frame_at, video),
                        progress=progress.tick,
                    )
                    kept.create_links(digest, marks, links.dumps())
        except WindowLost as lost:
            return forget_lost(kept, lost)
        except StateError as error:
            named = [index for index, path in fetched.items() if str(path) in str(error)]
            return forget_lost(kept, WindowLost(named or list(fetched), str(error)))
        finally:
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            folder.rmdir()
        return PartDone(clip.clip_id, 0, tried.seconds)


def _frame_at(video: ClipFrames, position: int) -> Frame:
    return next(video.read(position, position + 1))


def forget_lost(kept: CutClip, lost: WindowLost) -> PartsLost:
    """Removes what must be processed again."""
    _LOG.warning("clip %s: %s; processing it again", kept.clip_id, lost)
    kept.drop_links()
    for index in lost.windows:
        kept.drop_mark(index)
    return PartsLost(kept.clip_id, lost.windows, str(lost))


def cuts_of(kept: CutClip) -> tuple[CutsNote, str]:
    """Reads how the clip is cut. Raises ClipError with reason `storage`: the next run decides again."""
    where = f"windows/{kept.clip_id}/cuts.json"
    try:
        found = kept.read_cuts()
    except ValueError as error:
        raise ClipError(Reason.STORAGE, str(error), where) from None
    if found is None:
        raise ClipError(Reason.STORAGE, "cuts.json, which says how the clip is cut, has disappeared", where)
    return found


def _shares(note: CutsNote) -> tuple[float, ...]:
    return tuple((cut.end - cut.start) / note.num_frames for cut in note.cuts)


def _difference(kept: CutsNote, fresh: CutsNote) -> str:
    """Why windows made under one cannot be used for the other; empty if they can."""
    if how := change(kept.source, fresh.source):
        return f"the video has changed since ({how})"
    before, now = asdict(kept), asdict(fresh)
    names = [name for name in before if name != "source" and before[name] != now[name]]
    if not names:
        return ""
    if names[0] == "bound_to":
        before, now = before["bound_to"], now["bound_to"]
        names = [name for name in now if before.get(name) != now[name]] or ["bound_to"]
    return f"their {names[0]} was {before.get(names[0])!r:.80}, and is now {now.get(names[0])!r:.80}"
