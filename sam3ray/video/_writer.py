"""Encodes H.264 video that browsers play."""

from __future__ import annotations

import os
from fractions import Fraction
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from sam3ray.video._audio import AudioTrack
from sam3ray.video._opened import VideoSource
from sam3ray.video._unnamed import UnnamedFile

_GROUP_S = 2  # between key frames at most, for seeking in a browser
_RATES = (Fraction(1, 10), Fraction(240))  # damaged headers may state a frame per day or a billion per second
_UNITS = (Fraction(1, 1_000_000), Fraction(1))  # clocks that the encoder and MP4 support


class VideoWriter:
    """Writes an MP4 file: H.264, yuv420p, BT.709 in limited range, moov first; each `write` adds a frame at its time.

    Odd sizes are padded by repeating the last row or column. There are no B-frames, so decoding and presentation
    times are the same, and variable frame rates and the duration are exact.

    `close` gives the complete file its name, replacing an existing one. An exception in the `with` block, or the death
    of the process, leaves nothing (`sam3ray.video._unnamed`).

    Args:
        path: local file to create or replace.
        width, height: size of the images in pixels.
        time_base: seconds per unit of the `pts` given to `write`.
        fps: usual frame rate, 0.1 to 240: determines the duration of the last frame and the rate control.
        pixel_aspect: width of a pixel divided by its height; players stretch the pictures accordingly.
        audio_from: a media file whose sound, if any, is added as AAC. Damaged sound ends early and does not fail the
            video.
        audio_start_s, audio_end_s: range of the sound; the video's first frame is at `audio_start_s`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        time_base: Fraction,
        fps: Fraction,
        *,
        pixel_aspect: Fraction = Fraction(1),
        audio_from: VideoSource | None = None,
        audio_start_s: float = 0.0,
        audio_end_s: float | None = None,
    ) -> None:
        self._file = UnnamedFile(path)
        self._size = (width, height)
        self._first_pts: int | None = None
        self._last_pts = -1
        self._end = 0
        fps = min(max(fps, _RATES[0]), _RATES[1])
        self._time_base = time_base
        self._unit = time_base if _UNITS[0] <= time_base <= _UNITS[1] else Fraction(1, 90_000)
        self._usual_step = max(1, round(1 / (fps * self._unit)))
        self._to_yuv = VideoReformatter()
        try:
            self._container = av.open(self._file.writable, "w", format="mp4", options={"movflags": "+faststart"})
        except BaseException:
            self._file.discard()
            raise
        try:
            self._stream = self._container.add_stream(
                "libx264", rate=fps.limit_denominator(1001), options={"preset": "veryfast", "crf": "21", "bf": "0"}
            )
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            self._stream.pix_fmt = "yuv420p"
            codec = self._stream.codec_context
            codec.time_base = self._stream.time_base = self._unit
            codec.sample_aspect_ratio = pixel_aspect.limit_denominator(255)
            codec.gop_size = max(1, round(fps * _GROUP_S))
            codec.thread_count = 2
            codec.color_range = ColorRange.MPEG
            codec.colorspace = Colorspace.ITU709
            codec.color_trc = ColorTrc.BT709
            codec.color_primaries = ColorPrimaries.BT709
            self._audio = None
            if audio_from is not None:
                self._audio = AudioTrack(self._container, audio_from, audio_start_s, audio_end_s)
        except BaseException:
            self._discard()
            raise

    def write(self, image: np.ndarray, pts: int) -> None:
        """Add a frame.

        Args:
            image: uint8 RGB (height, width, 3).
            pts: time in `time_base` units; the first frame's becomes 0. If it does not increase, it is raised by one
                unit.
        """
        width, height = self._size
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise ValueError(f"a frame must be uint8 ({height}, {width}, 3), got {image.dtype} {image.shape}")
        if width % 2 or height % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._first_pts is None:
            self._first_pts = pts
        pts = max(round((pts - self._first_pts) * (self._time_base / self._unit)), self._last_pts + 1)
        self._last_pts = pts
        if self._audio is not None:
            self._audio.write_until(float(pts * self._unit))
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = self._to_yuv.reformat(
            rgb, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1
        )
        frame.pts, frame.time_base = pts, self._unit
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def show_until(self, pts: int) -> None:
        """Show the last frame until this time (`time_base` units, as in `write`) instead of for one usual step."""
        if self._first_pts is not None:
            self._end = round((pts - self._first_pts) * (self._time_base / self._unit))

    def close(self) -> None:
        """Finish the file. Without any frame, no file is left."""
        if self._first_pts is None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException:
            self._discard()
            raise
        self._file.publish()

    def _finish(self) -> None:
        end = self._end if self._end > self._last_pts else self._last_pts + self._usual_step
        if self._audio is not None:
            self._audio.finish(float(end * self._unit))
        packets = self._stream.encode(None)
        if packets:
            packets[-1].duration = end - self._last_pts
        for packet in packets:
            self._container.mux(packet)
        if self._audio is not None:
            self._audio.close()
        self._container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._discard()

    def _discard(self) -> None:
        try:
            self._container.close()
        except av.error.FFmpegError:
            pass  # removed in any case
        self._file.discard()
