"""The sound of rendered videos: each sample at its time, whatever the source's codec and container."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sam3ray.config import RenderConfig
from sam3ray.manifest import Clip
from sam3ray.rendering import render_clip
from sam3ray.video import VideoWriter
from tests.video.media import picture, set_display_matrix, write_video

SECONDS = 2.4
BEEPS = (0.4, 1.3)  # a tenth of a second each
LATE_BEEPS = (14.8, 15.7, 17.2)


def beeps(rate: int, seconds: float, offset_s: float = 0.0) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate + offset_s
    loud = np.zeros(len(time))
    for at in BEEPS + LATE_BEEPS:
        loud[(time >= at) & (time < at + 0.1)] = 1
    return (loud * np.sin(time * 2 * np.pi * 1000) * 15000).astype(np.int16)


def write(
    path: Path,
    codec: str,
    rate: int = 48000,
    *,
    video: str | None = "libx264",
    muxer: str | None = None,
    sound: tuple[float, float] = (0.0, SECONDS),
    seconds: float = SECONDS,
) -> Path:
    """Pictures with a beep at certain times; of the sound only the part from `sound[0]` to `sound[1]`."""
    with av.open(str(path), "w", format=muxer) as out:
        packets = []
        if video is not None:
            pictures = out.add_stream(video, rate=25, options={"g": "10"})
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        audio = out.add_stream(codec, rate=rate, layout="stereo", options={"strict": "-2"}, bit_rate=128_000)
        if video is not None:
            for i in range(round(seconds * 25)):
                frame = av.VideoFrame.from_ndarray(picture(i, 64, 48), format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = i, Fraction(1, 25)
                packets += pictures.encode(frame)
            packets += pictures.encode(None)
        begin = round(sound[0] * rate)
        samples = beeps(rate, sound[1] - sound[0], sound[0])
        for at in range(0, len(samples), 1024):
            block = np.ascontiguousarray(np.repeat(samples[at : at + 1024], 2)[None])
            piece = av.AudioFrame.from_ndarray(block, format="s16", layout="stereo")
            piece.sample_rate, piece.pts, piece.time_base = rate, begin + at, Fraction(1, rate)
            packets += audio.encode(piece)
        packets += audio.encode(None)
        for packet in sorted(packets, key=lambda p: float((p.dts if p.dts is not None else p.pts) * p.time_base)):
            out.mux(packet)
    return path


def heard(path: Path) -> tuple[list[float], float]:
    """When beeps begin, and how long the sound lasts."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
        rate = frames[0].sample_rate
        assert (container.streams.audio[0].codec_context.name, frames[0].pts) == ("aac", 0)
    samples = np.abs(np.concatenate([f.to_ndarray()[0] for f in frames]))
    loud = np.flatnonzero(samples > 0.2)
    begins = loud[np.flatnonzero(np.diff(loud, prepend=-rate) > rate // 20)] / rate
    return [round(float(at), 3) for at in begins], len(samples) / rate


def rendered(source: Path, **clip: float) -> tuple[list[float], float]:
    out = source.parent / "out.mp4"
    render_clip(source, [], out, Clip("c", str(source), **clip))  # type: ignore[arg-type]
    return heard(out)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "video"),
    [
        ("a.mp4", "aac", 48000, "libx264"),
        ("a.mp4", "libmp3lame", 44100, "libx264"),
        ("a.mov", "alac", 44100, "libx264"),
        ("b.mov", "pcm_s16le", 22050, "libx264"),
        ("a.mkv", "aac", 44100, "libx264"),
        ("b.mkv", "flac", 44100, "libx264"),
        ("c.mkv", "libopus", 48000, "libx264"),
        ("d.mkv", "ac3", 48000, "libx264"),
        ("a.webm", "libopus", 48000, "libvpx"),
        ("b.webm", "vorbis", 44100, "libvpx"),
        ("a.ts", "aac", 48000, "libx264"),
        ("b.ts", "libopus", 48000, "libx264"),
        ("c.ts", "mp2", 48000, "libx264"),
        ("a.flv", "aac", 44100, "libx264"),
        ("b.flv", "libmp3lame", 44100, "libx264"),
        ("a.mpg", "mp2", 44100, "mpeg2video"),
        ("a.avi", "pcm_s16le", 44100, "mpeg4"),
        ("b.avi", "eac3", 48000, "mpeg4"),
        ("c.avi", "flac", 48000, "mpeg4"),
        ("a.wmv", "wmav2", 44100, "wmv2"),
        ("a.mp4", "aac", 8000, "libx264"),
    ],
)
def test_a_beep_stays_at_its_time(tmp_path: Path, name: str, codec: str, rate: int, video: str) -> None:
    source = write(tmp_path / name, codec, rate, video=video)
    times, seconds = rendered(source)
    assert times == pytest.approx(BEEPS, abs=0.03)
    assert seconds == pytest.approx(SECONDS, abs=0.04)
    times, seconds = rendered(source, start_s=1.0, end_s=2.0)
    assert times == pytest.approx([0.3], abs=0.03)
    assert seconds == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize(
    ("name", "codec", "video"),
    [
        ("a.mp4", "aac", "libx264"),
        ("a.mkv", "libopus", "libx264"),
        ("a.webm", "vorbis", "libvpx"),
        ("a.ts", "mp2", "libx264"),
        ("a.flv", "libmp3lame", "libx264"),
        ("a.avi", "pcm_s16le", "mpeg4"),
    ],
)
def test_a_range_deep_in_a_video_has_its_own_sound(tmp_path: Path, name: str, codec: str, video: str) -> None:
    rate = 44100 if codec != "libopus" else 48000
    write(tmp_path / name, codec, rate, video=video, seconds=20.0, sound=(0.0, 20.0))
    times, seconds = rendered(tmp_path / name, start_s=14.0, end_s=18.0)
    assert times == pytest.approx([at - 14.0 for at in LATE_BEEPS], abs=0.03)
    assert seconds == pytest.approx(4.0, abs=0.04)


