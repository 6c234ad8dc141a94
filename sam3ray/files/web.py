"""Untrusted web servers: bodies are limited as they arrive, and addresses are sent exactly as written.

fsspec's HTTP file system makes the requests. The settings here make it safe with untrusted servers:

* No address is quoted again, including those of redirects, since a signature covers the address as written.
* A compressed body is unpacked here, piece by piece, and its size is counted.
* Only the requested range is read, however much is sent.
* Redirects must go to http(s). With `private_hosts: false`, no connection goes to a private network, under any name.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from sam3ray.guard.printable import printable

PRIVATE_HOSTS = "private_hosts"  # the key under `storage.http`
PRIVATE = "is an address of a private network"

_CHUNK = 2**20
_WHOLE_BYTES = 64 * _CHUNK  # for bodies that are not copied to a file: listings of folders
_CONNECT_S = 30.0
_SILENCE_S = 60.0
_SLOWEST = 64 * 2**10  # bytes in `_SILENCE_S`; a slower server would occupy a worker for days


class TooLarge(Exception):
    """More bytes arrived, or were announced, than allowed."""


class Refused(Exception):
    """The content cannot be used. The message is a clause that says why."""


def client_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fsspec options for web servers, made from a job's options."""
    given = dict(options)
    client = any_host if given.pop(PRIVATE_HOSTS, True) else public_hosts
    return {"encoded": True, "get_client": client, **given}


async def any_host(**client_kwargs: Any) -> Any:
    return _session(None, client_kwargs)


async def public_hosts(**client_kwargs: Any) -> Any:
    return _session(_public_socket, client_kwargs)


def _session(socket_factory: Callable[[Any], socket.socket] | None, client_kwargs: Mapping[str, Any]) -> Any:
    import aiohttp

    class Bounded(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            """The body, up to the requested length."""
            if self._body is not None or not self.ok:
                return await super().read()
            wanted = _range_bytes(self.request_info.headers.get("Range", ""))
            most = _WHOLE_BYTES if wanted is None else wanted
            async with asyncio.timeout(_SILENCE_S * (1 + most / _CHUNK)):
                if self.content_length is not None and self.content_length <= most:
                    return await super().read()  # up to here, the connection can be used again
                body = bytearray()
                while len(body) < most and (chunk := await self.content.read(most - len(body))):
                    body += chunk
            if wanted is None and not self.content.at_eof():
                self.close()
                raise Refused(f"the server sent more than {most} bytes in reply to a request for a listing")
            self.close()
            return bytes(body)

    headers = {"Accept-Encoding": "identity", **client_kwargs.get("headers", {})}
    settings = {
        "auto_decompress": False,
        "requote_redirect_url": False,
        "response_class": Bounded,
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S),
        "connector": aiohttp.TCPConnector(socket_factory=socket_factory),
    }
    return aiohttp.ClientSession(**{**settings, **client_kwargs, "headers": headers})


def _range_bytes(header: str) -> int | None:
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", header)
    return int(found[2]) - int(found[1]) + 1 if found else None


def _public_socket(address_info: Any) -> socket.socket:
    """Called with each address before connecting to it, after the name was resolved."""
    family, kind, protocol, _, address = address_info
    if not is_public(str(address[0])):
        raise PermissionError(f"{address[0]} {PRIVATE}")
    return socket.socket(family, kind, protocol)


