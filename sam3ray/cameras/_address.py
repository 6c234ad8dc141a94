"""Addresses of live sources: which are allowed, how libav opens them, and what its errors mean to a user."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import av

from sam3ray.failures import UserError
from sam3ray.files import is_local
from sam3ray.guard.redact import redact

SILENT_S = 5.0  # a source that is silent for this long is connected to again
BLIND_S = 30.0  # one that sends data, but no picture
_ANSWER_S = 10.0  # how long a server may take to answer
_CALL_S = 25  # when listening: how long to wait for a camera before listening again
_STREAM = re.compile(r"(?i)(rtsp|rtsps|rtmp|rtmps|srt|udp)://")
_DEVICE = re.compile(r"/dev/video\d{1,3}")

Kind = Literal["stream", "device", "file"]


class Blind(OSError):
    """Data comes, but no picture, for `BLIND_S`."""


@dataclass(frozen=True)
class Address:
    """A live source.

    Attributes:
        text: the address as typed. It may contain a password, so messages use `name` instead.
        listens: whether to wait for a camera that pushes to this address.
        options: additional libav options.
    """

    text: str
    listens: bool = False
    options: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UserError."""
        if self.kind == "file" and not is_local(self.text):
            raise UserError(
                f"{self.name} is not a live source; allowed: rtsp://, rtmp://, srt:// or udp://, a device such as "
                "/dev/video0, or a video file on this machine"
            )
        if self.listens and not self.text.lower().startswith(("rtsp://", "rtmp://")):
            raise UserError(f"{self.name}: with listen, the address must begin with rtsp:// or rtmp://")
        if self.kind == "stream":
            if not self.text.isprintable():
                raise UserError(f"{self.name!r} contains a character that cannot be printed")
            try:
                host, _ = urlsplit(self.text).hostname, urlsplit(self.text).port
            except ValueError:
                raise UserError(
                    f"{self.name} has a host or port that is not valid; allowed: an address such as "
                    "rtsp://192.0.2.7:554/stream"
                ) from None
            if not host and not self.text.lower().startswith("udp://"):
                raise UserError(f"{self.name} names no host; allowed: an address such as rtsp://192.0.2.7:554/stream")

    @property
    def name(self) -> str:
        return redact(self.text)

    @property
    def kind(self) -> Kind:
        if _STREAM.match(self.text):
            return "stream"
        return "device" if _DEVICE.fullmatch(self.text) else "file"

    def open(self) -> av.container.InputContainer:
        """Opens the source. Raises FFmpegError or OSError, which `what_failed` turns into a sentence."""
        if self.kind == "device":
            return av.open(self.text, format="v4l2", options=self.options)
        scheme = self.text.partition(":")[0].lower()
        # PyAV interrupts a read after SILENT_S. libav's own limit must be higher, or it would read on once more.
        limit = str(round(2 * SILENT_S * 1e6))
        options = {"fflags": "nobuffer", "flags": "low_delay", "analyzeduration": "500000"}
        if scheme.startswith("rtmp"):
            options["rw_timeout"] = limit  # here, `timeout` would make libav listen
        else:
            options["timeout"] = limit
        if scheme.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"
        answer_s = _ANSWER_S
        if self.listens:
            answer_s = _CALL_S + _ANSWER_S
            if scheme == "rtsp":
                options |= {"rtsp_flags": "listen", "listen_timeout": str(_CALL_S)}
            else:
                options |= {"listen": "1", "timeout": str(_CALL_S)}
        how: dict[str, Any] = {"options": {**options, **self.options}, "timeout": (answer_s, SILENT_S)}
        began = time.monotonic()
        try:
            return av.open(self.text, **how)
        except av.error.InvalidDataError:  # so libav also says that it was interrupted while it waited for an answer
            if time.monotonic() - began < answer_s - 0.5:
                raise
            raise TimeoutError from None

    def missing(self) -> str | None:
        """Why there is no such device; None for other sources."""
        if self.kind != "device" or Path(self.text).exists():
            return None
        return self._of_device(FileNotFoundError()).sentence

    def what_failed(self, error: Exception, *, is_open: bool) -> Problem:
        """Explains an error. `is_open` says that the source was open before it failed."""
        if isinstance(error, Blind):
            return Problem(f"{self.name}: data arrives, but no picture for {BLIND_S:.0f} s")
        if self.kind == "device":
            return self._of_device(error)
        if isinstance(error, av.error.EOFError):
            return Problem(f"{self.name}: the stream has ended")
        if isinstance(error, av.error.ExitError | TimeoutError | BlockingIOError):
            if self.listens and not is_open:
                return Problem(f"{self.name}: waiting for a camera to push to it")
            return Problem(f"{self.name}: no data for {SILENT_S if is_open else _ANSWER_S:.0f} s")
        if isinstance(error, ConnectionRefusedError):
            return Problem(f"{self.name}: nothing answers at this host and port")
        if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
            why = (
                "the user name or password is wrong"
                if urlsplit(self.text).password
                else "it requires a user name and password, as in rtsp://USER:PASSWORD@host/stream"
            )
            return Problem(f"{self.name}: the camera refuses the connection: {why}", is_final=True)
        if isinstance(error, av.error.HTTPNotFoundError):
            return Problem(f"{self.name}: the camera has no stream at this path", is_final=True)
        if isinstance(error, av.error.ProtocolNotFoundError):
            scheme = self.text.partition(":")[0]
            return Problem(
                f"{self.name}: this build of PyAV cannot open {scheme}://; rtsp://, rtmp:// and udp:// always work",
                is_final=True,
            )
        if isinstance(error, av.error.InvalidDataError):
            if is_open:
                return Problem(f"{self.name}: what the source sends cannot be read as video")
            return Problem(f"{self.name}: what answers at this address sends no stream that can be read")
        if self.kind == "stream" and not is_open and (sentence := self._unresolved()):
            return Problem(sentence, is_final=True)
        if isinstance(error, OSError) and self.listens and not is_open:
            return Problem(f"{self.name}: cannot listen at this address: {_words(error)}")
        return Problem(f"{self.name}: {'the connection broke' if is_open else 'cannot be opened'}: {_words(error)}")

    def _of_device(self, error: Exception) -> Problem:
        there = ", ".join(sorted(str(each) for each in Path("/dev").glob("video*"))) or "none"
        if isinstance(error, FileNotFoundError):
            return Problem(f"{self.name}: there is no such camera; this machine has {there}", is_final=True)
        if isinstance(error, PermissionError):
            return Problem(
                f"{self.name}: no permission to read this camera; joining the group `video` usually helps",
                is_final=True,
            )
        return Problem(f"{self.name}: the camera cannot be read: {_words(error)}")

    def _unresolved(self) -> str:
        """Checks whether the host's name resolves. If not, libav only says "Input/output error"."""
        host = urlsplit(self.text).hostname
        if host is None:
            return ""
        try:
            socket.getaddrinfo(host, None)
        except (OSError, UnicodeError):  # a label of a name has at most 63 letters
            return f"{self.name}: the host {host!r:.100} is not known"
        return ""


@dataclass(frozen=True)
class Problem:
    """Why no frames come. `is_final`: waiting will not help, unless frames came before."""

    sentence: str
    is_final: bool = False


def _words(error: Exception) -> str:
    """An error's message, without its number and without the address, which may contain a password."""
    return redact(str(getattr(error, "strerror", None) or error))
