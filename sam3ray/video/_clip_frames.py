"""A clip whose frames can be read repeatedly and from the middle."""

from __future__ import annotations

import functools
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video._ahead import Ahead, FrameGenerator, Progress, queue_capacity
from sam3ray.video._anchor import Anchor, AnchorLog
from sam3ray.video._decode import DecodedIndex, RgbConverter, decode
from sam3ray.video._folder import folder_frame, list_frames
from sam3ray.video._frame import ClockKind, Frame, FrameStamp, VideoInfo
from sam3ray.video._index import read_index
from sam3ray.video._movie import needs_anchors
from sam3ray.video._opened import ByRanges, VideoSource, folder_of, name_of
from sam3ray.video._reader import VideoReader, check_length
from sam3ray.video._sampling import Sampler


@dataclass(frozen=True, eq=False)
class _Positions:
    """Index and times of every frame of the clip: 24 bytes each."""

    indices: Sequence[int]
    pts: Sequence[int]
    times: Sequence[float]


class _AnchorLost(Exception):
    """The file's times differ from those when the anchor was made."""


class ClipFrames:
    """The sampled frames of a range of a video. They can be read any number of times, even concurrently.

    Positions count the frames of the clip from 0; `Frame.index` counts in the source. Reading from the middle, or
    finding the frame at a time, needs an index of the file (`sam3ray.video._index`). If the file has none, the clip is
    decoded once, without converting its frames, to learn where they are.

    The arguments, and `info`, `clock` and `frame_names`, are the same as for `VideoReader`.

    Attributes:
        looked: called for each frame whose position is learned.
        needs_anchors: whether reading from the middle requires an anchor.
        anchors: key frames passed by the latest reader.
        anchor: returns an anchor of an earlier reading, perhaps on another node: with it, a file without a table of its
            frames can be read from the middle.

    Raises:
        ClipError: as `VideoReader`.
    """

    def __init__(
        self,
        path: VideoSource,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        fps: float | None = None,
        limits: VideoConfig | None = None,
    ) -> None:
        self._path = path
        self._folder = folder_of(path)
        self._name = name_of(path)
        self._start_s, self._end_s, self._fps = start_s, end_s, fps
        self._limits = limits or VideoConfig()
        self._known: _Positions | None = None
        self.clock: ClockKind = "folder_fps" if self._folder is not None else "container"
        self.frame_names: dict[int, str] = {}
        self.needs_anchors = needs_anchors(path)
        self.anchors = AnchorLog(self._limits.queue_frames)
        self.anchor: Callable[[], Anchor | None] = lambda: None
        self.looked: Callable[[], None] = lambda: None
        self.info: VideoInfo = self._reader().info

    @property
    def height(self) -> int:
        return self.info.height

    @property
    def width(self) -> int:
        return self.info.width

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        """Frames at the positions start..stop-1 (None: to the end), in order, decoded ahead in a thread."""
        if start == 0:
            with self._reader() as reader:
                reader.frame_names = self.frame_names
                frames = iter(reader)
                for frame in islice(frames, stop):
                    self.anchors = reader.anchors
                    self._note(reader.clock)
                    yield frame
            return
        anchor = self.anchor() if stop is None and self.needs_anchors and not self._is_indexed else None
        if anchor is not None and anchor.position <= start and anchor.taken:
            given = start
            try:
                for frame in self._ahead(functools.partial(self._after, anchor, start)):
                    yield frame
                    given += 1
            except _AnchorLost:
                assert given == start, "it is lost before the first frame, or not at all"
            else:
                return
        positions = self._positions()
        wanted = positions.indices[start:stop]
        if wanted:
            yield from self._ahead(functools.partial(self._chosen, wanted, positions.times[start]))

    @property
    def _is_indexed(self) -> bool:
        index = self._path.index if isinstance(self._path, ByRanges) else None
        return index is not None and index.reaches(self._end_s)

    def _ahead(self, source: Callable[[Progress], FrameGenerator]) -> Iterator[Frame]:
        capacity = queue_capacity(self._limits.queue_frames, self.width, self.height)
        ahead = Ahead(source, capacity, self._limits.max_frame_decode_s, self._name)
        try:
            yield from ahead
        finally:
            ahead.stop()

    def _after(self, anchor: Anchor, start: int, progress: Progress) -> FrameGenerator:
        """The frames from a position on, the same as those of a reader that began with the clip's first frame.

        A sampler's choice depends only on the last frame that it took.
        """
        to_rgb, sampler = RgbConverter(), Sampler(self.info.time_base, self._start_s, self._end_s, self._fps)
        position = anchor.position
        if isinstance(self._path, ByRanges):
            self._path.expect_end(None)
        self.anchors = AnchorLog(self._limits.queue_frames, position)
        for coded in decode(self._path, self._limits, point=anchor.point(start), to_end=self._end_s is None):
            progress()
            if coded.index < anchor.taken[0]:
                continue
            if coded.index == anchor.taken[0] and coded.pts - coded.ticks != anchor.start:
                raise _AnchorLost
            self._note("rebuilt" if coded.is_rebuilt else "container")
            if sampler.is_after(coded.ticks):
                return
            check_length(coded.time_s, self._start_s, self._limits, self._name)
            is_taken = sampler.wants(coded.ticks)
            self.anchors.note(coded, is_taken=is_taken)
            if not is_taken:
                continue
            position += 1
            if position > self._limits.max_frames:
                raise ClipError(
                    Reason.OVER_LIMITS,
                    f"the clip has more than {self._limits.max_frames} frames (video.max_frames)",
                    self._name,
                )
            if position > start:
                yield Frame(coded.index, coded.pts, coded.time_s, to_rgb(coded.coded))

    def frame_at(self, time_s: float) -> int:
        """Source index of the frame shown at a time, in seconds from the video's start.

        A sampled clip may lack that frame: then the nearest one in time.
        """
        positions = self._positions()
        after = bisect_right(positions.times, time_s + 1e-9)
        at = max(0, after - 1)
        if self._fps is not None and after < len(positions.times):
            at = min(at, after, key=lambda i: abs(positions.times[i] - time_s))
        return positions.indices[at]

    @property
    def indices(self) -> Sequence[int]:
        """Source indices of the clip's frames, in order."""
        return self._positions().indices

    @property
    def times(self) -> Sequence[float]:
        """When each of these frames is shown, in seconds from the video's start."""
        return self._positions().times

    def stamps(self) -> Iterator[FrameStamp]:
        """The same as `read`, without images."""
        positions = self._positions()
        names = list_frames(self._folder, self._limits) if self._folder is not None else []
        for index, pts, time_s in zip(positions.indices, positions.pts, positions.times, strict=True):
            if names:
                self.frame_names[index] = names[index].name
            yield FrameStamp(index, pts, time_s)

    def _note(self, clock: ClockKind) -> None:
        if clock == "rebuilt":
            self.clock = clock

    def _reader(self) -> VideoReader:
        return VideoReader(self._path, start_s=self._start_s, end_s=self._end_s, fps=self._fps, limits=self._limits)

    def _positions(self) -> _Positions:
        if self._known is None:
            indices, pts, times = array("q"), array("q"), array("d")
            for stamp in self._selected():
                indices.append(stamp.index)
                pts.append(stamp.pts)
                times.append(stamp.time_s)
                self.looked()
                if len(indices) > self._limits.max_frames:
                    raise ClipError(
                        Reason.OVER_LIMITS,
                        f"the clip has more than {self._limits.max_frames} frames (video.max_frames)",
                        self._name,
                    )
            if not indices:
                raise ClipError(Reason.EMPTY_RANGE, "the range contains no frame", self._name)
            self._known = _Positions(indices, pts, times)
        return self._known

    def _selected(self) -> Iterator[FrameStamp]:
        if self._folder is not None:
            time_base = self.info.time_base
            sampler = Sampler(time_base, self._start_s, self._end_s, self._fps)
            for index in range(self.info.frame_count or 0):
                if sampler.wants(index):
                    yield FrameStamp(index, index, float(index * time_base))
            return
        sampler = Sampler(self.info.time_base, self._start_s, self._end_s, self._fps)
        found = read_index(self._path, self._limits, self._end_s)
        if found is not None:
            for index, pts in enumerate(found.pts):
                ticks = pts - found.start
                if sampler.is_after(ticks):
                    return
                time_s = float(ticks * found.time_base)
                check_length(time_s, self._start_s, self._limits, self._name)
                if sampler.wants(ticks):
                    yield FrameStamp(index, pts, time_s)
            return
        learned = DecodedIndex()
        for coded in decode(self._path, self._limits, start_s=self._start_s):
            self._note("rebuilt" if coded.is_rebuilt else "container")
            if sampler.is_after(coded.ticks):
                break
            learned.note(coded)
            check_length(coded.time_s, self._start_s, self._limits, self._name)
            if sampler.wants(coded.ticks):
                yield FrameStamp(coded.index, coded.pts, coded.time_s)
        if isinstance(self._path, ByRanges):
            self._path.learn(learned.index(self._end_s))

    def _chosen(self, wanted: Sequence[int], from_s: float, progress: Progress) -> FrameGenerator:
        """Frames with these ascending indices, the first of which is shown at `from_s`."""
        if self._folder is not None:
            paths = list_frames(self._folder, self._limits)
            for index in wanted:
                progress()
                self.frame_names[index] = paths[index].name
                yield folder_frame(paths[index], index, self.info, self._limits)
            return
        to_rgb = RgbConverter()
        at = 0
        if isinstance(self._path, ByRanges):
            found, last = self._path.index, wanted[-1]
            is_known = found is not None and last < len(found.pts)
            self._path.expect_end(found.byte_after(last) if found is not None and is_known else None)
        for coded in decode(self._path, self._limits, start_s=from_s):
            progress()
            self._note("rebuilt" if coded.is_rebuilt else "container")
            if coded.index == wanted[at]:
                yield Frame(coded.index, coded.pts, coded.time_s, to_rgb(coded.coded))
                at += 1
                if at == len(wanted):
                    return
