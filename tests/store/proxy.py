"""An HTTP proxy that misbehaves on request, between a client and an object-store server."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Fault(Enum):
    NONE = "none"
    BUSY = "busy"  # 503 SlowDown; the server hears nothing
    BROKEN = "broken"  # 500; the server hears nothing
    FORBIDDEN = "forbidden"  # 403; the server hears nothing
    RESET = "reset"  # the connection is reset before the server hears anything
    HALF = "half"  # the server gets half of the body, then both connections are reset
    LOST = "lost"  # the server does as asked, its answer is dropped and the connection reset
    CUT = "cut"  # half of the answer's body arrives
    REFUSED = "refused"  # `FaultyProxy.refusal`; the server hears nothing
    SLOW = "slow"  # the answer comes late and in drops


@dataclass(frozen=True)
class Request:
    number: int
    method: str
    path: str


_HOP = {"connection", "expect", "transfer-encoding", "keep-alive", "proxy-connection"}
_ERRORS = {
    Fault.BUSY: (503, "SlowDown", "Please reduce your request rate."),
    Fault.BROKEN: (500, "InternalError", "We encountered an internal error."),
    Fault.FORBIDDEN: (403, "AccessDenied", "Access Denied"),
}


class FaultyProxy:
    """Listens at `url`; `decide` names the fault of each request and may be replaced at any time."""

    def __init__(self, upstream: str) -> None:
        self.decide: Callable[[Request], Fault] = lambda _: Fault.NONE
        self.log: list[tuple[Request, Fault]] = []
        self.refusal = (403, "AccessDenied", "Access Denied")  # status, code and message of Fault.REFUSED
        self.sent = 0  # bytes of answers
        self.drops: set[str] = set()  # headers, in lower case, that the server never gets to see
        self._upstream = urlsplit(upstream)
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                proxy._handle(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass  # a client that was reset closes its side in its own way

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, fault: Fault) -> int:
        return sum(found is fault for _, found in self.log)

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            request = Request(len(self.log), handler.command, handler.path)
            fault = self.decide(request)
            self.log.append((request, fault))
        body = _read_body(handler)
        if fault is Fault.RESET:
            _reset(handler)
        elif fault is Fault.REFUSED:
            _answer_error(handler, *self.refusal)
        elif fault in _ERRORS:
            _answer_error(handler, *_ERRORS[fault])
        elif fault is Fault.HALF:
            self._send(handler, body[: len(body) // 2], len(body)).close()
            _reset(handler)
        else:
            self._pass(handler, body, fault)

    def _send(self, handler: BaseHTTPRequestHandler, body: bytes, length: int) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._upstream.hostname or "", self._upstream.port, timeout=30)
        connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
        for name, value in handler.headers.items():
            if name.lower() not in _HOP | {"content-length"} | self.drops:
                connection.putheader(name, value)
        if length or handler.command in ("PUT", "POST"):
            connection.putheader("Content-Length", str(length))
        connection.endheaders(body)
        return connection

    def _pass(self, handler: BaseHTTPRequestHandler, body: bytes, fault: Fault) -> None:
        with contextlib.closing(self._send(handler, body, len(body))) as connection:
            answer = connection.getresponse()
            content = answer.read()
        self.sent += len(content)
        if fault is Fault.LOST:
            _reset(handler)
            return
        if fault is Fault.SLOW:
            time.sleep(0.1)
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP | {"content-length", "date", "server"}:
                handler.send_header(name, value)
        length = answer.getheader("Content-Length") if handler.command == "HEAD" else str(len(content))
        handler.send_header("Content-Length", length or "0")
        handler.end_headers()
        if fault is Fault.CUT:
            handler.wfile.write(content[: len(content) // 2])
            _reset(handler)
        elif fault is Fault.SLOW:
            for i in range(0, len(content), 1 + len(content) // 4):
                handler.wfile.write(content[i : i + 1 + len(content) // 4])
                time.sleep(0.02)
        elif handler.command != "HEAD":
            handler.wfile.write(content)


def _read_body(handler: BaseHTTPRequestHandler) -> bytes:
    if "chunked" in (handler.headers.get("Transfer-Encoding") or "").lower():
        chunks = []
        while size := int(handler.rfile.readline().split(b";")[0], 16):
            chunks.append(handler.rfile.read(size))
            handler.rfile.readline()
        handler.rfile.readline()
        return b"".join(chunks)
    return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))


def _answer_error(handler: BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
    # As S3 words it; Azure's client reads the code from the header.
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/xml")
    handler.send_header(
        "x-ms-error-code", {"SlowDown": "ServerBusy", "AccessDenied": "AuthorizationFailure"}.get(code, code)
    )
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def _reset(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())  # at once, whoever else holds the socket object


@contextlib.contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(upstream)
    try:
        yield proxy
    finally:
        proxy.close()
