"""Cuts the sound of a source to a range and writes it into an output container."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video._epochs import Epochs, epochs_of
from sam3ray.video._opened import VideoSource, folder_of, name_of
from sam3ray.video._source import open_container, packets_of
from sam3ray.video._stamps import counts_only_frames

_log = logging.getLogger(__name__)
# a packet has 1024 samples: at low rates, the last one would be longer than the pictures
_RATES = (48000, 44100, 32000)
_FORMAT, _LAYOUT, _CHANNELS = "fltp", "stereo", 2
_SLACK_S = 0.05  # stamps vary by a unit, in some containers by a packet: such samples count as contiguous
_LEAD_S = 5.0  # decoded before a range: codecs depend on less than a second
_SILENCE_SAMPLES = 4096  # samples read at a time
_FILES_FAULT = (Reason.UNREADABLE_VIDEO, Reason.NO_VIDEO_STREAM, Reason.OVER_LIMITS)
_DAMAGE = (av.error.FFmpegError, ClipError, ValueError)


class AudioTrack:
    """Encodes a source's sound as stereo AAC, each sample at its time on the video's growing clock.

    If the source's sound begins late or pauses, silence is inserted. Damaged sound ends early, with a line in the log,
    and never fails the video.

    Args:
        output: gets an audio stream if the source has sound (`self.exists`).
        source: a media file.
        start_s, end_s: range in seconds from the start of the source's video, or of its sound if it has no video.
    """

    def __init__(self, output: OutputContainer, source: VideoSource, start_s: float, end_s: float | None) -> None:
        self._output = output
        self._name = name_of(source)
        self._open = ExitStack()
        self._packets: Iterator[Packet] = iter(())
        self._rate = _RATES[0]
        self._encoded = 0  # samples
        self._length: int | None = None
        self.exists = False
        if folder_of(source) is not None:
            return
        try:
            container = self._open.enter_context(open_container(source, VideoConfig()))
            stream = container.streams.best("audio")
            if not isinstance(stream, AudioStream) or stream.codec_context is None or not stream.time_base:
                return
            self._rate = _output_rate(stream.codec_context.sample_rate)
            self._length = None if end_s is None else max(0, round((end_s - start_s) * self._rate))
            epochs = epochs_of(source, container, stream)
            begin_s = epochs.stamp_s(start_s)
            if begin_s is not None and start_s > _LEAD_S and not counts_only_frames(container):
                container, stream = self._opened_near(source, begin_s - _LEAD_S) or (container, stream)
            target = output.add_stream("aac", rate=self._rate, layout=_LAYOUT, format=_FORMAT)
            self._packets = self._encode(_placed(container, stream, epochs, start_s, self._rate), target)
            self.exists = True
        except _DAMAGE as error:
            _check_damage(error)
            _log.warning("%s: its sound is dropped: %s", self._name, error)

    def _opened_near(self, source: VideoSource, stamp_s: float) -> tuple[InputContainer, AudioStream] | None:
        """Reopens the source shortly before the range; None if seeking there fails."""
        container = self._open.enter_context(open_container(source, VideoConfig()))
        stream = container.streams.best("audio")
        if not isinstance(stream, AudioStream) or not stream.time_base:
            return None
        try:
            container.seek(round(Fraction(stamp_s) / stream.time_base), stream=stream)
            first = next((p.pts for p in packets_of(container, stream) if p.size), None)
            if first is None or float(first * stream.time_base) > stamp_s:
                return None
            container.seek(round(Fraction(stamp_s) / stream.time_base), stream=stream)
        except av.error.FFmpegError:
            return None
        return container, stream

    def write_until(self, seconds: float) -> None:
        """Mux the sound up to a time in the output."""
        while self._encoded <= seconds * self._rate and self._mux():
            pass

    def finish(self, seconds: float) -> None:
        """Mux the rest of the sound, up to the end of the output."""
        length = round(seconds * self._rate)
        self._length = length if self._length is None else min(length, self._length)
        while self._mux():
            pass

    def close(self) -> None:
        self._open.close()

    def _mux(self) -> bool:
        try:
            packet = next(self._packets, None)
        except _DAMAGE as error:
            _check_damage(error)
            _log.warning("%s: its sound ends at %.2f s: %s", self._name, self._encoded / self._rate, error)
            packet = None
        if packet is not None:
            self._output.mux(packet)
        return packet is not None

    def _encode(self, blocks: Iterator[np.ndarray], target: AudioStream) -> Iterator[Packet]:
        for block in blocks:
            if self._length is not None:
                block = block[:, : max(0, self._length - self._encoded)]
            if block.shape[1] == 0:
                break
            frame = AudioFrame.from_ndarray(np.ascontiguousarray(block), format=_FORMAT, layout=_LAYOUT)
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._encoded, Fraction(1, self._rate)
            self._encoded += block.shape[1]
            yield from target.encode(frame)
        if self._encoded:
            yield from target.encode(None)


def _check_damage(error: Exception) -> None:
    """Raises errors that the file did not cause: a failing store, or a replaced file."""
    if isinstance(error, ClipError) and error.reason not in _FILES_FAULT:
        raise error


def _output_rate(rate: int) -> int:
    if rate in _RATES:
        return rate
    return 44100 if rate and 44100 % rate == 0 else 48000


def _placed(
    container: InputContainer, stream: AudioStream, epochs: Epochs, start_s: float, rate: int
) -> Iterator[np.ndarray]:
    """Samples as float32 (channels, n) at the output's rate, without gaps, from the beginning of the range."""
    convert = _Converter(rate)
    # AVI has no pauses, and libav's stamps of its sound are often wrong
    stamps_count = not counts_only_frames(container)
    epoch = last_epoch = 0
    filled: float | None = None  # end of what was read so far, in samples of the range
    for frame, byte in _decoded(container, stream):
        length = frame.samples * rate / frame.sample_rate
        at = filled or 0.0
        if frame.pts is not None and frame.time_base is not None and (filled is None or stamps_count):
            stamp_s = float(frame.pts * frame.time_base)
            expected_s = start_s + at / rate if filled is not None else 0.0
            time_s, epoch = epochs.time_s(stamp_s, byte, expected_s)
            at = (time_s - start_s) * rate
        unwanted = 0.0  # samples to drop at the beginning of this frame
        if filled is None or epoch != last_epoch or abs(at - filled) > _SLACK_S * rate:
            yield from convert(None)
            if filled is None:
                filled = min(at, 0.0)
            if at > filled:
                yield from _silence(round(at) - max(0, round(filled)))
                filled = at
            unwanted = min(filled - at, length)
        last_epoch = epoch if unwanted < length else -1  # dropped as a whole: place the next frame, too
        before_range = min(max(0.0, -filled), length - unwanted)
        filled += length - unwanted
        unwanted += before_range
        if unwanted < length:
            left = round(unwanted)
            for block in convert(frame):
                if left < block.shape[1]:
                    yield block[:, left:]
                left = max(0, left - block.shape[1])
    yield from convert(None)


