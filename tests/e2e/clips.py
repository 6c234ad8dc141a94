"""Small videos for end-to-end tests: every one has a size of its own, by which a fake model knows it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BASE_WIDTH = 64


def width_of(number: int) -> int:
    return BASE_WIDTH + 2 * number


def number_of(width: int) -> int:
    return (width - BASE_WIDTH) // 2


def write_clip(path: Path, number: int, frames: int = 20, height: int = 48) -> None:
    """A still background that changes colour from frame to frame."""
    width = width_of(number)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            image = np.full((height, width, 3), (37 * number + 11 * index) % 256, np.uint8)
            image[:, : width // 2, 1] = (91 * index) % 256
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def write_clips(folder: Path, count: int, frames: int | Sequence[int] = 20) -> Path:
    """`clip-000`, `clip-001`, ... and their manifest, whose path is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["clip_id", "uri"])
        for number in range(count):
            path = folder / f"clip-{number:03d}.mp4"
            write_clip(path, number, frames if isinstance(frames, int) else frames[number])
            writer.writerow([path.stem, str(path)])
    return manifest


def moving_discs(count: int) -> list[np.ndarray]:
    """A red and a blue one that pass each other on grey, 128x96."""
    y, x = np.mgrid[:96, :128]
    images = []
    for index in range(count):
        image = np.full((96, 128, 3), 90, np.uint8)
        for colour, cx, cy in (((220, 30, 30), 30 + 4 * index, 40), ((30, 60, 220), 90 - 3 * index, 62)):
            image[(x - cx) ** 2 + (y - cy) ** 2 < 260] = colour
        images.append(image)
    return images
