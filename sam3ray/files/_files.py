"""Reads small files and lists folders on any fsspec storage, with limits and errors in plain sentences.

Used before a job starts, for configurations, manifests and prompts. Videos and results go through `sam3ray.video` and
`sam3ray.store`.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

from sam3ray.failures import UserError
from sam3ray.faults.storage import explain
from sam3ray.files import web
from sam3ray.guard.addresses import AddressError, one_form, scheme_of
from sam3ray.guard.protocols import protocol_problem
from sam3ray.guard.redact import redact

# What to install for an address that fsspec alone cannot open.
EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "adl": "azure",
}


_CHUNK = 2**20
_QUERY = re.compile(r"(\w+://[^\s?'\"]+)\?[^\s'\"]*")  # signatures, whatever their parameters are called
WEB = "http"  # plain web servers are not stores, and do not get the options of one


def is_local(uri: str) -> bool:
    """Whether this is a path on this machine, with or without `file://`."""
    return "://" not in uri or uri.lstrip()[:8].lower().startswith(("file://", "local://"))


def local_path(uri: str) -> str:
    """The path that a local uri means: that of `file:///a%20b`, as `Path.as_uri` writes it, is `/a b`."""
    if "://" not in uri:
        return uri
    try:
        return one_form(uri)
    except AddressError:  # control characters: no file will be found by it
        return uri.split("://", 1)[1]


def suffix_of(uri: str) -> str:
    """The suffix of the file's name in lower case: `.csv` of `https://host/a.CSV?signature=b.c`."""
    name = uri.partition("?")[0].partition("#")[0] if kind_of_storage(uri) == WEB else uri
    return posixpath.splitext(name)[1].lower()


def kind_of_storage(uri: str) -> str:
    """The kind of storage of a uri: `s3`, `gcs`, `azure`, `http` (also for https), or fsspec's name of another
    protocol.
    """
    return _kind(uri.split("://", 1)[0].strip().lower()) if "://" in uri else "file"


def _kind(protocol: str) -> str:
    return EXTRAS.get(protocol, WEB if protocol == "https" else protocol)