def is_public(host: str) -> bool:
    """Whether a numeric address belongs to the public internet, even if it is wrapped in an IPv6 address."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def copy(
    fs: Any, address: str, sink: BinaryIO, max_bytes: int, progress: Callable[[int], None] = lambda _: None
) -> int:
    """Copies the whole body, unpacked, into a file. Returns its size in bytes; `progress` gets the bytes so far.

    Raises:
        TooLarge: it has more than `max_bytes`; the file then has a part of it.
        Refused: it has a compression that was not requested.
        Exception: what aiohttp raises.
    """
    from fsspec.asyn import sync

    return int(sync(fs.loop, _copy, fs, address, sink, max_bytes, progress))


async def _copy(fs: Any, address: str, sink: BinaryIO, max_bytes: int, progress: Callable[[int], None]) -> int:
    session = await fs.set_session()
    async with session.get(fs.encode_url(address), **fs.kwargs) as response:
        fs._raise_not_found_for_status(response, address)
        if (response.content_length or 0) > max_bytes:
            raise TooLarge
        unpack = _unpacking(response.headers.get("Content-Encoding", ""))
        written = arrived = counted = 0
        since = time.monotonic()
        async for chunk in response.content.iter_chunked(_CHUNK):
            arrived += len(chunk)
            if time.monotonic() - since > _SILENCE_S:
                if arrived - counted < _SLOWEST:
                    raise TimeoutError
                since, counted = time.monotonic(), arrived
            for piece in unpack(chunk):
                written += len(piece)
                if written > max_bytes:
                    raise TooLarge
                sink.write(piece)
            progress(written)
    return written


@dataclass(frozen=True)
class Piece:
    """A part of a file.

    Attributes:
        begin: its offset, as the server says.
        info: the response's facts about the file, under fsspec's names: `size`, and what changes with the content.
    """

    begin: int
    data: bytes
    info: Mapping[str, Any]


def read_range(fs: Any, address: str, begin: int, end: int) -> Piece | None:
    """Bytes from one offset to another (exclusive), or fewer; None if the server does not serve ranges.

    Raises:
        Exception: what aiohttp raises.
    """
    from fsspec.asyn import sync

    found: Piece | None = sync(fs.loop, _read_range, fs, address, begin, end)
    return found


async def _read_range(fs: Any, address: str, begin: int, end: int) -> Piece | None:
    session = await fs.set_session()
    options = dict(fs.kwargs)
    headers = {**options.pop("headers", {}), "Range": f"bytes={begin}-{end - 1}"}
    async with session.get(fs.encode_url(address), headers=headers, **options) as response:
        if response.status == 416:  # it ends earlier, so the file has changed
            size = re.fullmatch(r"bytes \*/(\d{1,18})", response.headers.get("Content-Range", ""))
            return Piece(begin, b"", _told(response.headers, int(size[1]) if size else None))
        fs._raise_not_found_for_status(response, address)
        sent = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
        encoding = response.headers.get("Content-Encoding", "").strip().lower()
        if response.status != 206 or sent is None or encoding not in ("", "identity"):
            response.close()
            return None
        data = (await response.read())[: end - begin]
        return Piece(int(sent[1]), data, _told(response.headers, None if sent[2] == "*" else int(sent[2])))


def _told(headers: Mapping[str, str], size: int | None) -> Mapping[str, Any]:
    told = {name: headers[name] for name in ("ETag", "Content-MD5", "Last-Modified") if headers.get(name)}
    return told | ({} if size is None else {"size": size})


def _unpacking(encoding: str) -> Callable[[bytes], Iterator[bytes]]:
    """A function that turns arriving pieces into pieces of the content, of at most `_CHUNK` bytes each."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return lambda chunk: iter((chunk,))
    if name in ("gzip", "x-gzip", "deflate"):
        return _Inflater().feed
    raise Refused(
        f"the server sent it compressed ({printable(encoding)[:40]!r}), although compression was not requested"
    )


class _Inflater:
    """Unpacks gzip, zlib and raw deflate, which it recognises by their beginning."""

    def __init__(self) -> None:
        self._inflate: Any = None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        if self._inflate is None:
            self._inflate = _inflater_for(chunk)
        try:
            while chunk:
                piece = self._inflate.decompress(chunk, _CHUNK)
                if piece:
                    yield piece
                chunk = self._inflate.unconsumed_tail
                if self._inflate.eof:
                    chunk = self._inflate.unused_data
                    if not chunk.startswith(b"\x1f\x8b"):  # what follows another member of a gzip file is padding
                        return
                    self._inflate = _inflater_for(chunk)
                elif not piece and not chunk:
                    return
        except zlib.error as error:
            raise Refused("the server sent it compressed, and the compressed data is damaged") from error


def _inflater_for(beginning: bytes) -> Any:
    is_bare = not beginning.startswith(b"\x1f\x8b") and (
        beginning[0] & 0x0F != 8 or (len(beginning) > 1 and int.from_bytes(beginning[:2], "big") % 31)
    )
    return zlib.decompressobj(-15 if is_bare else 47)
