"""Reads a run's frames one at a time: their indices, objects and pictures."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.guard.redact import redact
from sam3ray.revisions import ClipOperation, Edits
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import read_frames
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.clip import Clip
from sam3ray.video import Frame, VideoCache, VideoReader

_NEAR_S = 4.0  # a frame that follows the last one this soon is reached by decoding instead of a seek
_BEFORE_S = 0.001  # times are rounded, so begin a little early
_CLIPS_HELD = 4  # clips whose rows are kept in memory

_inherited: list[object] = []
"""Objects of the process from which this one was forked. Freeing them would remove what that process still uses."""


@dataclass(frozen=True)
class Choice:
    """Which frames to read: of these clips (None: all finished ones), with an object of these phrases, every n-th."""

    clips: tuple[str, ...] | None = None
    prompts: tuple[str, ...] | None = None
    every: int = 1


class RunFrames:
    """The annotated frames of a run. Can be pickled: every process opens its own files.

    Args:
        revision: None for the model's own rows; "latest" or a number applies the corrections up to that revision.
        limits: limits on videos, and where to keep remote ones while reading (`video.cache_dir`, `cache_bytes`).

    Raises:
        UserError: the run, a finished clip or the revision does not exist.
    """

    def __init__(
        self,
        store: RunStore,
        storage_options: Mapping[str, Any],
        choice: Choice,
        revision: int | str | None,
        limits: VideoConfig | None,
    ) -> None:
        if choice.every < 1:
            raise UserError(f"every is {choice.every}; allowed: 1 and above")
        self.store = store
        self.choice = choice
        edits = Edits(store)
        self._operations: Mapping[str, Sequence[ClipOperation]] = edits.operations(edits.number_of(revision))
        done = store.done_ids()
        manifest = store.manifest()
        clips = [clip for clip in manifest if clip.clip_id in done]
        if choice.prompts is not None:
            known = {label for clip in manifest for label in clip.names} | set(edits.labels(self._operations))
            if unknown := [label for label in choice.prompts if label not in known]:
                named = ", ".join(sorted(known)[:20])
                raise UserError(f"{redact(store.output)} has no label {unknown[0]!r}; allowed: {named}")
        if choice.clips is not None:
            missing = sorted(set(choice.clips) - {clip.clip_id for clip in clips})
            if missing:
                raise UserError(f"{redact(store.output)} has no finished clip {missing[0]!r}")
            wanted = set(choice.clips)
            clips = [clip for clip in clips if clip.clip_id in wanted]
        self.clips: Sequence[Clip] = clips
        self._rows: OrderedDict[str, dict[int, FrameAnnotations]] = OrderedDict()
        self._pictures = Pictures(storage_options, limits or VideoConfig())

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": OrderedDict()}

    def frames(self, clip: Clip) -> dict[int, FrameAnnotations]:
        """The chosen frames' objects, by frame index. The rows of the last few clips stay in memory."""
        if clip.clip_id not in self._rows:
            while len(self._rows) >= _CLIPS_HELD:
                self._rows.popitem(last=False)
            self._rows[clip.clip_id] = {frame.frame_index: frame for frame in self._chosen(clip)}
        self._rows.move_to_end(clip.clip_id)
        return self._rows[clip.clip_id]

    def times(self, clip: Clip) -> tuple[np.ndarray, np.ndarray]:
        """Indices and times (seconds) of the chosen frames, ascending. Avoids reading masks where possible."""
        if clip.clip_id in self._operations or self.choice.prompts is not None:
            frames = self._chosen(clip)
            return np.array([f.frame_index for f in frames], np.int64), np.array([f.time_s for f in frames])
        table = self.store.read_clip(clip.clip_id, ["frame_index", "time_s"])
        index, first = np.unique(table["frame_index"].to_numpy(), return_index=True)
        keep = slice(None, None, self.choice.every)
        return index[keep].astype(np.int64), table["time_s"].to_numpy()[first][keep]

    def picture(self, clip: Clip, frame: FrameAnnotations) -> Frame:
        """The frame from the source video.

        Raises:
            ClipError: the video cannot be read, or has changed since it was annotated.
        """
        found = self._pictures.read(clip.uri, frame.frame_index, frame.time_s)
        frame.check_source(found.image.shape, clip.uri)
        return found

    def close(self) -> None:
        self._pictures.close()

    def _chosen(self, clip: Clip) -> list[FrameAnnotations]:
        operations = self._operations.get(clip.clip_id, ())
        found: Iterator[FrameAnnotations] | list[FrameAnnotations]
        if operations:
            found = Edits(self.store).clip(clip.clip_id, operations)
        else:
            found = read_frames(self.store.read_clip(clip.clip_id))
        if self.choice.prompts is not None:
            wanted = set(self.choice.prompts)
            kept = (replace(f, objects=tuple(o for o in f.objects if o.prompt in wanted)) for f in found)
            found = (frame for frame in kept if frame.objects)
        return list(found)[:: self.choice.every]


class Pictures:
    """Reads frames of videos by index. Keeps one video open, positioned after the last frame read.

    Can be pickled and forked: each process opens its own videos.
    """

    def __init__(self, storage_options: Mapping[str, Any], limits: VideoConfig) -> None:
        self._options, self._limits = dict(storage_options), limits
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._stack = ExitStack()
        self._uri: str | None = None
        self._frames: Iterator[Frame] | None = None
        self._last: Frame | None = None

    def _disown(self) -> None:
        """Runs in a forked process: keeps the parent's objects alive."""
        _inherited.append((self._stack, self._frames))
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"_options": self._options, "_limits": self._limits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._forget()

    def close(self) -> None:
        """Stops decoding, and removes cached copies of remote videos."""
        if self._pid != os.getpid():
            self._disown()
        self._stack.close()
        self._forget()

    def read(self, uri: str, index: int, time_s: float) -> Frame:
        """Raises ClipError if the video cannot be read, or has no such frame at that time."""
        if self._pid != os.getpid():
            self._disown()
        last = self._last
        if uri == self._uri and last is not None:
            if last.index == index:
                return last
            if last.index < index and time_s - last.time_s < _NEAR_S:
                found = self._next(index)
                if found is not None:
                    return found
        self._seek(uri, time_s)
        found = self._next(index)
        if found is None:
            raise ClipError(Reason.UNREADABLE_VIDEO, f"there is no frame {index} at {time_s:.3f} s", redact(uri))
        return found

    def _seek(self, uri: str, time_s: float) -> None:
        self.close()
        limits = self._limits
        cache = VideoCache(limits.cache_dir, limits.cache_bytes, self._options, limits=limits)
        source = self._stack.enter_context(cache).open(uri)
        path = self._stack.enter_context(source)
        start_s = max(0.0, time_s - _BEFORE_S)
        video = self._stack.enter_context(VideoReader(path, start_s=start_s or None, limits=limits))
        self._uri, self._frames = uri, iter(video)

    def _next(self, index: int) -> Frame | None:
        """Decodes forward to this frame."""
        assert self._frames is not None
        for frame in self._frames:
            self._last = frame
            if frame.index >= index:
                return frame if frame.index == index else None
        return None
