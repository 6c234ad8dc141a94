"""A long remote clip whose worker dies: the next attempt fetches what remains, and its rows are a local clip's."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from sam3ray.config import JobConfig
from sam3ray.failures import ClipError
from sam3ray.job.windows import ClipWindows
from sam3ray.job.worker import ClipWorker
from sam3ray.store import RunStore
from sam3ray.values.clip import Clip
from sam3ray.video import Frame, _anchor, _ranges
from tests.job.fakes import DrawnSegmenter
from tests.video.media import write_video
from tests.video.ranges import Site, serving

FRAMES, DIES_AT = 120, 100


class Killed(BaseException):
    """No handler may mistake it for an error."""


class Mortal(DrawnSegmenter):
    can_resume = True
    dies_at: int | None = None

    def on_frame(self, position: int, frame: Frame) -> None:
        if position == self.dies_at:
            raise Killed


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(_ranges, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(_ranges, "MOST_BLOCKS", 8)
    at_rest, rests = ClipWindows.at_rest, itertools.count()

    def settles(windows: ClipWindows, *arguments: Any) -> None:
        if next(rests) % 8 == 0:
            at_rest(windows, *arguments)
            windows.settle()

    monkeypatch.setattr(ClipWindows, "at_rest", settles)
    noise = np.random.default_rng(1).integers(0, 255, (FRAMES, 96, 128, 3), np.uint8)
    pts = [40 * i + 7 * (i % 5) for i in range(FRAMES)]
    files = {}
    for name in ("long.mp4", "long.mkv"):
        path = write_video(tmp_path / name, FRAMES, (128, 96), images=list(noise), pts=pts)
        files[name] = path.read_bytes()
    with serving(files) as site:
        yield site


def worker(output: Path, clip: Clip, **video: Any) -> ClipWorker:
    sections = {"windows": {"seconds": 1e-6}, "video": {"cache_dir": str(output.parent / "cache"), **video}}
    config = JobConfig(manifest="m.csv", output=str(output), **sections)
    store = RunStore(config.output)
    store.create_or_open({"a": 1}, {}, [clip])
    return ClipWorker(config, store, {"a": 1}, Mortal)


def rows(output: Path) -> Any:
    return pq.ParquetFile(output / "annotations/long.parquet").read().to_pylist()


@pytest.mark.parametrize("fps", [None, 9.0])
@pytest.mark.parametrize("name", ["long.mp4", "long.mkv"])
def test_a_clip_goes_on_without_being_fetched_again(
    site: Site, tmp_path: Path, name: str, fps: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_anchor, "_HELD", 0)
    clip = Clip("long", str(tmp_path / name), ("red", "green"), fps=fps)
    local = worker(tmp_path / "local", clip)
    local.process(clip)
    local.close()

    clip = Clip("long", f"{site.url}/{name}", ("red", "green"), fps=fps)
    first, second = (worker(tmp_path / "remote", clip, ranges_above_bytes=0) for _ in range(2))
    first.segmenter.dies_at = DIES_AT if fps is None else DIES_AT * 9 // 25
    with pytest.raises(Killed):
        first.process(clip, attempt=1)
    first.close()
    size = len(site.files[name])
    assert site.sent < 1.1 * size
    site.sent = 0
    second.process(clip, attempt=2)
    second.close()
    # A sixth, a group before it, the tables and the beginning; of a Matroska also what may have waited in the queue.
    # Without a note of a key frame it would be more than all.
    assert site.sent < (0.8 if name == "long.mkv" else 0.45) * size
    assert not (tmp_path / "cache").exists()
    assert rows(tmp_path / "remote") == rows(tmp_path / "local")


def test_a_clip_that_changes_under_way_fails_and_keeps_no_frame_of_the_new_one(site: Site, tmp_path: Path) -> None:
    clip = Clip("long", f"{site.url}/long.mp4", ("red",))
    working = worker(tmp_path / "run", clip, ranges_above_bytes=0)
    size = len(site.files["long.mp4"])

    def replaced(begin: int, end: int) -> None:
        if begin > size // 2 and begin < size - 30_000:
            site.headers = {"ETag": '"two"'}
            site.files["long.mp4"] = bytes(size)

    site.change = replaced
    with pytest.raises(ClipError, match="has changed while it was being read"):
        working.process(clip, attempt=1)
    working.close()
    assert not list((tmp_path / "run").glob("annotations/*"))
