"""The sound of a source, cut to a range and carried into an output container."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack

import av
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError
from sam3ray.video._source import open_container

_log = logging.getLogger(__name__)
_COPIED = frozenset({"aac"})  # what every browser plays in MP4; the rest is encoded again
_RATES = (48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)


class AudioTrack:
    """Copies AAC packets, or encodes what else there is as stereo AAC.

    Damage ends the sound early, with a line in the log, and never fails the video.

    Args:
        output: gets one more stream, if the source has sound (`self.exists`).
        source: a local media file.
        start_s, end_s: range in seconds from the start of the source's video, or of its sound where it has no video.
    """

    def __init__(
        self, output: OutputContainer, source: str | os.PathLike[str], start_s: float, end_s: float | None
    ) -> None:
        self._output = output
        self._name = os.path.basename(source)
        self._open = ExitStack()
        self._written_s = 0.0
        self._packets: Iterator[tuple[float, Packet]] = iter(())
        self.exists = False
        if os.path.isdir(source):
            return
        try:
            container = self._open.enter_context(open_container(source, VideoConfig()))
            stream = container.streams.best("audio")
            if not isinstance(stream, AudioStream) or stream.codec_context is None or not stream.time_base:
                return
            if stream.codec_context.name in _COPIED:
                target = output.add_stream_from_template(stream)
                self._packets = self._copied(container, stream, target, start_s, end_s)
            else:
                rate = next((r for r in _RATES if r <= stream.codec_context.sample_rate), 8000)
                target = output.add_stream("aac", rate=rate, layout="stereo", format="fltp")
                self._packets = self._encoded(container, stream, target, start_s, end_s)
            self.exists = True
        except (av.error.FFmpegError, ClipError, ValueError) as error:
            _log.warning("%s: its sound is left out: %s", self._name, error)

    def write_until(self, seconds: float) -> None:
        """Mux the sound up to a time in the output."""
        while self._written_s <= seconds:
            try:
                at, packet = next(self._packets)
            except StopIteration:
                self._written_s = float("inf")
                return
            except (av.error.FFmpegError, ValueError) as error:
                _log.warning("%s: its sound ends at %.2f s: %s", self._name, self._written_s, error)
                self._written_s = float("inf")
                return
            self._output.mux(packet)
            self._written_s = at

    def close(self) -> None:
        self._open.close()

    def _copied(
        self, container: InputContainer, stream: AudioStream, target: AudioStream, start_s: float, end_s: float | None
    ) -> Iterator[tuple[float, Packet]]:
        begin = _video_start_s(container) + start_s
        assert stream.time_base is not None
        shift = round(begin / stream.time_base)
        last: int | None = None
        for packet in container.demux(stream):
            if packet.size == 0 or packet.pts is None:
                continue
            at = float(packet.pts * stream.time_base) - begin
            if at < 0 or (last is not None and packet.pts - shift <= last):
                continue
            if end_s is not None and at >= end_s - start_s:
                return
            last = packet.pts - shift
            packet.pts = packet.dts = last
            packet.stream = target
            yield at, packet

    def _encoded(
        self, container: InputContainer, stream: AudioStream, target: AudioStream, start_s: float, end_s: float | None
    ) -> Iterator[tuple[float, Packet]]:
        begin = _video_start_s(container) + start_s
        rate = target.codec_context.sample_rate
        resampler = AudioResampler(format="fltp", layout="stereo", rate=rate)
        next_pts: int | None = None
        at = 0.0
        for frame in container.decode(stream):
            if frame.pts is None or frame.time_base is None:
                continue
            at = float(frame.pts * frame.time_base) - begin
            if at < 0:
                continue
            if end_s is not None and at >= end_s - start_s:
                break
            for piece in resampler.resample(frame):
                # Samples follow each other without gaps: small jumps in a source's timestamps would click.
                next_pts = round(at * rate) if next_pts is None else next_pts
                piece.pts = next_pts
                next_pts += piece.samples
                for packet in target.encode(piece):
                    yield at, packet
        for packet in target.encode(None):
            yield at, packet


def _video_start_s(container: InputContainer) -> float:
    for stream in (*container.streams.video, *container.streams.audio):
        if stream.start_time is not None and stream.time_base:
            return float(stream.start_time * stream.time_base)
    return 0.0
