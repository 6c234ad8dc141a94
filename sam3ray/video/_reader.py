"""Frames of a clip, decoded ahead in a background thread."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video._ahead import Ahead, FrameGenerator, Progress, queue_capacity
from sam3ray.video._anchor import AnchorLog
from sam3ray.video._decode import RgbConverter, decode
from sam3ray.video._folder import folder_frame, list_frames
from sam3ray.video._frame import ClockKind, Frame, VideoInfo
from sam3ray.video._movie import needs_anchors
from sam3ray.video._opened import ByRanges, VideoSource, folder_of, name_of
from sam3ray.video._probe import check_duration, probe_guarded
from sam3ray.video._sampling import Sampler


class VideoReader:
    """The frames of a video file, or of a local folder of numbered frames, in display order.

    `[start_s, end_s)` and `fps` select frames by time (see `sam3ray.video._sampling` for the exact rule); `Frame.index`
    always counts in the whole source. A thread decodes at most `limits.queue_frames` frames ahead; nothing else of the
    video is in memory. Iterating again restarts from the beginning.

        with VideoReader("clip.mp4", fps=5, limits=VideoConfig()) as video:
            for frame in video:
                ...

    Attributes:
        info: facts about the video that are known before decoding.
        clock: source of the times of frames so far: "container"; "rebuilt" if its timestamps did not increase
            (`sam3ray.video._clock`); "folder_fps" for a folder.
        reached_s: time of the last frame in the range that was decoded, sampled or not.
        frame_names: file names of the frames of a folder so far, by index.
        needs_anchors: whether reading from the middle requires an anchor.
        anchors: key frames passed so far.

    Raises:
        ClipError: when opened: not_found, permission_denied, unreadable_video, no_video_stream, over_limits.
            While iterating also: empty_range if no frame is selected. See `sam3ray.video._decode` for what counts as
            damage.
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
        self._ahead: Ahead | None = None
        self.clock: ClockKind = "folder_fps" if self._folder is not None else "container"
        self.frame_names: dict[int, str] = {}
        self.needs_anchors = needs_anchors(path)
        self.anchors = AnchorLog(self._limits.queue_frames)
        self.reached_s = 0.0
        self.info: VideoInfo = probe_guarded(self._path, self._limits)
        check_duration(self.info, start_s, end_s, self._limits, self._name)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the decoding thread. Safe to call again."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def __iter__(self) -> Iterator[Frame]:
        self.close()
        self.anchors = AnchorLog(self._limits.queue_frames)
        capacity = queue_capacity(self._limits.queue_frames, self.info.width, self.info.height)
        ahead = Ahead(self._frames, capacity, self._limits.max_frame_decode_s, self._name)
        self._ahead = ahead
        try:
            yield from ahead
        finally:
            ahead.stop()
            if self._ahead is ahead:
                self._ahead = None

    def _frames(self, progress: Progress) -> FrameGenerator:
        source = self._folder_frames if self._folder is not None else self._file_frames
        selected = 0
        for frame in source(progress):
            selected += 1
            if selected > self._limits.max_frames:
                raise ClipError(
                    Reason.OVER_LIMITS,
                    f"the clip has more than {self._limits.max_frames} frames (video.max_frames)",
                    self._name,
                )
            yield frame
        if selected == 0:
            raise ClipError(Reason.EMPTY_RANGE, f"the range {self._range_text()} contains no frame", self._name)

    def _file_frames(self, progress: Progress) -> FrameGenerator:
        if isinstance(self._path, ByRanges):
            self._path.expect_end(None)
        to_rgb = RgbConverter()
        sampler: Sampler | None = None
        for coded in decode(self._path, self._limits, start_s=self._start_s, to_end=self._end_s is None):
            progress()
            if coded.is_rebuilt:
                self.clock = "rebuilt"
            if sampler is None:
                sampler = Sampler(coded.time_base, self._start_s, self._end_s, self._fps)
            if sampler.is_after(coded.ticks):
                return
            check_length(coded.time_s, self._start_s, self._limits, self._name)
            self.reached_s = coded.time_s
            is_taken = sampler.wants(coded.ticks)
            self.anchors.note(coded, is_taken=is_taken)
            if is_taken:
                yield Frame(coded.index, coded.pts, coded.time_s, to_rgb(coded.coded))

    def _folder_frames(self, progress: Progress) -> FrameGenerator:
        assert self._folder is not None
        sampler = Sampler(self.info.time_base, self._start_s, self._end_s, self._fps)
        for index, path in enumerate(list_frames(self._folder, self._limits)):
            progress()
            if sampler.is_after(index):
                return
            self.reached_s = float(index * self.info.time_base)
            if sampler.wants(index):
                self.frame_names[index] = path.name
                yield folder_frame(path, index, self.info, self._limits)

    def _range_text(self) -> str:
        end = "the end" if self._end_s is None else f"{self._end_s:g} s"
        lasts = f"; the video lasts {self.info.duration_s:g} s" if self.info.duration_s is not None else ""
        return f"{self._start_s or 0:g} s to {end}{lasts}"


def check_length(time_s: float, start_s: float | None, limits: VideoConfig, where: str) -> None:
    """Raises ClipError (over_limits) if a frame is too far from the beginning of its clip."""
    if time_s - (start_s or 0.0) > limits.max_duration_s:
        raise ClipError(
            Reason.OVER_LIMITS, f"the clip lasts more than {limits.max_duration_s:g} s (video.max_duration_s)", where
        )
