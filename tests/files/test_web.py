"""Web servers that lie: about sizes, encodings, redirects; and addresses that must reach them as they are."""

from __future__ import annotations

import gzip
import json
import os
import resource
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sam3ray.config import JobConfig, VideoConfig, config_from_text, load_config
from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.files import read_bytes
from sam3ray.files.web import is_public
from sam3ray.manifest import read_manifest
from sam3ray.prompts._resolve import read_mask_file
from sam3ray.video import VideoCache, probe_uri, video_size
from tests.video.media import write_video

LIMIT = 100_000
Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        close_connection = True

        def do_GET(self) -> None:
            try:
                answer(self)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client has had enough

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()


def send(request: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    request.send_response(status)
    for name, value in {"Content_Length": str(len(body)), "Connection": "close", **headers}.items():
        if value:
            request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    if request.command == "GET":
        request.wfile.write(body)


def endless(request: BaseHTTPRequestHandler, **headers: str) -> None:
    """A body that never ends, in chunks."""
    send(request, b"", **{"Content_Length": "", "Transfer_Encoding": "chunked", **headers})
    while request.command == "GET":
        request.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def lies_about_length(request: BaseHTTPRequestHandler) -> None:
    if request.command == "HEAD":
        send(request, b"", Content_Length="10")
    else:
        endless(request)


def bomb(request: BaseHTTPRequestHandler, packed: bytes, encoding: str) -> None:
    send(request, packed, Content_Encoding=encoding)


GZIP_BOMB = gzip.compress(bytes(50 * 2**20))
DEFLATE_BOMB = zlib.compress(bytes(50 * 2**20))
HOSTILE: dict[str, Answer] = {
    "chunked without end": endless,
    "a short length announced": lies_about_length,
    "gzip": lambda r: bomb(r, GZIP_BOMB, "gzip"),
    "x-gzip": lambda r: bomb(r, GZIP_BOMB, "x-GZip"),
    "gzip in many members": lambda r: bomb(r, gzip.compress(bytes(60_000)) * 3, "gzip"),
    "deflate": lambda r: bomb(r, DEFLATE_BOMB, "deflate"),
    "bare deflate": lambda r: bomb(r, DEFLATE_BOMB[2:-4], "deflate"),
    "announced": lambda r: send(r, b"", Content_Length=str(10**12)),
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_arrives_is_bounded_whatever_was_announced(tmp_path: Path, answer: Answer) -> None:
    with server(answer) as url:
        cache = VideoCache(tmp_path, 2 * LIMIT, limits=VideoConfig(max_size_bytes=LIMIT))
        with pytest.raises(ClipError) as caught, cache.open(f"{url}/a.mp4"):
            pass
        assert caught.value.reason is Reason.OVER_LIMITS, caught.value
        with pytest.raises(UserError, match=f"more than {LIMIT} bytes"):
            read_bytes(f"{url}/m.csv", {}, LIMIT, what="manifest")
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.mp4")) == 0


def test_bytes_that_were_not_announced_count_in_the_cache(tmp_path: Path) -> None:
    body = bytes(60_000)
    with server(lambda request: send(request, body, Content_Length="", Connection="close")) as url:
        cache = VideoCache(tmp_path, LIMIT)
        with cache.open(f"{url}/old.mp4") as old:
            assert old.stat().st_size == len(body)
        with cache.open(f"{url}/a.mp4") as a:  # the old one makes room
            assert a.stat().st_size == len(body)
            assert not old.exists()
            with pytest.raises(ClipError) as caught, cache.open(f"{url}/b.mp4"):
                pass
            assert caught.value.reason is Reason.STORAGE
            assert sum(path.stat().st_size for path in tmp_path.rglob("*.mp4")) == len(body)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "bare", ""])
def test_what_comes_compressed_although_nobody_asked_is_unpacked(tmp_path: Path, encoding: str) -> None:
    plain = bytes(range(256)) * 100
    packed = {"gzip": gzip.compress(plain[:99]) + gzip.compress(plain[99:]), "deflate": zlib.compress(plain)}
    body = {**packed, "bare": zlib.compress(plain)[2:-4], "": plain}[encoding]
    header = "deflate" if encoding == "bare" else encoding
    with server(lambda request: send(request, body, Content_Encoding=header)) as url:
        with VideoCache(tmp_path, LIMIT).open(f"{url}/a.mp4") as path:
            assert path.read_bytes() == plain
        assert read_bytes(f"{url}/a", {}, LIMIT, what="config") == plain


def test_a_compression_that_is_not_known_is_a_reason(tmp_path: Path) -> None:
    with (
        server(lambda request: send(request, b"x", Content_Encoding="br\u202e".encode().decode("latin-1"))) as url,
        pytest.raises(ClipError) as caught,
        VideoCache(tmp_path, LIMIT).open(f"{url}/a.mp4"),
    ):
        pass
    assert caught.value.reason is Reason.UNREADABLE_VIDEO
    assert "compressed ('br" in caught.value.message
    assert caught.value.message.isprintable()


