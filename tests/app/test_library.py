"""The clips of a page: what they are called, and what somebody with the token cannot add, open or fill memory with."""

from __future__ import annotations

import dataclasses
import http.server
import io
import json
import struct
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from sam3ray.app import AppOptions, _open_clips
from sam3ray.app._library import Library
from sam3ray.app._live import decode_picture
from sam3ray.app._stills import Stills
from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, UserError
from sam3ray.shapes import ClipSpec, write_clip
from sam3ray.values.clip import Clip
from sam3ray.video import VideoReader

SPEC = ClipSpec(seed=6, frames=2, width=160, height=90, objects=(2, 3))


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    (tmp_path / "page").mkdir()
    library = Library(tmp_path / "page", AppOptions())
    yield library
    library.close()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server and its folder."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


@pytest.mark.parametrize("form", ["{path}", "file://{path}", "local://{path}", "file:{path}"])
def test_a_manifest_from_elsewhere_names_no_file_of_this_machine(library, elsewhere, tmp_path, form):
    address, folder = elsewhere
    write_clip(SPEC, tmp_path / "private.mp4")
    row = {"uri": form.format(path=tmp_path / "private.mp4")}
    (folder / "clips.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError):
        library.add_source(f"{address}/clips.jsonl", remote_only=True)
    assert library.entries() == []


@pytest.mark.parametrize("address", ["/etc/passwd", "file:///etc/passwd", "../../etc", "local:///etc", "~/x.mp4", ""])
def test_an_address_is_no_file_of_this_machine(library, address):
    with pytest.raises(UserError):
        library.add_source(address, remote_only=True)
    assert library.entries() == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.m3u8", "#EXTM3U\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n"),
        ("a.mp4", "#EXTM3U\n#EXTINF:1,\n{video}\n#EXT-X-ENDLIST\n"),
        ("a.mp4", "ffconcat version 1.0\nfile {video}\n"),
        ("a.ffconcat", "ffconcat version 1.0\nfile {video}\n"),
        ("a.sdp", "v=0\nm=video 9999 RTP/AVP 96\na=rtpmap:96 H264/90000\n"),
        ("a.mpd", "<MPD><Period><AdaptationSet><BaseURL>{video}</BaseURL></AdaptationSet></Period></MPD>"),
    ],
)
def test_an_uploaded_playlist_opens_nothing_else(tmp_path, name, text):
    write_clip(SPEC, tmp_path / "private.mp4")
    (tmp_path / name).write_text(text.format(video=tmp_path / "private.mp4"))
    with pytest.raises(ClipError):
        VideoReader(tmp_path / name).close()


def test_a_picture_that_would_fill_the_memory_is_refused():
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000)))
    with pytest.raises(UserError):
        decode_picture(bomb)
    sink = io.BytesIO()
    Image.new("RGB", (4097, 1)).save(sink, "WEBP")
    with pytest.raises(UserError, match="4097x1"):
        decode_picture(sink.getvalue())


