"""A run as a value, to open, query and show in a notebook."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sam3ray.annotations import read_annotations
from sam3ray.config import RunSource, VideoConfig, run_place
from sam3ray.display import html
from sam3ray.failures import ClipError, Failure, JobStopped, UserError
from sam3ray.rendering import draw
from sam3ray.store import ClipSummary, RunStore, Status, read_status
from sam3ray.store.annotation_file import read_frames
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.video import VideoCache, VideoReader

if TYPE_CHECKING:
    import pyarrow.dataset

    from sam3ray.values.clip import Clip

_LOG = logging.getLogger(__name__)

STILLS = 6
_STILL_HEIGHT = 160
_MOST_BYTES = 64 * 2**20  # of a remote video that is fetched for one still
_MOST_SECONDS = 60.0  # into a clip, for one still, because everything before it is decoded
_BACKGROUND = 40


@dataclass(frozen=True, eq=False)
class Still:
    """One annotated frame of a run.

    Attributes:
        image: uint8 RGB, (height, width, 3), the annotations drawn on it.
        has_source: False if the masks are on a plain background, because the video could not be read, is too large to
            fetch for one frame, or has changed.
    """

    clip_id: str
    annotations: FrameAnnotations
    image: np.ndarray
    has_source: bool

    @property
    def caption(self) -> str:
        return f"{self.clip_id}, frame {self.annotations.frame_index}"

    def _repr_html_(self) -> str:
        return html.picture(self.image, self.caption)


class Run:
    """A run's output folder, opened for reading. Opening it reads nothing yet.

    Attributes:
        output: the folder, as a path or an address.
        storage: fsspec options to reach it.
    """

    def __init__(self, run: RunSource, storage_options: Mapping[str, Any] | None = None) -> None:
        """Args:
            run: the output folder, or the job's configuration: a YAML file, a dict or a `JobConfig`.
            storage_options: fsspec options; they override those of the configuration.

        Raises:
            UserError: it is none of these.
        """
        self.output, options = run_place(run, storage_options)
        self.storage: Mapping[str, Any] = options
        self._store = RunStore(self.output, options)

    def __repr__(self) -> str:
        return f"Run{repr(self._store)[len('RunStore') :]}"

    def status(self) -> Status:
        """The run's progress, read from storage alone. Raises UserError if there is no run."""
        return read_status(self.output, self.storage)

    def clips(self) -> list[ClipSummary]:
        """The outcome of each clip, in the manifest's order."""
        return list(self._store.summaries().values())

    def failures(self) -> list[Failure]:
        """The last failure record of each clip that has one."""
        return self._store.failures()

    def annotations(self, revision: int | str | None = None) -> pyarrow.dataset.Dataset:
        """See `sam3ray.read_annotations`."""
        return read_annotations(self.output, self.storage, revision=revision)

    def frames(self, clip_id: str) -> list[FrameAnnotations]:
        """The annotated frames of a finished clip, ascending, without frames that have no objects.

        Raises:
            UserError: the run has no such finished clip.
        """
        if clip_id not in self._store.done_ids():
            raise UserError(f"{self.output} has no finished clip {clip_id!r}")
        return list(read_frames(self._store.read_clip(clip_id)))

    def stills(self, count: int = STILLS) -> list[Still]:
        """One annotated frame from each of some finished clips, spread evenly over the manifest.

        Skips clips in which nothing was found. Remote videos are read only up to 64 MB.
        """
        done = self._store.done_ids()
        clips = [clip for clip in self._store.manifest() if clip.clip_id in done]
        found: list[Still] = []
        with ExitStack() as resources:
            cache = resources.enter_context(VideoCache(None, _MOST_BYTES, self.storage, limits=VideoConfig()))
            for clip in _spread(clips, count):
                frames = list(read_frames(self._store.read_clip(clip.clip_id)))
                early = [frame for frame in frames if frame.time_s <= frames[0].time_s + _MOST_SECONDS]
                if early:
                    found.append(_still(clip, early[len(early) // 2], cache))
        return found

    def _repr_html_(self) -> str:
        """For notebooks: the run's progress, and a strip of stills."""
        try:
            facts = html.facts("run", self.status().facts())
            stills = [(still.image, still.caption) for still in self.stills()]
        except (UserError, ClipError, JobStopped) as error:
            return html.facts("run", {"output": self._store.storage.shown(), "problem": error})
        return facts + html.strip(stills, _STILL_HEIGHT)


def _spread(clips: list[Clip], count: int) -> list[Clip]:
    """This many of the clips, evenly spread, including the first."""
    if len(clips) <= count:
        return clips
    return [clips[at * len(clips) // count] for at in range(count)]


def _still(clip: Clip, frame: FrameAnnotations, cache: VideoCache) -> Still:
    try:
        image = _source_image(clip, frame, cache)
    except (ClipError, UserError) as error:
        _LOG.info("no picture of clip %s: %s", clip.clip_id, error)
        image = None
    if image is None or image.shape[:2] != (frame.height, frame.width):
        plain = np.full((frame.height, frame.width, 3), _BACKGROUND, np.uint8)
        return Still(clip.clip_id, frame, draw(plain, frame), has_source=False)
    return Still(clip.clip_id, frame, draw(image, frame), has_source=True)


def _source_image(clip: Clip, frame: FrameAnnotations, cache: VideoCache) -> np.ndarray | None:
    with cache.open(clip.uri) as path, VideoReader(path, start_s=max(0.0, frame.time_s - 1.0)) as video:
        for each in video:
            if each.index >= frame.frame_index:
                return each.image if each.index == frame.frame_index else None
    return None
