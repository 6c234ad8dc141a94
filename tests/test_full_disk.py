"""A disk that is full, at every place where something is written: whose fault that is, and what is left there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sam3ray.config import JobConfig, VideoConfig
from sam3ray.failures import ClipError, Failure, Reason
from sam3ray.job.result import ClipResult
from sam3ray.job.worker import ClipWorker
from sam3ray.manifest import Clip
from sam3ray.store import RunStore
from sam3ray.store.scratch import unnamed_file
from sam3ray.video import VideoCache
from tests.e2e.clips import write_clip
from tests.job.fakes import DrawnSegmenter


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of that size. Only root may mount one."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    write_clip(tmp_path / "clip.mp4", 0, frames=40)
    return Clip("clip-0", str(tmp_path / "clip.mp4"), tuple(f"thing {number}" for number in range(30)))


def worker_for(output: Path, clip: Clip) -> ClipWorker:
    config = JobConfig(manifest="m.csv", output=str(output), prompts=("red",))
    store = RunStore(config.output)
    store.create_or_open({"a": 1}, {}, [clip])
    return ClipWorker(config, store, {"a": 1}, DrawnSegmenter)


def use_as_temporary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)


def test_the_work_folder_is_full_and_then_has_room_again(
    tmp_path: Path, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk(tmp_path / "small", "64k") as small:
        use_as_temporary(small, monkeypatch)
        worker = worker_for(tmp_path / "run", clip)
        fill = small / "other"
        with contextlib.suppress(OSError):
            fill.write_bytes(bytes(1 << 20))
        failure = worker.attempt(clip)
        assert isinstance(failure, Failure)
        assert failure.reason is Reason.LOCAL_DISK
        assert "is full" in failure.message
        # The record needs no disk but the store's.
        assert worker.store.record_failure(failure) == 1
        assert not list(small.rglob("*.parquet"))
        fill.unlink()
        assert isinstance(worker.attempt(clip, attempt=2), ClipResult)
        worker.close()
        assert list(small.iterdir()) == []


def test_the_store_is_a_full_disk(tmp_path: Path, clip: Clip) -> None:
    with disk(tmp_path / "small", "64k") as small:
        worker = worker_for(small / "run", clip)
        fill = small / "other"
        with contextlib.suppress(OSError):
            fill.write_bytes(bytes(1 << 20))
        os.truncate(fill, fill.stat().st_size // 4096 * 4096 - 8192)  # 8 kB are left
        failure = worker.attempt(clip)
        assert isinstance(failure, Failure)
        assert failure.reason is Reason.LOCAL_DISK
        assert [worker.store.record_failure(failure) for _ in range(2)] == [1, 2]
        with pytest.raises(ClipError) as caught:
            worker.store.record_failure(failure)
        assert caught.value.reason is Reason.LOCAL_DISK
        kept = {path.relative_to(small).as_posix() for path in small.rglob("*") if path.is_file()}
        assert kept == {
            "other",
            "run/run.json",
            "run/manifest.parquet",
            "run/failures/clip-0/1.json",
            "run/failures/clip-0/2.json",
        }
        fill.unlink()
        assert isinstance(worker.attempt(clip, attempt=2), ClipResult)
        worker.close()


def test_a_temporary_folder_on_a_full_disk_is_no_obstacle_for_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with disk(tmp_path / "small", "4k") as small:
        (small / "other").write_bytes(bytes(4096))
        use_as_temporary(small, monkeypatch)
        with unnamed_file(b"a record") as path:
            assert Path(path).read_bytes() == b"a record"


def test_the_cache_is_on_a_full_disk(tmp_path: Path, web: str) -> None:
    (tmp_path / "clip.mp4").write_bytes(bytes(20_000))
    with disk(tmp_path / "small", "32k") as small:
        cache = VideoCache(small / "cache", 1 << 30, limits=VideoConfig())
        (small / "other").write_bytes(bytes(16_000))
        with pytest.raises(ClipError) as caught, cache.open(f"{web}/clip.mp4"):
            pass
        assert caught.value.reason is Reason.LOCAL_DISK
        assert str(small / "cache") in caught.value.message
        assert [path.name for path in (small / "cache").iterdir()] == ["room.lock"]
        (small / "other").unlink()
        with cache.open(f"{web}/clip.mp4") as path:
            assert path.stat().st_size == 20_000


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    import functools
    import http.server
    import threading

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