def _decoded(container: InputContainer, stream: AudioStream) -> Iterator[tuple[AudioFrame, int | None]]:
    """Frames of sound, each with the position of its packet in the file."""
    for packet in packets_of(container, stream):
        for frame in stream.codec_context.decode(packet if packet.size else None):
            yield frame, packet.pos
        if packet.size == 0:
            return


def _silence(samples: int) -> Iterator[np.ndarray]:
    for begin in range(0, samples, _SILENCE_SAMPLES):
        yield np.zeros((_CHANNELS, min(_SILENCE_SAMPLES, samples - begin)), np.float32)


class _Converter:
    """Converts frames of any sound format to float32 blocks (channels, n) at one rate; None flushes the rest."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._kind: tuple[str, str, int] | None = None
        self._resampler: AudioResampler | None = None

    def __call__(self, frame: AudioFrame | None) -> Iterator[np.ndarray]:
        kind = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is not None and kind != self._kind:
            yield from self._blocks(self._resampler, None)
            self._resampler = None
        if frame is None:
            return
        if self._resampler is None:
            self._kind, self._resampler = kind, AudioResampler(_FORMAT, _LAYOUT, self._rate)
        frame.pts = None  # we place samples ourselves; a filter would use the stamps
        yield from self._blocks(self._resampler, frame)

    @staticmethod
    def _blocks(resampler: AudioResampler, frame: AudioFrame | None) -> Iterator[np.ndarray]:
        for converted in resampler.resample(frame):
            if converted is not None:
                yield converted.to_ndarray()
