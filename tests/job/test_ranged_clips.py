"""Long remote clips: every attempt and every window fetches its part of the video, and the rows are a local clip's."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from sam3ray.config import JobConfig
from sam3ray.failures import ClipError
from sam3ray.job.graph import Stage, Work
from sam3ray.job.merging import MergeOrder, merge_one
from sam3ray.job.result import ClipCut, ClipResult, PartDone
from sam3ray.job.windows import ClipWindows
from sam3ray.job.worker import ClipWorker
from sam3ray.store import RunStore
from sam3ray.values.clip import Clip
from sam3ray.values.prompts import PointPrompt
from sam3ray.video import Frame, _anchor, _programs, _ranges
from tests.job.fakes import DrawnSegmenter
from tests.video.media import remux, write_video
from tests.video.ranges import Site, serving

FRAMES, DIES_AT = 240, 205
PRINT = {"a": 1}
NAMES = ("long.mp4", "fragments.mp4", "long.mkv", "long.ts", "long.avi")
TABLES = ("long.mp4", "fragments.mp4")  # which are read alone


class Killed(BaseException):
    """No handler may mistake it for an error."""


class Mortal(DrawnSegmenter):
    can_resume = True
    dies_at: int | None = None

    def on_frame(self, position: int, frame: Frame) -> None:
        if position == self.dies_at:
            raise Killed

    def segment(self, frames: Any, height: int, width: int, prompts: Any, visual: Any = (), **how: Any) -> Any:
        assert not visual or frames.indices[PROMPT.frame_index] == PROMPT.frame_index
        return super().segment(frames, height, width, prompts, visual, **how)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 2.6 MB: noise, so that each frame has its share of the bytes."""
    folder = tmp_path_factory.mktemp("videos")
    noise = list(np.random.default_rng(1).integers(0, 255, (FRAMES, 96, 128, 3), np.uint8))
    pts = [40 * i + 7 * (i % 5) for i in range(FRAMES)]
    first = write_video(folder / "long.mp4", FRAMES, (128, 96), images=noise, pts=pts)
    remux(first, folder / "fragments.mp4", None, options={"movflags": "frag_keyframe+empty_moov"})
    remux(first, folder / "long.mkv", None)
    remux(first, folder / "long.ts", None)
    write_video(folder / "long.avi", FRAMES, (128, 96), images=noise, codec="mpeg4", options={"bf": "0", "b": "2M"})
    return folder


@pytest.fixture
def site(videos: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(_ranges, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(_ranges, "MOST_BLOCKS", 8)
    monkeypatch.setattr(_ranges, "MEMORY_BYTES", 2**20)
    monkeypatch.setattr(_programs, "_SEARCHED", 2**16)
    monkeypatch.setattr(_anchor, "_HELD", 2)
    at_rest, rests = ClipWindows.at_rest, itertools.count()

    def settles(windows: ClipWindows, *arguments: Any) -> None:
        if next(rests) % 20 == 0:
            at_rest(windows, *arguments)
            windows.settle()

    monkeypatch.setattr(ClipWindows, "at_rest", settles)
    with serving({name: (videos / name).read_bytes() for name in NAMES}) as site:
        yield site


def worker(output: Path, clip: Clip, windows: Any = None, **video: Any) -> ClipWorker:
    sections = {"windows": windows or {"seconds": 1e-6}, "video": {"cache_dir": str(output.parent / "cache"), **video}}
    config = JobConfig(manifest="m.csv", output=str(output), **sections)
    store = RunStore(config.output)
    if not output.exists():
        store.create_or_open(PRINT, {}, [clip])
    return ClipWorker(config, store, PRINT, Mortal)


def rows(output: Path) -> Any:
    return pq.ParquetFile(output / "annotations/long.parquet").read().to_pylist()


@pytest.fixture(scope="module")
def of_local_file(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    @functools.cache
    def rows_of(name: str, start_s: float | None = None, end_s: float | None = None) -> Any:
        folder = tmp_path_factory.mktemp("run")
        clip = Clip("long", str(videos / name), ("red", "green"), start_s, end_s)
        local = worker(folder / "local", clip)
        local.process(clip)
        local.close()
        return rows(folder / "local")

    return rows_of


PROMPT = PointPrompt(((5.0, 5.0),), (True,), 120, 1, "hand")
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "part": {"start_s": 2.1, "end_s": 9.3},
    "prompt": {"visual_prompts": (PROMPT,)},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_clip_goes_on_without_being_fetched_again(
    site: Site, tmp_path: Path, of_local_file: Callable[..., Any], name: str, way: str
) -> None:
    how = WAYS[way]
    clip = Clip("long", f"{site.url}/{name}", ("red", "green"), **how)
    first, second = (worker(tmp_path / "remote", clip, ranges_above_bytes=0) for _ in range(2))
    first.segmenter.dies_at = DIES_AT - 52 if way == "part" else DIES_AT
    with pytest.raises(Killed):
        first.process(clip, attempt=1)
    first.close()
    size = len(site.files[name])
    reads = 2 if way == "prompt" and name not in TABLES else 1  # once more to learn where its frames are
    assert site.sent < (reads + 0.5) * size
    site.sent = 0
    second.process(clip, attempt=2)
    second.close()
    assert site.sent < 0.7 * size  # a sixth, a group before it, what waited, the beginning, and tables
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "remote/windows").exists()
    assert rows(tmp_path / "remote") == of_local_file(name, clip.start_s, clip.end_s)


@pytest.mark.parametrize("name", NAMES)
def test_parallel_windows_fetch_their_part(
    site: Site, tmp_path: Path, of_local_file: Callable[..., Any], name: str
) -> None:
    clip = Clip("long", f"{site.url}/{name}", ("red", "green"))
    size, windows = len(site.files[name]), {"mode": "parallel", "frames": 40, "overlap": 4}

    def working() -> ClipWorker:
        site.sent = 0
        return worker(tmp_path / "remote", clip, windows, ranges_above_bytes=0)

    first = working()
    found = first.process(clip)
    assert isinstance(found, ClipCut)
    assert site.sent < (0.3 if name in TABLES else 1.3) * size
    first.close()
    for index in range(len(found.cutting.shares)):
        each = working()
        assert isinstance(each.attempt(clip, 0, 1, Work(0, Stage.WINDOW, index)), PartDone)
        each.close()
        assert site.sent < 0.65 * size
    each = working()
    assert isinstance(each.attempt(clip, 0, 1, Work(0, Stage.LINK)), PartDone)
    each.close()
    assert isinstance(merge_one(MergeOrder(each.store, PRINT), clip), ClipResult)
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "remote/windows").exists()
    assert rows(tmp_path / "remote") == of_local_file(name)


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
