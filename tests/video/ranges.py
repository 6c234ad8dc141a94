"""A web server that counts what it sends, and may misbehave; and what a video looks like, frame by frame."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sam3ray.video import Frame


@dataclass
class Site:
    """Files by name, and how they are served.

    Attributes:
        sent: bytes of bodies.
        ranges: (begin, end) of those asked for, and `asked`: their paths with the query.
        headers: of every answer.
        takes_ranges: else the whole file is sent.
        change: called with each range; what it returns is sent instead of the range's (status, headers, body).
    """

    files: dict[str, bytes]
    url: str = ""
    sent: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    takes_ranges: bool = True
    change: Callable[[int, int], tuple[int, dict[str, str], bytes] | None] = lambda begin, end: None


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Site]:
    site = Site(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(200, {}, self.data(), body=False)

        def do_GET(self) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            data = self.data()
            if asked is None or not site.takes_ranges:
                self.answer(200, {}, data)
                return
            begin, end = int(asked[1]), int(asked[2]) + 1
            site.ranges.append((begin, end))
            site.asked.append(self.path)
            status, headers, body = site.change(begin, end) or (
                206, {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}, data[begin:end]
            )  # fmt: skip
            self.answer(status, headers, body)

        def data(self) -> bytes:
            return site.files[self.path.strip("/").partition("?")[0]]

        def answer(self, status: int, headers: dict[str, str], data: bytes, *, body: bool = True) -> None:
            self.send_response(status)
            for name, value in {**site.headers, "Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                site.sent += len(data)
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


def seen(frames: Iterable[Frame]) -> list[tuple[Any, ...]]:
    return [(frame.index, frame.pts, frame.time_s, frame.image.tobytes()) for frame in frames]