def test_clips_are_called_like_their_files(library, tmp_path):
    for name in ("a.mp4", "x/a.mp4", "x/my holiday.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_clip(SPEC, tmp_path / name)
    (tmp_path / "clips.jsonl").write_text(
        "".join(
            json.dumps({"uri": f"{tmp_path}/{name}", **more}) + "\n"
            for name, more in (("a.mp4", {}), ("x/a.mp4", {}), ("x/my holiday.mp4", {}), ("a.mp4", {"clip_id": "own"}))
        )
    )
    names = [each.name for each in library.add_source(str(tmp_path / "clips.jsonl"))]
    assert names[2:] == ["my holiday.mp4", "own"]
    assert names[0] != names[1]
    assert [each.name for each in library.add_source(str(tmp_path / "x" / "my holiday.mp4"))] == ["my holiday.mp4"]
    assert sorted(each.name for each in library.add_source(str(tmp_path / "x"))) == ["a.mp4", "my holiday.mp4"]


def test_stills_of_clips_used_longest_ago_give_way_and_come_again(library, tmp_path, monkeypatch):
    monkeypatch.setattr(_open_clips, "_ALL_STILLS_BYTES", 10)
    one, two = drawn(library, tmp_path, 2)

    def filled(key: str) -> list[bytes]:
        with library.open(key) as opened:
            pictures = [opened.stills.get(position) for position in range(SPEC.frames)]  # waits for the thread
            assert opened.stills.size_bytes == sum(map(len, pictures))
            return pictures

    with library.open(one) as shown:
        before = filled(one)
        file = tmp_path / "page" / f"{one}.stills"
        assert file.is_file()
        filled(two)
        assert not file.exists()
        assert shown.stills.get(1) == before[1]  # a request under way goes on
    assert filled(one) == before
    assert not (tmp_path / "page" / f"{two}.stills").exists()


def test_stills_of_clips_that_are_decoded_at_once_never_take_more_than_their_room(library, tmp_path, monkeypatch):
    keys = drawn(library, tmp_path, 4, dataclasses.replace(SPEC, frames=40))
    with library.open(keys[0]) as opened:
        size = sum(len(opened.stills.get(position)) for position in range(40))
    limit = size + size // 2
    monkeypatch.setattr(_open_clips, "_ALL_STILLS_BYTES", limit)
    grown, seen = Stills._put, []

    def put(stills: Stills, data: bytes) -> bool:
        """As it is, and all of them on the disk."""
        added = grown(stills, data)
        seen.append(sum(each.stat().st_size for each in (tmp_path / "page").glob("*.stills")))
        return added

    monkeypatch.setattr(Stills, "_put", put)
    with ExitStack() as stack:
        shown = [stack.enter_context(library.open(key)) for key in keys]  # four threads
        for position in range(40):
            assert all(each.stills.get(position)[:2] == b"\xff\xd8" for each in shown)
        assert opened.stills.size_bytes == 0
        assert size <= max(seen) <= limit


def test_a_still_that_is_there_does_not_fetch_its_video_again(remote):
    library, (one, *others) = remote
    with library.open(one) as opened:
        pictures = [opened.stills.get(position) for position in range(SPEC.frames)]
    for key in others:
        with library.open(key):
            pass
    assert not opened.path.exists()
    fsspec.filesystem("memory").rm("/looked/0.mp4")
    assert [library.still(one, position) for position in range(SPEC.frames)] == pictures
    for wrong in (-1, SPEC.frames):
        with pytest.raises(ClipError, match="there is no such file"):
            library.still(one, wrong)
    fsspec.filesystem("memory").pipe("/looked/0.mp4", b"")


def test_only_the_clips_used_last_stay_open(library, tmp_path, monkeypatch):
    monkeypatch.setattr(_open_clips, "_MOST_OPEN", 2)
    keys = drawn(library, tmp_path, 4)
    with library.open(keys[0]) as shown:
        for n, stay in ((1, [0, 1]), (0, [0, 1]), (2, [0, 2]), (3, [2, 3])):
            with library.open(keys[n]) as opened:
                assert opened.stills.get(0)[:2] == b"\xff\xd8"
            assert library.thumb(keys[0])[:2] == b"\xff\xd8"  # a picture in the list opens nothing
            assert [n for n, key in enumerate(keys) if library.opened(key)] == stay
        assert shown.stills.get(1)[:2] == b"\xff\xd8"
    assert len(library._clips._turns) == 0
    assert sorted(each.name for each in (tmp_path / "page").iterdir()) == [f"{key}.stills" for key in keys[2:]]


def drawn(library: Library, folder: Path, count: int, spec: ClipSpec = SPEC) -> list[str]:
    clips = []
    for n in range(count):
        write_clip(spec, folder / f"{n}.mp4")
        clips.append(Clip(str(n), str(folder / f"{n}.mp4")))
    return [each.key for each in library.add(clips)]


@pytest.fixture
def remote(tmp_path, monkeypatch) -> Iterator[tuple[Library, list[str]]]:
    """A library of four videos on a store, whose cache has room for two, and their keys."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a cache of our own
    monkeypatch.setattr(_open_clips, "_ROOM_S", 0.3)
    write_clip(SPEC, tmp_path / "clip.mp4")
    data = (tmp_path / "clip.mp4").read_bytes()
    store = fsspec.filesystem("memory")
    clips = [Clip(str(n), f"memory://looked/{n}.mp4") for n in range(4)]
    store.pipe({f"/looked/{n}.mp4": data for n in range(4)})
    (tmp_path / "page").mkdir()
    library = Library(tmp_path / "page", AppOptions(video=VideoConfig(cache_bytes=2 * len(data) + 1)))
    yield library, [each.key for each in library.add(clips)]
    library.close()
    store.rm("/looked", recursive=True)
    assert not list(tmp_path.glob("sam3ray-videos-*"))


def test_more_videos_of_a_store_than_the_cache_holds_open_one_after_another(remote):
    library, keys = remote
    for key in (*keys, *reversed(keys)):
        library.thumb(key)
        with library.open(key) as opened:
            assert opened.path.is_file()
            assert all(opened.stills.get(position)[:2] == b"\xff\xd8" for position in range(SPEC.frames))
    assert all(library.opened(key) for key in keys)  # the cache has only two of their videos


def test_a_video_in_use_stays_in_the_cache_and_others_wait_for_its_room(remote):
    library, (one, two, three, four) = remote
    with library.open(one) as first, library.open(two) as second:
        sentence = "videos in use left no room .* Try again when fewer are in use, or raise video.cache_bytes"
        with pytest.raises(ClipError, match=sentence), library.open(three):
            pass
        with pytest.raises(ClipError, match="in use"):
            library.thumb(four)
        with library.open(one) as again:
            assert again is first
        assert [len(list(each.frames.read())) for each in (first, second)] == [SPEC.frames, SPEC.frames]
    with library.open(one) as again, library.open(three):
        assert again is first
        assert first.path.is_file()
        assert not second.path.exists()
    with library.open(two) as again:
        assert again is not second  # so that its stills are decoded anew
        assert again.path.is_file()


def test_a_video_that_changes_on_its_store_is_shown_as_it_is_once_it_comes_again(remote, tmp_path):
    library, keys = remote
    write_clip(dataclasses.replace(SPEC, width=80, height=48), tmp_path / "other.mp4")
    with library.open(keys[0]) as before:
        fsspec.filesystem("memory").pipe("/looked/0.mp4", (tmp_path / "other.mp4").read_bytes())
        with library.open(keys[0]) as meanwhile:
            assert meanwhile is before  # a video in use does not change
    for key in keys[1:]:
        with library.open(key):
            pass
    with library.open(keys[0]) as after:
        assert (after.frames.width, before.frames.width) == (80, SPEC.width)
