"""The clips of a page: what they are called, and what somebody with the token cannot add, open or fill memory with."""

from __future__ import annotations

import http.server
import io
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from sam3ray.app import AppOptions, _library
from sam3ray.app._library import Library
from sam3ray.app._live import decode_picture
from sam3ray.failures import ClipError, UserError
from sam3ray.shapes import ClipSpec, write_clip
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


def test_stills_of_clips_looked_at_longest_ago_give_way_and_come_again(library, tmp_path, monkeypatch):
    monkeypatch.setattr(_library, "_ALL_STILLS_BYTES", _library._STILLS_BYTES + 10)
    for name in ("a", "b"):
        write_clip(SPEC, tmp_path / f"{name}.mp4")
    one, two = (library.add_source(str(tmp_path / f"{name}.mp4"))[0].key for name in ("a", "b"))

    def filled(key: str) -> list[bytes]:
        stills = library.open(key).stills
        pictures = [stills.get(position) for position in range(SPEC.frames)]  # waits for the thread
        assert stills.size_bytes == sum(map(len, pictures))
        return pictures

    before = filled(one)
    file = tmp_path / "page" / f"{one}.stills"
    assert file.is_file()
    filled(two)
    assert not file.exists()
    assert [library.open(two).stills.get(0)[:2], library._open[one].stills.get(1)] == [b"\xff\xd8", before[1]]
    assert filled(one) == before
    assert not (tmp_path / "page" / f"{two}.stills").exists()
