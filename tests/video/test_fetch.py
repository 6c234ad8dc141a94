"""The cache of remote videos: fetched once, bounded, shared by processes, clean after crashes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video import VideoCache, VideoReader, redact_uri, video_size
from sam3ray.video._remote import local_name
from tests.servers import Place
from tests.video.media import write_video


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


def entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir())


def fails(cache: VideoCache, uri: str, reason: Reason) -> ClipError:
    with pytest.raises(ClipError) as caught, cache.open(uri):
        pass
    assert caught.value.reason is reason, str(caught.value)
    return caught.value


def test_local_files_are_used_in_place(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a b.mp4", 3)
    with VideoCache(tmp_path / "cache", 10**6) as cache:
        for uri in (str(path), f"file://{path}"):
            with cache.open(uri) as local:
                assert local == path
        fails(cache, str(tmp_path / "missing.mp4"), Reason.NOT_FOUND)
    assert not (tmp_path / "cache").exists()


def test_a_file_is_fetched_once_until_it_changes(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    memory.pipe("/v/a.mp4", b"one")
    cache = VideoCache(tmp_path, 1000)
    with cache.open("memory://v/a.mp4") as first:
        assert first.read_bytes() == b"one"
        assert first.suffix == ".mp4"
    first.write_bytes(b"kept")  # to see that it is not fetched again
    with cache.open("memory://v/a.mp4") as again:
        assert again.read_bytes() == b"kept"
    memory.pipe("/v/a.mp4", b"two")
    with cache.open("memory://v/a.mp4") as changed:
        assert changed.read_bytes() == b"two"


def test_a_folder_of_frames_reads_like_a_local_one(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    from tests.video.test_folder import write_frames

    local = write_frames(tmp_path / "f", [f"{i}.png" for i in range(11)])
    memory.put(str(local), "/v/frames", recursive=True)
    with VideoReader(local) as video:
        expected = [(f.index, f.image.tobytes()) for f in video]
    with VideoCache(tmp_path / "cache", 10**7) as cache, cache.open("memory://v/frames") as path:
        with VideoReader(path) as video:
            assert [(f.index, f.image.tobytes()) for f in video] == expected
        assert video_size("memory://v/frames") == sum(f.stat().st_size for f in path.iterdir())


@pytest.mark.parametrize(
    ("path", "number", "name"),
    [
        ("bucket/a.mp4", None, "a.mp4"),
        ("bucket/../../etc/passwd", None, "passwd"),
        ("bucket/..", None, "video."),
        ("b/.hidden.mp4", None, "_hidden.mp4"),
        ("b/x y\0\n$(rm).mp4", None, "x_y____rm_.mp4"),
        ("b/a.mp4?X-Amz-Signature=1/2", None, "a.mp4"),
        ("b/frames/../7.jpg", 3, "00000003.jpg"),
    ],
)
def test_names_never_leave_the_cache(path: str, number: int | None, name: str) -> None:
    got = local_name(path, number)
    assert os.path.basename(got) == got
    assert got not in ("", ".", "..")
    if name != "video.":
        assert got == name


def test_where_it_was_before_its_store_is_not_asked(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    frames = {f"/v/frames/{n}.png": bytes([n]) * 8 for n in range(3)}
    memory.pipe({"/v/a.mp4": b"one" * 4, **frames})
    cache = VideoCache(tmp_path, 32)
    with cache.open("memory://v/a.mp4") as path:
        pass
    memory.pipe("/v/a.mp4", b"two" * 4)
    with cache.open("memory://v/a.mp4", last=path) as again:
        assert again == path
        with pytest.raises(ClipError), VideoCache(tmp_path, 32, wait_s=0).open("memory://v/frames"):
            pass  # it stays
    with cache.open("memory://v/frames") as folder:
        assert not path.exists()
    memory.rm("/v/frames", recursive=True)
    with cache.open("memory://v/frames", last=folder) as again:
        assert again == folder
    with cache.open("memory://v/a.mp4", last=path) as again:
        assert (again != path, again.read_bytes()) == (True, b"two" * 4)
    local = tmp_path / "b.mp4"
    local.write_bytes(b"b")
    with cache.open(str(local), saw=print) as first, cache.open(str(local), saw=pytest.fail, last=first) as again:
        assert again == first == local


def test_a_video_that_has_not_changed_is_the_same_file_when_it_is_fetched_again(
    tmp_path: Path, memory: fsspec.AbstractFileSystem
) -> None:
    memory.pipe({"/v/a.mp4": b"one" * 4, "/v/frames/0.png": b"0" * 8, "/v/frames/1.png": b"1" * 8})

    def facts(uri: str) -> list[tuple[Path, int, int]]:
        with VideoCache(tmp_path, 24).open(uri) as path:  # one at a time
            files = [path, *sorted(path.iterdir())] if path.is_dir() else [path]
            return [(each, each.stat().st_size, each.stat().st_mtime_ns) for each in files]

    first = {uri: facts(uri) for uri in ("memory://v/a.mp4", "memory://v/frames")}
    assert not first["memory://v/a.mp4"][0][0].exists()
    for uri in (*first, *first):
        assert facts(uri) == first[uri]
    memory.pipe("/v/a.mp4", b"two" * 4)
    assert facts("memory://v/a.mp4") != first["memory://v/a.mp4"]


class TestBounds:
    def test_the_least_recently_used_goes_first(self, tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
        cache = VideoCache(tmp_path, 250)
        for age, name in enumerate(("a", "b"), 1):
            memory.pipe(f"/v/{name}", name.encode() * 100)
            with cache.open(f"memory://v/{name}") as path:
                pass
            os.utime(tmp_path / f"{path.parent.name.partition('.')[0]}.lock", (age, age))
        with cache.open("memory://v/a"):
            pass  # now "b" is the older
        memory.pipe("/v/c", b"c" * 100)
        with cache.open("memory://v/c"):
            pass
        kept = sorted(next(e.iterdir()).name for e in entries(tmp_path))
        assert kept == ["a", "c"]

    def test_what_is_in_use_stays_and_the_next_waits(self, tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
        memory.pipe({"/v/a": b"a" * 100, "/v/b": b"b" * 100})
        cache = VideoCache(tmp_path, 150, wait_s=0.3)
        with cache.open("memory://v/a") as a:
            assert "no room" in fails(cache, "memory://v/b", Reason.STORAGE).message
            assert a.exists()
        with cache.open("memory://v/b"):
            assert not a.exists()

        patient = VideoCache(tmp_path, 150, wait_s=30)
        order = []

        def fetch_a() -> None:
            with patient.open("memory://v/a"):
                order.append("a")

        with patient.open("memory://v/b"):
            thread = threading.Thread(target=fetch_a)
            thread.start()
            time.sleep(0.3)
            order.append("b")
        thread.join(30)
        assert order == ["b", "a"]

    def test_too_large_is_refused_before_anything_is_fetched(
        self, tmp_path: Path, memory: fsspec.AbstractFileSystem
    ) -> None:
        memory.pipe("/v/a", b"a" * 100)
        fails(VideoCache(tmp_path, 99), "memory://v/a", Reason.OVER_LIMITS)
        fails(VideoCache(tmp_path, 999, limits=VideoConfig(max_size_bytes=50)), "memory://v/a", Reason.OVER_LIMITS)
        assert entries(tmp_path) == []

    def test_a_temporary_cache_leaves_nothing(
        self, memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        memory.pipe("/v/a", b"a")
        with VideoCache(None, 100) as cache, cache.open("memory://v/a") as path:
            assert path.read_bytes() == b"a"
            assert path.parent.parent.stat().st_mode & 0o077 == 0
        assert list(tmp_path.iterdir()) == []

    def test_somebody_elses_folder_is_not_trusted(
        self, memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / f"sam3ray-videos-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
        memory.pipe("/v/a", b"a")
        with VideoCache(None, 100) as cache, cache.open("memory://v/a"):
            assert list((tmp_path / "elsewhere").iterdir()) == []


def serve(folder: Path) -> ThreadingHTTPServer:
    class Quiet(SimpleHTTPRequestHandler):
        requests: ClassVar[list[str]] = []

        def do_GET(self) -> None:
            self.requests.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    server.requests = Quiet.requests  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def fetch_often(cache_dir: str, uris: list[str], seed: int, errors: multiprocessing.Queue) -> None:
    import random

    chooser = random.Random(seed)
    cache = VideoCache(cache_dir, 2500)
    try:
        for _ in range(10):
            uri = chooser.choice(uris)
            with cache.open(uri) as path:
                wanted = uri.rsplit("/", 1)[1][0].encode() * 1000
                for _ in range(3):
                    if path.read_bytes() != wanted:
                        errors.put(f"{uri}: wrong content")
                    time.sleep(0.002)
    except Exception as error:  # noqa: BLE001 - to the parent, which fails
        errors.put(repr(error))


class TestProcesses:
    def test_many_processes_share_a_small_cache(self, tmp_path: Path) -> None:
        origin, cache_dir = tmp_path / "origin", tmp_path / "cache"
        origin.mkdir()
        for letter in "abcd":
            (origin / f"{letter}.mp4").write_bytes(letter.encode() * 1000)
        server = serve(origin)
        uris = [f"http://127.0.0.1:{server.server_port}/{letter}.mp4" for letter in "abcd"]
        context = multiprocessing.get_context("spawn")
        errors = context.Queue()
        workers = [context.Process(target=fetch_often, args=(str(cache_dir), uris, i, errors)) for i in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        server.shutdown()
        assert [w.exitcode for w in workers] == [0, 0, 0]
        assert errors.empty(), errors.get()
        sizes = [sum(f.stat().st_size for f in entry.iterdir()) for entry in entries(cache_dir)]
        assert sum(sizes) <= 2500
        assert not [e for e in entries(cache_dir) if e.name.endswith(".part")]

    def test_threads_fetch_the_same_file_once(self, tmp_path: Path) -> None:
        (tmp_path / "origin").mkdir()
        (tmp_path / "origin" / "a.mp4").write_bytes(b"a" * 1000)
        server = serve(tmp_path / "origin")
        cache = VideoCache(tmp_path / "cache", 10_000)
        uri = f"http://127.0.0.1:{server.server_port}/a.mp4"
        barrier = threading.Barrier(6)
        read = []

        told = []

        def use() -> None:
            barrier.wait()
            with cache.open(uri, told.append) as path:
                read.append(path.read_bytes())

        threads = [threading.Thread(target=use) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        server.shutdown()
        assert read == [b"a" * 1000] * 6
        assert max(told) == 1000
        assert len(server.requests) == 1  # type: ignore[attr-defined]

    @pytest.mark.parametrize("moment", ["fetching", "using"])
    def test_a_killed_process_leaves_nothing_that_stays(self, tmp_path: Path, moment: str) -> None:
        script = """
