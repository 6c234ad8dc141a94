"""Compares reading a long remote video by ranges with downloading it: bytes per attempt, disk space, and time.

    python -m benchmarks.ranges            # an MP4 of 24 s on an S3 server (moto) on this machine
    python -m benchmarks.ranges --write    # and put the table into docs/long-clips.md

Nothing is labelled. Each attempt opens the video with an empty cache, as a fresh node does, and decodes the frames that
it would label. The two ways alternate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import fsspec
import numpy as np

from benchmarks.pages import put
from sam3ray.config import VideoConfig
from sam3ray.video import ClipFrames, VideoCache, VideoReader, VideoWriter
from sam3ray.video._opened import ByRanges
from tests import servers

WINDOWS, REPEATS, SIZE, RATE = 10, 3, (320, 180), 25


@dataclass
class Attempt:
    """One attempt at a clip.

    Attributes:
        fetched_bytes: bytes read from the store.
        disk_bytes: the most that the video took on disk.
        seconds: from opening the video to its last frame.
    """

    fetched_bytes: int
    disk_bytes: int
    seconds: float


def write_noise(path: Path, frames: int) -> None:
    """Writes a video of low-contrast noise, some 15 kB per frame."""
    chance = np.random.default_rng(0)
    with VideoWriter(path, *SIZE, Fraction(1, RATE), Fraction(RATE)) as writer:
        for number in range(frames):
            writer.write(chance.integers(96, 160, (SIZE[1], SIZE[0], 3), np.uint8), number)


def attempt(uri: str, options: dict[str, str], limits: VideoConfig, begin: int) -> Attempt:
    """Decodes the frames from this one on."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        cache = VideoCache(folder, 10**10, options, limits=limits)
        with cache.open_parts(uri) as source:
            frames = (
                ClipFrames(source, limits=limits).read(begin) if begin else iter(VideoReader(source, limits=limits))
            )
            for _ in frames:
                pass
            seconds = time.perf_counter() - began
            disk = sum(each.stat().st_size for each in Path(folder).rglob("*") if each.is_file())
            return Attempt(source.fetched_bytes if isinstance(source, ByRanges) else disk, disk, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--write", action="store_true", help="put the table into docs/long-clips.md")
    given = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    with tempfile.TemporaryDirectory() as folder, servers.s3(Path(folder)) as url:
        path, options = Path(folder) / "long.mp4", {"endpoint_url": url}
        write_noise(path, given.frames)
        size = path.stat().st_size
        fs = fsspec.filesystem("s3", **options)
        fs.mkdir("videos")
        fs.put_file(str(path), "videos/long.mp4")
        ways = {"ranges": VideoConfig(ranges_above_bytes=0), "whole": VideoConfig(ranges_above_bytes=None)}
        lines = [
            "| the attempt begins | ranges: fetched | disk | whole: fetched | disk | time, ranges / whole |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for after in (0, 2, 5, 8):
            found: dict[str, list[Attempt]] = {way: [] for way in ways}
            for _ in range(REPEATS):
                for way, limits in ways.items():
                    found[way].append(attempt("s3://videos/long.mp4", options, limits, given.frames * after // WINDOWS))
            by, whole = found["ranges"], found["whole"]
            ratio = statistics.median(a.seconds for a in by) / statistics.median(a.seconds for a in whole)
            most, other = max(by, key=lambda a: a.fetched_bytes), max(whole, key=lambda a: a.fetched_bytes)
            place = f"after window {after}" if after else "at the beginning"
            lines.append(
                f"| {place} | {most.fetched_bytes / size:.1%} | {most.disk_bytes / size:.0%} | "
                f"{other.fetched_bytes / size:.1%} | {other.disk_bytes / size:.0%} | {ratio:.2f} |"
            )
        load = os.getloadavg()[0]
        table = "\n".join(lines) + (
            f"\n\nOf a video of {size / 1e6:.0f} MB ({given.frames} frames of {SIZE[0]}x{SIZE[1]}, a key frame every "
            f"2 s), which has {WINDOWS} windows. Medians of {REPEATS} runs of each, alternating; load {load:.0f}."
        )
    print(table)
    if given.write:
        put("long-clips.md", "ranges benchmark", table)


if __name__ == "__main__":
    main()
