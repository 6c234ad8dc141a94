"""Small media files made on the spot."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

MATRICES = {  # (a, b, c, d) of the display matrix, by what a player does to the coded picture
    "as_is": (1, 0, 0, 1),
    "clockwise": (0, 1, -1, 0),
    "upside_down": (-1, 0, 0, -1),
    "counterclockwise": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "flipped": (1, 0, 0, -1),
}


def picture(index: int, width: int, height: int) -> np.ndarray:
    """Smooth, different in each corner, and different for each index."""
    y, x = np.mgrid[:height, :width]
    red = 200 * x / max(1, width - 1) + 20
    green = 200 * y / max(1, height - 1) + 20
    blue = np.full((height, width), 30 + (index * 37) % 200)
    return np.stack([red, green, blue], -1).astype(np.uint8)


def write_video(
    path: Path,
    count: int = 20,
    size: tuple[int, int] = (64, 48),
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 1000),
    fps: int = 25,
    options: dict[str, str] | None = None,
    full_range: bool = False,
    matrix: int = 1,
    sound: str | None = None,
    muxer: str | None = None,
    images: Sequence[np.ndarray] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """A video of `count` frames with B-frames and a key frame every 10; `pts` in `time_base` units.

    `matrix` is 1 for BT.709, 5 for BT.601; `sound` the name of an audio codec, a tone as long as the video.
    """
    width, height = size
    pts = list(pts) if pts is not None else [round(i / fps / time_base) for i in range(count)]
    with av.open(str(path), "w", format=muxer, options=container_options or {}) as out:
        stream = out.add_stream(codec, rate=fps, options={"g": "10", "bf": "2", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = stream.time_base = time_base
        stream.codec_context.thread_count = 1
        stream.codec_context.color_range = 2 if full_range else 1
        stream.codec_context.colorspace = matrix
        audio = out.add_stream(sound, rate=44100, layout="mono") if sound else None
        for i in range(count):
            image = images[i] if images is not None else picture(i, width, height)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(
                format=pix_fmt, dst_colorspace=matrix, dst_color_range=2 if full_range else 1
            )
            frame.pts, frame.time_base = pts[i], time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if audio is not None:
            write_tone(out, audio, float((pts[-1] - pts[0]) * time_base) + 1 / fps)
    return path


def remux(
    source: Path,
    target: Path,
    stamps: Callable[[int, int], tuple[int | None, int | None]] | None,
    *,
    time_base: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """The packets of a video in another container.

    `stamps` gives (pts, dts) in `time_base` units, from a packet's place in decoding order and its own pts; None keeps
    what there is.
    """
    with av.open(str(source)) as original, av.open(str(target), "w", options=options or {}) as out:
        stream = out.add_stream_from_template(original.streams.video[0])
        number = 0
        for packet in original.demux(video=0):
            if packet.size == 0:
                continue
            if stamps is not None:
                packet.pts, packet.dts = stamps(number, packet.pts or 0)
                packet.time_base = time_base or Fraction(1, 1000)
                packet.duration = 0
            packet.stream = stream
            out.mux(packet)
            number += 1
    return target


def write_tone(out: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    samples = np.sin(np.arange(int(44100 * seconds)) * 2 * np.pi * 440 / 44100)
    for at in range(0, len(samples), 1024):
        piece = (samples[at : at + 1024] * 12000).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, at, Fraction(1, 44100)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def write_sound(path: Path, codec: str = "aac") -> Path:
    with av.open(str(path), "w") as out:
        write_tone(out, out.add_stream(codec, rate=44100, layout="mono"), 0.5)
    return path


def set_display_matrix(path: Path, name: str) -> Path:
    """Patch the track header of an MP4, as a phone writes it."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 65536 for value in MATRICES[name])
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def plain_decode(path: Path) -> list[tuple[int, np.ndarray]]:
    """(pts, RGB) of all frames, as PyAV gives them without any of our code."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        return [(frame.pts, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
