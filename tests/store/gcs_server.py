"""A stand-in for Google Cloud Storage: the part of its JSON API that gcsfs uses for files, kept in memory.

Written from the published API reference. It checks `ifGenerationMatch=0` as the real server does, so that the requests
our code makes are tested; it proves nothing about the real server.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class _Bucket:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.objects: dict[str, tuple[dict[str, Any], bytes]] = {}
        self.uploads: dict[str, tuple[dict[str, Any], bool, bytearray]] = {}

    def put(self, described: dict[str, Any], data: bytes, create: bool) -> dict[str, Any] | None:
        with self.lock:
            if create and described["name"] in self.objects:
                return None
            facts = {
                "kind": "storage#object",
                "size": str(len(data)),
                "md5Hash": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
                "generation": "1",
                "updated": "2026-11-20T10:00:00.000Z",
                "timeCreated": "2026-11-20T10:00:00.000Z",
                **described,
            }
            self.objects[described["name"]] = (facts, data)
            return facts


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: _Bucket

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: Any = None, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(body, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, {"error": {"code": status, "message": message}})

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        create = query.get("ifGenerationMatch") == "0"
        if query.get("uploadType") == "resumable" and "upload_id" not in query:
            name = str(len(self.bucket.uploads))
            described = {"name": query["name"], **json.loads(body)}
            self.bucket.uploads[name] = (described, create, bytearray())
            self._answer(200, Location=f"http://{self.headers['Host']}{url.path}?uploadType=resumable&upload_id={name}")
            return
        if "upload_id" in query:
            described, create, data = self.bucket.uploads[query["upload_id"]]
            data += body
            total = int(self.headers["Content-Range"].rpartition("/")[2])
            if len(data) < total:
                self._answer(308, Range=f"bytes=0-{len(data) - 1}")
                return
            facts = self.bucket.put(described, bytes(data), create)
        else:
            boundary = self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
            _, about, content, _ = body.split(b"--" + boundary, 3)
            described = json.loads(about.split(b"\n\n", 1)[1])
            facts = self.bucket.put(described, content.split(b"\n\n", 1)[1][:-1], create)
        if facts is None:
            self._refuse(412, "At least one of the pre-conditions you specified did not hold.")
        else:
            self._answer(200, facts)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        _, _, name = url.path.partition("/o/")
        if not name:
            prefix = query.get("prefix", "")
            names = sorted(found for found in self.bucket.objects if found.startswith(prefix))
            cut = query.get("delimiter")
            folders = sorted(
                {prefix + n[len(prefix) :].split(cut)[0] + cut for n in names if cut and cut in n[len(prefix) :]}
            )
            items = [self.bucket.objects[n][0] for n in names if not cut or cut not in n[len(prefix) :]]
            self._answer(200, {"kind": "storage#objects", "items": items, "prefixes": folders})
            return
        found = self.bucket.objects.get(unquote(name))
        if found is None:
            self._refuse(404, "No such object")
        elif "/download/" in url.path or query.get("alt") == "media":
            data = found[1]
            if spec := self.headers.get("Range"):
                start, _, stop = spec.removeprefix("bytes=").partition("-")
                data = data[int(start) : int(stop) + 1 if stop else None]
            checksum = base64.b64encode(binascii.crc32(data).to_bytes(4, "big")).decode()
            self._answer(206 if self.headers.get("Range") else 200, data, X_Goog_Hash=f"crc32={checksum}")
        else:
            self._answer(200, found[0])

    def do_DELETE(self) -> None:
        name = unquote(urlsplit(self.path).path.partition("/o/")[2])
        with self.bucket.lock:
            gone = self.bucket.objects.pop(name, None)
        if gone is None:
            self._refuse(404, "No such object")
        else:
            self._answer(204, b"")


@contextlib.contextmanager
def gcs_server() -> Iterator[str]:
    """The address of a server with one bucket of any name."""

    class Handler(_Handler):
        bucket = _Bucket()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