def options_for(uri: str, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """The fsspec options for a uri, selected from those of a job or a caller.

    Options under a kind of storage (`{"s3": {...}}`) are only for that kind; options directly in `storage_options` are
    for every store. Paths on this machine get none, and web servers only their own.
    """
    if is_local(uri):
        return {}
    kind = kind_of_storage(uri)
    chosen: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, value in storage_options.items():
        if not _names_a_kind(key, value):
            chosen[key] = value
        elif _kind(key) == kind:
            own |= value
    return own if kind == WEB else chosen | own


def ambiguous_options(uris: Iterable[str], storage_options: Mapping[str, Any]) -> str | None:
    """A sentence if options could be for several kinds of store; else None."""
    shared = sorted(key for key, value in storage_options.items() if not _names_a_kind(key, value))
    if not shared:
        return None
    kinds = sorted({kind_of_storage(uri) for uri in uris} - {"file", "local", "memory", WEB})
    if len(kinds) < 2:
        return None
    key = " ".join(shared[0].split())
    example = f"storage: {{{kinds[-1]}: {{{key}: ...}}}}"
    return f"storage.{key} could be for {' or '.join(kinds)}, all of which this job uses; say which, as in {example}"


def _names_a_kind(key: str, value: Any) -> bool:
    import fsspec

    return isinstance(value, Mapping) and (key in EXTRAS.values() or key in fsspec.available_protocols())


def resolve(uri: str) -> str:
    """The address independent of the current directory and in its single spelling (`sam3ray.guard.addresses`).

    Raises:
        UserError: the address is not valid.
    """
    try:
        return one_form(uri)
    except AddressError as error:
        raise UserError(f"{redact(uri)} {error}") from None


def read_bytes(uri: str, storage_options: Mapping[str, Any], max_bytes: int, *, what: str) -> bytes:
    """The whole file.

    Raises:
        UserError: it cannot be read, or has more than `max_bytes`.
    """
    fs, path = filesystem(uri, storage_options, what=what)
    try:
        return read_whole(fs, path, uri, max_bytes, may_be_pipe=what == "config")
    except web.TooLarge:
        raise UserError(f"{what} {redact(uri)} has more than {max_bytes} bytes (the limit)") from None
    except Exception as error:
        raise UserError(_cannot_read(uri, what, error)) from error


@contextmanager
def local_copy(uri: str, storage_options: Mapping[str, Any], max_bytes: int, *, what: str) -> Iterator[str]:
    """A local path of the file: its own, or that of a copy, which is deleted at the end of the block.

    Raises:
        UserError: it cannot be read, is not a regular file, or has more than `max_bytes`.
    """
    fs, path = filesystem(uri, storage_options, what=what)
    with tempfile.TemporaryDirectory(prefix="sam3ray-") as folder:
        try:
            if is_local(uri):
                if not stat.S_ISREG(os.stat(path).st_mode):
                    raise web.Refused("it is not a regular file")
            else:
                source, path = path, os.path.join(folder, "copy")
                with open(path, "wb") as sink:
                    _copy(fs, source, uri, sink, max_bytes)
        except web.TooLarge:
            raise UserError(f"{what} {redact(uri)} has more than {max_bytes} bytes (the limit)") from None
        except Exception as error:
            raise UserError(_cannot_read(uri, what, error)) from error
        yield path


def _copy(fs: Any, source: str, uri: str, sink: BinaryIO, max_bytes: int) -> None:
    if kind_of_storage(uri) == WEB:
        web.copy(fs, source, sink, max_bytes)
        return
    copied = 0
    with open(source, "rb") if is_local(uri) else fs.open(source, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            copied += len(chunk)
            if copied > max_bytes:
                raise web.TooLarge
            sink.write(chunk)


def read_whole(fs: Any, path: str, uri: str, max_bytes: int, *, may_be_pipe: bool = False) -> bytes:
    """All bytes of an opened address.

    Does not ask for everything at once: local files would reserve `max_bytes`, and web servers return only what has
    arrived.

    Raises:
        web.TooLarge: there are more than `max_bytes`.
        web.Refused: it is a device, which need not end, or a FIFO, which may have no writer.
        Exception: what the store raises.
    """
    if is_local(uri):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or (may_be_pipe and stat.S_ISFIFO(mode))):
            raise web.Refused("it is not a regular file")
    data = io.BytesIO()
    _copy(fs, path, uri, data, max_bytes)
    return data.getvalue()


def read_text(uri: str, storage_options: Mapping[str, Any], max_bytes: int, *, what: str) -> str:
    """The whole file as text; a byte-order mark is dropped."""
    return decode(read_bytes(uri, storage_options, max_bytes, what=what), uri, what=what)


def decode(data: bytes, uri: str, *, what: str) -> str:
    """UTF-8 text of these bytes.

    Raises:
        UserError: it is not UTF-8, naming the line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        found = f"byte 0x{data[error.start]:02x}"
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            found = "UTF-16"
        raise UserError(f"{what} {redact(uri)} line {line}: {found} is not UTF-8 text; save it as UTF-8") from error


def filesystem(uri: str, storage_options: Mapping[str, Any], *, what: str) -> tuple[Any, str]:
    """The fsspec file system of a uri, and the path in it. It gets the options that `options_for` selects.

    The configuration decides which kinds of storage a job may use (`sam3ray.guard.protocols`).

    Raises:
        UserError: an unknown kind of address, one that opens other addresses, or its package is not installed.
    """
    import fsspec

    name = redact(uri)
    if problem := protocol_problem(uri, fsspec.available_protocols()):
        raise UserError(f"{what} {name} {problem}")
    try:
        return open_filesystem(uri, storage_options)
    except ImportError as error:
        protocol = scheme_of(uri)
        extra = EXTRAS.get(protocol)
        install = f"pip install 'sam3ray[{extra}]'" if extra else str(error)
        raise UserError(f"{what} {name}: {protocol}:// needs a package that is not installed: {install}") from error
    except Exception as error:
        raise UserError(_cannot_read(uri, what, error)) from error


def open_filesystem(uri: str, storage_options: Mapping[str, Any]) -> tuple[Any, str]:
    """The same, without checking what is allowed. Raises what fsspec raises.

    fsspec's own `url_to_fs` would treat `::` anywhere in an address as a chain of file systems.
    """
    import fsspec

    if is_local(uri):
        return fsspec.filesystem("file"), local_path(uri)
    scheme, _, rest = uri.strip().partition("://")
    address = f"{scheme.lower()}://{rest}"
    options = options_for(address, storage_options)
    if kind_of_storage(address) == WEB:
        options = web.client_options(options)
    kind = fsspec.get_filesystem_class(scheme.lower())
    fs = fsspec.filesystem(scheme.lower(), **{**kind._get_kwargs_from_urls(address), **options})
    return fs, fs._strip_protocol(address)


def _cannot_read(uri: str, what: str, error: Exception) -> str:
    uri = redact(uri)
    if isinstance(error, FileNotFoundError):
        return f"{what} {uri} does not exist"
    if isinstance(error, IsADirectoryError):
        return f"{what} {uri} is a folder; allowed: a file"
    if isinstance(error, PermissionError):
        return f"{what} {uri} cannot be read: permission denied"
    if isinstance(error, web.Refused):
        return f"{what} {uri} cannot be read: {error}"
    reason = _QUERY.sub(r"\1", str(explain(error)))
    return f"{what} {uri} cannot be read: {redact(reason)[:400]}"