import sys, time, fsspec
from sam3ray.video import VideoCache, _remote
fs = fsspec.filesystem("memory"); fs.pipe("/v/a", b"a" * 1000)
real = fs.get_file
if sys.argv[2] == "fetching":
    def slow(path, local):
        open(local, "wb").write(b"a" * 400); print("ready", flush=True); time.sleep(60)
    type(fs).get_file = lambda self, path, local, **_: slow(path, local)
with VideoCache(sys.argv[1], 1200).open("memory://v/a"):
    print("ready", flush=True); time.sleep(60)
"""
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), moment], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        assert len(entries(tmp_path)) == 1
        fs = fsspec.filesystem("memory")
        fs.store.clear()
        fs.pipe("/v/b", b"b" * 1000)
        with VideoCache(tmp_path, 1200, wait_s=5).open("memory://v/b") as path:
            assert path.read_bytes() == b"b" * 1000
        assert entries(tmp_path) == [path.parent]
        fs.store.clear()


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (404, Reason.NOT_FOUND),
            (403, Reason.PERMISSION_DENIED),
            (401, Reason.PERMISSION_DENIED),
            (503, Reason.STORAGE),
        ],
    )
    def test_http_statuses(self, tmp_path: Path, status: int, reason: Reason) -> None:
        class Failing(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_error(status)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/a.mp4?token=hush-hush"
        error = fails(VideoCache(tmp_path, 1000), uri, reason)
        server.shutdown()
        assert "hush" not in str(error)

    def test_no_server_is_the_stores_fault(self, tmp_path: Path) -> None:
        uri = "http://someone:hush-hush@127.0.0.1:9/a.mp4?sig=hush-hush"
        error = fails(VideoCache(tmp_path, 1000), uri, Reason.STORAGE)
        assert "hush" not in str(error)
        assert "someone" not in str(error)

    def test_fewer_bytes_than_announced(
        self, tmp_path: Path, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        memory.pipe("/v/a", b"a" * 100)
        monkeypatch.setattr(type(memory), "get_file", lambda self, path, local, **_: Path(local).write_bytes(b"a" * 60))
        error = fails(VideoCache(tmp_path, 1000), "memory://v/a", Reason.STORAGE)
        assert "60 of 100 bytes" in error.message
        assert entries(tmp_path) == []

    @pytest.mark.parametrize(
        ("uri", "shown"),
        [
            ("https://me:pw@host/a.mp4?sig=abc#x", "https://***@host/a.mp4"),
            ("s3://bucket/a.mp4?versionId=1", "s3://bucket/a.mp4"),
            ("/videos/what?.mp4", "/videos/what?.mp4"),
        ],
    )
    def test_uris_are_shown_without_credentials(self, uri: str, shown: str) -> None:
        assert redact_uri(uri) == shown


def test_a_real_object_store(tmp_path: Path, s3_place: Place) -> None:
    path = write_video(tmp_path / "a.mp4", 10)
    fs = fsspec.filesystem("s3", **s3_place.options)
    uri = s3_place.uri.rsplit("/labels", 1)[0] + "/videos/a.mp4"
    fs.put_file(str(path), uri)
    cache = VideoCache(tmp_path / "cache", 10**6, s3_place.options)
    with cache.open(uri) as local, VideoReader(local) as video:
        assert len(list(video)) == 10
    for name in ("2.jpg", "10.jpg", "1.jpg"):
        fs.pipe(f"{uri}-frames/{name}", name.encode())
    with cache.open(uri + "-frames") as folder:
        assert [f.read_bytes() for f in sorted(folder.iterdir())] == [b"1.jpg", b"2.jpg", b"10.jpg"]
    fails(cache, uri + ".missing", Reason.NOT_FOUND)
    fails(cache, "s3://no-such-bucket-here/a.mp4", Reason.NOT_FOUND)
