"""A camera on RTSP that is asked for its stream, with the faults of real ones: passwords, silence, cuts, other sizes.

Pictures are encoded beforehand, so that a thread only sends bytes: libav in two threads of a process waits for itself.
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

_CLOCK = 90_000
_MTU = 1400


def encoded(images: Sequence[np.ndarray], fps: int = 30, gop: int = 10) -> list[list[bytes]]:
    """One access unit per image: its NAL units, parameter sets before each key frame."""
    height, width = images[0].shape[:2]
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
    codec.time_base, codec.framerate = Fraction(1, fps), Fraction(fps)
    codec.options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(gop), "x264-params": "repeat-headers=1"}
    packets = []
    for n, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = n, Fraction(1, fps)
        packets += codec.encode(frame)
    packets += codec.encode(None)
    return [[nal for nal in re.split(rb"\x00\x00\x00?\x01", bytes(packet)) if nal] for packet in packets]


class RtspCamera:
    """Serves one stream at `url`, again from its beginning for each client.

    Args:
        units: of `encoded`; they repeat.
        password: of the user "cam"; None: nobody is asked. Basic and digest are both accepted.
        cut_after: pictures until the connection breaks. `silent_after`: until nothing comes any more.
        sound: there is a second track, which goes on while the pictures are silent.
        ends: says goodbye after the last picture instead of starting over.
        path: of the stream; others are not found.

    Attributes:
        connections: how many clients have played so far.
    """

    def __init__(
        self,
        units: list[list[bytes]],
        fps: float = 30,
        *,
        password: str | None = None,
        cut_after: int | None = None,
        silent_after: int | None = None,
        sound: bool = False,
        ends: bool = False,
        path: str = "/live",
        port: int = 0,
    ) -> None:
        self._units, self._fps, self._password, self._path = units, fps, password, path
        self._cut_after, self._silent_after, self._ends = cut_after, silent_after, ends
        self._sound = sound
        self.connections = 0
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}{self._path}"

    def __enter__(self) -> RtspCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                self._converse(client)
            except OSError:
                return  # the client is gone

    def _converse(self, client: socket.socket) -> None:
        buffer = b""
        while not self._over.is_set():
            while b"\r\n\r\n" not in buffer:
                data = client.recv(4096)
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            text = head.decode()
            method, address = text.split()[:2]
            number = re.search(r"(?i)cseq: *(\d+)", text)
            assert number is not None

            def reply(status: str, *lines: str, body: str = "", cseq: str = number[1]) -> None:
                lines = (f"RTSP/1.0 {status}", f"CSeq: {cseq}", "Session: 7", *lines)
                if body:
                    lines += (f"Content-Length: {len(body)}",)
                client.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

            if method == "OPTIONS":
                reply("200 OK", "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
            elif not self._knows(text, method):
                reply("401 Unauthorized", 'WWW-Authenticate: Digest realm="cam", nonce="abc"')
            elif method == "DESCRIBE" and self._path not in address:
                reply("404 Not Found")
            elif method == "DESCRIBE":
                reply("200 OK", "Content-Type: application/sdp", f"Content-Base: {address}/", body=self._sdp())
            elif method == "SETUP":
                channels = "2-3" if "track2" in address else "0-1"
                reply("200 OK", f"Transport: RTP/AVP/TCP;unicast;interleaved={channels}")
            elif method == "PLAY":
                reply("200 OK")
                self.connections += 1
                self._play(client)
                return
            else:
                reply("200 OK")

    def _knows(self, text: str, method: str) -> bool:
        if self._password is None:
            return True
        if digest := re.search(r'uri="([^"]*)".*response="([0-9a-f]+)"', text):
            secrets = (f"cam:cam:{self._password}", f"{method}:{digest[1]}")
            one, two = (hashlib.md5(each.encode()).hexdigest() for each in secrets)
            return hashlib.md5(f"{one}:abc:{two}".encode()).hexdigest() == digest[2]
        return base64.b64encode(f"cam:{self._password}".encode()).decode() in text

    def _sdp(self) -> str:
        sets = ",".join(base64.b64encode(nal).decode() for nal in self._units[0] if nal[0] & 31 in (7, 8))
        return "\r\n".join(
            (
                "v=0",
                "o=- 0 0 IN IP4 127.0.0.1",
                "s=camera",
                "c=IN IP4 127.0.0.1",
                "t=0 0",
                "m=video 0 RTP/AVP 96",
                "a=rtpmap:96 H264/90000",
                f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={sets}",
                "a=control:track1",
                *(("m=audio 0 RTP/AVP 0", "a=control:track2") if self._sound else ()),
                "",
            )
        )

    def _play(self, client: socket.socket) -> None:
        sequence, began = 0, time.monotonic()
        n = 0
        while not self._over.is_set():
            if self._cut_after is not None and n >= self._cut_after:
                return
            if self._ends and n >= len(self._units):
                return
            if self._silent_after is not None and n >= self._silent_after:
                self._over.wait(0.1)
                if self._sound:
                    sequence += 1
                    header = struct.pack("!BBHII", 0x80, 0, sequence & 0xFFFF, sequence * 800, 8)
                    client.sendall(struct.pack("!BBH", 0x24, 2, len(header) + 800) + header + b"\xff" * 800)
                continue
            stamp = round(n / self._fps * _CLOCK) & 0xFFFFFFFF
            out = bytearray()
            for nal, is_last in _marked(self._units[n % len(self._units)]):
                for payload, marker in _payloads(nal, is_last):
                    header = struct.pack("!BBHII", 0x80, 96 | marker << 7, sequence & 0xFFFF, stamp, 7)
                    out += struct.pack("!BBH", 0x24, 0, len(header) + len(payload)) + header + payload
                    sequence += 1
            client.sendall(out)
            n += 1
            if (wait := began + n / self._fps - time.monotonic()) > 0:
                self._over.wait(wait)


def _marked(unit: list[bytes]) -> list[tuple[bytes, bool]]:
    return [(nal, n == len(unit) - 1) for n, nal in enumerate(unit)]


def _payloads(nal: bytes, is_last: bool) -> list[tuple[bytes, bool]]:
    """RFC 6184: a NAL unit as it is, or in fragments."""
    if len(nal) <= _MTU:
        return [(nal, is_last)]
    parts = [nal[at : at + _MTU] for at in range(1, len(nal), _MTU)]
    found = []
    for n, part in enumerate(parts):
        first, last = n == 0, n == len(parts) - 1
        head = bytes((nal[0] & 0xE0 | 28, first << 7 | last << 6 | nal[0] & 31))
        found.append((head + part, is_last and last))
    return found