SIGNED = "/b%2Fc%20d//%C3%BC/e.mp4?X-Sig=a%2Bb+c%2F%3D&e=%7E~&empty=&q='(x)'&p=::1"


def test_a_signed_address_reaches_the_server_byte_for_byte(tmp_path: Path) -> None:
    seen: list[str] = []
    video = write_video(tmp_path / "a.mp4", 5).read_bytes()

    def answer(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.path)
        if request.path.startswith("/from"):
            send(request, b"", 302, Location=SIGNED)
        else:
            send(request, video)

    with server(answer) as url:
        for address in (url + SIGNED, f"{url}/from"):
            with VideoCache(tmp_path / "cache", 10**6).open(address) as path:
                assert path.read_bytes() == video
            assert probe_uri(address, VideoConfig()).width == 64
        assert read_bytes(url + SIGNED, {}, 10**6, what="config") == video
    assert set(seen) == {SIGNED, "/from"}


def test_redirects_go_to_web_servers_alone(tmp_path: Path) -> None:
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://127.0.0.1/"):
        with server(lambda request, to=target: send(request, b"", 302, Location=to)) as url:  # type: ignore[misc]
            with pytest.raises(ClipError) as caught, VideoCache(tmp_path, LIMIT).open(f"{url}/a.mp4"):
                pass
            assert caught.value.reason is Reason.PERMISSION_DENIED, caught.value
            with pytest.raises(UserError):
                read_bytes(f"{url}/a", {}, LIMIT, what="config")
    with server(lambda request: send(request, b"", 302, Location="/again")) as url:
        with pytest.raises(ClipError) as caught, VideoCache(tmp_path, LIMIT).open(f"{url}/a.mp4"):
            pass
        assert caught.value.reason is Reason.NOT_FOUND


def test_private_addresses_are_left_alone_where_the_configuration_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1" if "example" in str(host) else host, *a, **k)
    )
    options = {"http": {"private_hosts": False}}
    with server(lambda request: (asked.append(request.path), send(request, b"inside"))[0]) as url:
        port = url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "video.example"):
            address = f"http://{host}:{port}/a.mp4"
            with pytest.raises(ClipError) as caught, VideoCache(tmp_path, LIMIT, options).open(address):
                pass
            assert caught.value.reason is Reason.PERMISSION_DENIED, f"{host}: {caught.value}"
            with pytest.raises(UserError):
                read_bytes(address, options, LIMIT, what="manifest")
        assert asked == []
        with VideoCache(tmp_path, LIMIT).open(f"http://video.example:{port}/a.mp4") as path:
            assert path.read_bytes() == b"inside"


def test_the_switch_for_private_addresses_is_true_or_false() -> None:
    text = "{manifest: m, output: /run, storage: {https: {private_hosts: 'no'}}}"
    with pytest.raises(UserError, match=r"storage\.https\.private_hosts is 'no'; allowed: true or false"):
        config_from_text(text, "job.yaml")
    config_from_text(text.replace("'no'", "no"), "job.yaml")


def test_a_listing_without_end_is_refused() -> None:
    with server(lambda request: endless(request, Content_Type="text/html")) as url:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(UserError, match="cannot be listed"):
            read_manifest(f"{url}/folder/*.mp4", JobConfig(manifest="m", output="/run", prompts=("x",)))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


def test_which_addresses_are_public() -> None:
    inside = "10.1.2.3 127.0.0.1 169.254.169.254 192.168.1.1 100.64.0.1 0.0.0.0 224.0.0.1 ::1 fe80::1%eth0 fd00::1"
    hidden = "::ffff:10.0.0.1 64:ff9b::a00:1 2002:a00:1::1"
    assert not [host for host in f"{inside} {hidden}".split() if is_public(host)]
    assert all(map(is_public, ("8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808")))


