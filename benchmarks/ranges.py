"""Compares reading a long remote video by ranges with downloading it: bytes per attempt, disk space, and time.

    python -m benchmarks.ranges            # an MP4 of 24 s on an S3 server (moto) on this machine
    python -m benchmarks.ranges --write    # and put the table into docs/long-clips.md

The second table shows what each container takes: to learn where its frames are, and then to read one window of ten.

Nothing is labelled. Each attempt opens the video with an empty cache, as a fresh node does, and decodes the frames that
it would label. The two ways alternate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import fsspec
import numpy as np

from benchmarks.pages import put
from sam3ray.config import VideoConfig
from sam3ray.video import ClipFrames, VideoCache, VideoReader, VideoWriter
from sam3ray.video._opened import ByRanges
from sam3ray.video._ranges import RangedVideo
from tests import servers
from tests.video.media import remux, write_video

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


def write_groups(path: Path, frames: int) -> None:
    """Writes noise again, with a key frame every 2 s."""
    noise = list(np.random.default_rng(0).integers(0, 255, (50, 96, 128, 3), np.uint8))
    options = {"g": "50", "sc_threshold": "0", "preset": "ultrafast", "qp": "24"}
    write_video(path, frames, (128, 96), images=[noise[number % 50] for number in range(frames)], options=options)


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


CONTAINERS: dict[str, dict[str, str]] = {
    "MP4": {},
    "fragmented MP4": {"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    "Matroska": {},
    "Matroska without an index": {"live": "1"},
    "transport stream": {},
    "FLV": {},
}
SUFFIXES = {"MP4": "mp4", "fragmented MP4": "mp4", "transport stream": "ts", "FLV": "flv"}


@dataclass
class Counted:
    """Requests to the store, and their bytes."""

    requests: int = 0
    fetched_bytes: int = 0

    def of(self, data: bytes, name: str) -> RangedVideo:
        def fetch(begin: int, end: int) -> bytes:
            self.requests += 1
            self.fetched_bytes += end - begin
            return data[begin:end]

        return RangedVideo(fetch, name, len(data))


def by_container(source: Path, frames: int) -> Iterator[str]:
    """Lines of the table."""
    limits = VideoConfig()
    for name, options in CONTAINERS.items():
        path = source.with_name(f"other.{SUFFIXES.get(name, 'mkv')}")
        data = remux(source, path, None, options=options).read_bytes()
        learning, reading = Counted(), Counted()
        with closing(learning.of(data, path.name)) as video:
            assert len(ClipFrames(video, limits=limits).indices) == frames
            index = video.index
        with closing(reading.of(data, path.name)) as video:
            video.index = index
            begin = frames // 2
            for _ in ClipFrames(video, limits=limits).read(begin, begin + frames // WINDOWS):
                pass
        yield (
            f"| {name} | {learning.fetched_bytes / len(data):.1%} | {learning.requests} | "
            f"{reading.fetched_bytes / len(data):.1%} | {reading.requests} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--longer", type=int, default=6000, help="frames of the video in several containers")
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
            f"\n\nMeasured on a video of {size / 1e6:.0f} MB ({given.frames} frames of {SIZE[0]}x{SIZE[1]}) with "
            f"{WINDOWS} windows. Medians of {REPEATS} alternating runs each; load {load:.0f}."
        )
        longer = Path(folder) / "longer.mp4"
        write_groups(longer, given.longer)
        table += "\n\n" + "\n".join(
            [
                "| container | positions of all frames: fetched | requests | one window of ten: fetched | requests |",
                "| --- | --- | --- | --- | --- |",
                *by_container(longer, given.longer),
                "",
                f"Measured on a video of {longer.stat().st_size / 1e6:.0f} MB ({given.longer} frames), "
                "with a key frame every 2 s.",
            ]
        )
    print(table)
    if given.write:
        put("long-clips.md", "ranges benchmark", table)


if __name__ == "__main__":
    main()