@pytest.mark.parametrize(("name", "codec"), [("a.ogg", "vorbis"), ("b.ogg", "libopus"), ("c.ogg", "flac")])
def test_sound_alone_can_be_taken_along(tmp_path: Path, name: str, codec: str) -> None:
    source = write(tmp_path / name, codec, video=None, muxer="ogg")
    with VideoWriter(tmp_path / "out.mp4", 64, 48, Fraction(1, 25), Fraction(25), audio_from=source) as writer:
        for i in range(60):
            writer.write(picture(i, 64, 48), i)
    assert heard(tmp_path / "out.mp4")[0] == pytest.approx(BEEPS, abs=0.03)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_sound_that_begins_late_or_pauses_leaves_silence(tmp_path: Path, codec: str) -> None:
    source = write(tmp_path / "a.mkv", codec, sound=(1.0, SECONDS))
    assert rendered(source)[0] == pytest.approx([1.3], abs=0.03)
    with av.open(str(write(tmp_path / "b.mkv", codec))) as whole, av.open(str(tmp_path / "gap.mkv"), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in whole.streams}
        for packet in whole.demux():
            at = float((packet.pts or 0) * packet.time_base)
            if packet.size and not (packet.stream.type == "audio" and 0.6 < at < 1.1):
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
    times, seconds = rendered(tmp_path / "gap.mkv")
    assert times == pytest.approx(BEEPS, abs=0.03)
    assert seconds == pytest.approx(SECONDS, abs=0.04)


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "aac"), ("b.ts", "mp2"), ("a.mkv", "libopus")])
def test_sound_of_joined_files_goes_with_its_pictures(tmp_path: Path, name: str, codec: str) -> None:
    first = write(tmp_path / f"1_{name}", codec, seconds=2.0, sound=(0.0, 1.8))
    second = write(tmp_path / f"2_{name}", codec)
    path = tmp_path / name
    path.write_bytes(first.read_bytes() + second.read_bytes())
    times, seconds = rendered(path)
    assert times == pytest.approx([0.4, 1.3, 2.4, 3.3], abs=0.03)
    assert seconds == pytest.approx(4.4, abs=0.05)
    assert rendered(path, start_s=3.0, end_s=4.0)[0] == pytest.approx([0.3], abs=0.05)


@pytest.mark.parametrize(("rotated", "expected"), [(False, Fraction(4, 3)), (True, Fraction(3, 4))])
def test_pixels_that_are_not_square_keep_their_shape(tmp_path: Path, rotated: bool, expected: Fraction) -> None:
    plain = write_video(tmp_path / "a.mp4", 5)
    source = tmp_path / "wide.mp4"
    with av.open(str(plain)) as original, av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for frame in original.decode(video=0):
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    if rotated:
        set_display_matrix(source, "clockwise")
    for config in (RenderConfig(), RenderConfig(max_height=32)):
        render_clip(source, [], tmp_path / "out.mp4", Clip("c", str(source)), config)
        with av.open(str(tmp_path / "out.mp4")) as container:
            assert container.streams.video[0].sample_aspect_ratio == expected