def test_ranges_share_a_connection_and_are_bounded(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "a.mp4", 5).read_bytes() + b"\0\0\x10\0free" + bytes(2**20)
    connections: set[object] = set()
    sent = 0

    def answer(request: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        connections.add(request.client_address)
        request.close_connection = False
        begin, _, end = request.headers.get("Range", f"bytes=0-{len(plain) - 1}")[6:].partition("-")
        body = plain[int(begin) : int(end) + 1]
        sent += len(body)
        send(request, body, 206, Connection="keep-alive", Content_Range=f"bytes {begin}-{end}/{len(plain)}")

    def too_much(request: BaseHTTPRequestHandler) -> None:
        if request.command == "HEAD":
            send(request, b"", Content_Length=str(len(plain)))
            return
        begin = int(request.headers["Range"][6:].partition("-")[0])
        send(request, b"", 206, Content_Length="", Transfer_Encoding="chunked", Content_Range=f"bytes {begin}-")
        for at in range(begin, begin + 2**26, 2**16):  # and 64 MB more
            request.wfile.write(b"10000\r\n" + plain[at : at + 2**16].ljust(2**16, b"\0") + b"\r\n")

    with server(answer) as url:
        assert probe_uri(f"{url}/a.mp4", VideoConfig()).frame_count == 5
    assert len(connections) == 1
    with server(too_much) as url:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert probe_uri(f"{url}/a.mp4", VideoConfig()).frame_count == 5
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**15  # KiB


@pytest.mark.parametrize("knows", ["neither size nor ranges", "no ranges"])
def test_servers_without_sizes_or_ranges_are_probed(tmp_path: Path, knows: str) -> None:
    plain = write_video(tmp_path / "a.mp4", 5).read_bytes()  # its index is at the end

    def answer(request: BaseHTTPRequestHandler) -> None:
        send(request, plain, Content_Length="" if knows.startswith("neither") else str(len(plain)))

    with server(answer) as url:
        info = probe_uri(f"{url}/a.mp4", VideoConfig())
        assert (info.width, info.frame_count) == (64, 5)
        with pytest.raises(ClipError) as caught:
            probe_uri(f"{url}/a.mp4", VideoConfig(max_size_bytes=1000))
        assert caught.value.reason is Reason.OVER_LIMITS


@pytest.mark.parametrize(
    "address",
    [
        *("reference://x", "REFERENCE://x", "zip://a.mp4::s3://b/k.zip", "simplecache::https://h/a.mp4", "tar://a::/x"),
        *("file::/etc/passwd", "data:video/mp4;base64,AAAA", "dir://a", "ftp://h/a.mp4", "sftp://h/a", "smb://h/a"),
    ],
)
def test_kinds_of_storage_that_nobody_allowed(tmp_path: Path, address: str) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(f'{{"uri": "{address}", "prompts": ["x"]}}\n')
    config = JobConfig(manifest=str(manifest), output="/run")
    with pytest.raises(UserError, match=r"row 1.*allowed: "):
        read_manifest(str(manifest), config)
    for key in ("manifest", "visual_prompts"):
        with pytest.raises(UserError, match=rf"line 1: {key} .*allowed: "):
            config_from_text(json.dumps({"manifest": "m", "output": "/run", key: address}), "job.yaml")
    with pytest.raises(ClipError) as caught, VideoCache(tmp_path, LIMIT).open(address):
        pass
    assert caught.value.reason in (Reason.PERMISSION_DENIED, Reason.NOT_FOUND)
    if "://" not in address:
        return  # of a mask it is a path, as everything without a scheme
    mask = f'[{{"object_id": 1, "frame": 0, "mask": {{"png": "{address}"}}}}]'.replace('"', '\\"')
    manifest.write_text(f'{{"uri": "a.mp4", "visual_prompts": "{mask}"}}\n')
    with pytest.raises(UserError, match=r"row 1.*mask"):
        read_manifest(str(manifest), config)


def test_the_configuration_allows_more(tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text("uri\nSFTP://h/a.mp4\nzip://a.mp4\n")
    video = VideoConfig(protocols=("sftp", "zip"))
    config = JobConfig(manifest=str(manifest), output="/run", prompts=("x",), video=video)
    with pytest.raises(UserError) as caught:
        read_manifest(str(manifest), config)
    assert [problem[: problem.index("uri")] for problem in caught.value.problems] == [f"{manifest} row 2 (line 3): "]


def test_masks_and_tables_that_never_end_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.csv")
    for path in ("/dev/zero", str(tmp_path / "fifo.csv")):
        with pytest.raises(ClipError) as caught:
            read_mask_file(path, {})
        assert caught.value.reason is Reason.UNREADABLE_VIDEO
        with pytest.raises(UserError, match="not a regular file"):
            read_bytes(path, {}, LIMIT, what="manifest")
    with server(endless) as url:
        with pytest.raises(ClipError) as caught:
            read_mask_file(f"{url}/a.png", {})
        assert caught.value.reason is Reason.OVER_LIMITS


def test_a_configuration_may_come_through_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    threading.Thread(target=lambda: (tmp_path / "fifo").write_text("manifest: m\noutput: /run\n"), daemon=True).start()
    assert load_config(str(tmp_path / "fifo")).output == "/run"
    with pytest.raises(UserError, match="not a regular file"):
        load_config("/dev/zero")


def test_addresses_of_local_files_may_be_escaped(tmp_path: Path) -> None:
    video = write_video(tmp_path / "ä#1 %41?.mp4", 3)
    addresses = (video.as_uri(), video.as_uri().replace("file:///", "FILE://localhost/"), f"file://{video}", str(video))
    for address in addresses:
        assert probe_uri(address, VideoConfig()).width == 64
        assert video_size(address) == video.stat().st_size
        with VideoCache(tmp_path / "cache", LIMIT).open(address) as path:
            assert path == video
        assert read_bytes(address, {}, LIMIT, what="config") == video.read_bytes()
    assert not (tmp_path / "cache").exists()


def test_local_paths_that_lead_nowhere_have_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "file").write_text("x")
    cache = VideoCache(tmp_path / "cache", LIMIT)
    for path in (
        tmp_path / "a",
        tmp_path / "a" / "b.mp4",
        tmp_path / ("x" * 300),
        tmp_path / "file" / "x.mp4",
        f"{tmp_path}/x\0y",
    ):
        with pytest.raises(ClipError) as caught, cache.open(str(path)):
            pass
        assert caught.value.reason is Reason.NOT_FOUND, caught.value
