"""Remote videos on any fsspec storage: sizes, versions, bytes, and the reasons of failures."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.callbacks import Callback

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.faults.causes import causes
from sam3ray.faults.machine import disk_fault, is_passing
from sam3ray.faults.storage import Kind, asked_again, explain, http_status
from sam3ray.files import WEB, is_local, kind_of_storage, open_filesystem, web
from sam3ray.files.sighting import of_frames, of_info
from sam3ray.guard.protocols import protocol_problem
from sam3ray.guard.redact import MASK, redact
from sam3ray.video._folder import sort_frames

_CHUNK = 8 * 2**20
_BATCH = 256  # frames of a folder that are requested together; the store's client fetches several at once
_VERSION_KEYS = ("ETag", "etag", "version_id", "LastModified", "last_modified", "mtime", "updated", "created", "crc32c")


def redact_uri(uri: str) -> str:
    """The uri for messages, without user, password, query and fragment, which may contain credentials."""
    if is_local(uri):
        return uri
    return redact(re.split(r"[?#]", uri, maxsplit=1)[0])


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch.

    Attributes:
        path: in its file system.
        size: size in bytes; None if the store does not report it.
        version: a value that changes with the content (etag, modification time); may be empty.
        sighting: both, as a sighting (`sam3ray.files.sighting`).
    """

    path: str
    size: int | None
    version: str
    sighting: str = ""


@dataclass(frozen=True)
class RemoteVideo:
    """A video on a store: one file, or the frames of a folder in order."""

    uri: str
    is_folder: bool
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int | None:
        """Total size in bytes; None if the store does not report it."""
        total = 0
        for file in self.files:
            if file.size is None:
                return None
            total += file.size
        return total

    @property
    def sighting(self) -> str:
        """The video's sighting (`sam3ray.files.sighting`)."""
        if not self.is_folder:
            return self.files[0].sighting
        return of_frames({posixpath.basename(file.path): file.sighting for file in self.files})

    @property
    def key(self) -> str:
        """Identifies this content of this uri: 40 hex digits."""
        digest = hashlib.sha256(self.uri.encode())
        for file in self.files:
            digest.update(repr((file.path, file.size, file.version)).encode())
        return digest.hexdigest()[:40]


@contextmanager
def naming_store_errors(uri: str) -> Iterator[None]:
    """Turn errors of fsspec and its stores into a `ClipError` without credentials."""
    try:
        yield
    except (ClipError, web.TooLarge):
        raise
    except Exception as error:
        if is_passing(error):
            raise  # the worker waits until the node has the missing resource
        # Each store has its own kinds of errors; all are classified, none is swallowed.
        reason, message = _classify(error)
        raise ClipError(reason, _without_secrets(message, uri), redact_uri(uri)) from error


def _classify(error: Exception) -> tuple[Reason, str]:
    if clause := _refusal(error):
        return clause
    found = explain(error)
    if found.code and found.kind in _OF_STORE:  # the store has reported the cause
        reason, phrase = _OF_STORE[found.kind]
        return reason, f"{phrase}: {found}"
    status = next(filter(None, map(http_status, causes(error, hidden=True))), None)
    # fsspec's HTTP client raises "not found" for every failure, even if no server answered.
    unreachable = isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError)
    if status in (404, 410) or (status is None and isinstance(error, FileNotFoundError) and not unreachable):
        return Reason.NOT_FOUND, "there is no such file or folder"
    if status in (401, 403) or (status is None and isinstance(error, PermissionError)):
        return Reason.PERMISSION_DENIED, "permission denied: it cannot be read"
    if (disk := disk_fault(error)) is not None:
        return disk.reason, disk.message
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return Reason.STORAGE, "the store did not answer in time"
    cause = error.__cause__ if unreachable and error.__cause__ is not None else error
    said = f"{type(cause).__name__}: {cause}"
    return Reason.STORAGE, f"the store failed: {said}" + (f" ({found.advice})" if found.advice else "")


_OF_STORE = {
    Kind.DENIED: (Reason.PERMISSION_DENIED, "permission denied: it cannot be read"),
    Kind.ARCHIVED: (Reason.PERMISSION_DENIED, "permission denied: it cannot be read"),
    Kind.CREDENTIALS: (Reason.STORAGE, "the store failed"),
    Kind.ELSEWHERE: (Reason.STORAGE, "the store failed"),
}


def _refusal(error: BaseException | None) -> tuple[Reason, str] | None:
    """Errors that a retry cannot fix: addresses that do not exist or are forbidden."""
    for each in causes(error, hidden=True):
        kind = type(each).__name__
        if isinstance(each, web.Refused):
            return Reason.UNREADABLE_VIDEO, str(each)
        if web.PRIVATE in str(each):
            forbidden = f"storage.http.{web.PRIVATE_HOSTS} forbids"
            return (
                Reason.PERMISSION_DENIED,
                f"it is not fetched: its address is in a private network, which {forbidden}",
            )
        if kind == "NonHttpUrlRedirectClientError":
            return (
                Reason.PERMISSION_DENIED,
                "it is not fetched: the server redirects to an address that is not http(s)",
            )
        if kind == "TooManyRedirects":
            return Reason.NOT_FOUND, "the server's redirects do not end at a file"
        if kind.endswith("InvalidURL") or kind == "InvalidUrlClientError":
            return Reason.NOT_FOUND, "its address is not valid"
        if isinstance(each, OSError) and each.errno in _NOWHERE:
            return Reason.NOT_FOUND, _NOWHERE[each.errno]
        if isinstance(each, ValueError) and "null byte" in str(each):
            return Reason.NOT_FOUND, "there is no such file or folder"
    return None


_NOWHERE = {
    errno.ELOOP: "its links form a loop",
    errno.ENAMETOOLONG: "its name is longer than the disk allows",
    errno.ENOTDIR: "there is no such file or folder",
    errno.EISDIR: "it is a folder",
}


def _without_secrets(message: str, uri: str) -> str:
    """The message without the uri's user, password and query, wherever they occur."""
    for secret in re.findall(r"://([^/@\s]+)@", uri) + re.findall(r"\?([^#\s]+)", uri):
        message = message.replace(secret, MASK)
    return " ".join(redact(re.sub(r"(\w+://[^\s?'\"]+)\?[^\s'\"]*", r"\1", message)).split())[:300]


def look_up(uri: str, storage_options: Mapping[str, Any], limits: VideoConfig) -> tuple[Any, RemoteVideo]:
    """The file system of a uri, and its file or folder.

    Raises:
        ClipError: not_found, permission_denied, storage; no_video_stream for a folder without frames; over_limits.
    """
    if problem := protocol_problem(uri, limits.protocols):
        raise ClipError(Reason.PERMISSION_DENIED, f"it is not fetched: its address {problem}", redact_uri(uri))
    is_web = kind_of_storage(uri) == WEB
    with naming_store_errors(uri):
        fs, path = open_filesystem(uri, storage_options)
        fs.invalidate_cache()  # listings cached for earlier clips may be outdated
        info = _info(fs, path)
        if info.get("type") != "directory":
            files: tuple[RemoteFile, ...] = (_remote_file(info, path, is_web),)
            video = RemoteVideo(uri, False, files)
        else:
            listed = fs.ls(path, detail=True)
            if any(not str(e["name"]).startswith(path.rstrip("/")) for e in listed):
                raise ClipError(Reason.NOT_FOUND, "the store lists another folder: its address has a double slash")
            entries = {posixpath.basename(e["name"].rstrip("/")): e for e in listed if _is_file(e)}
            names = sort_frames(entries, redact_uri(uri))
            files = tuple(_remote_file(entries[name], entries[name]["name"], is_web) for name in names)
            video = RemoteVideo(uri, True, files)
    if video.is_folder and len(files) > limits.max_frames:
        raise ClipError(
            Reason.OVER_LIMITS,
            f"the folder has {len(files)} frames; allowed: at most {limits.max_frames} (video.max_frames)",
            redact_uri(uri),
        )
    if video.size is not None and video.size > limits.max_size_bytes:
        raise ClipError(
            Reason.OVER_LIMITS,
            f"it has {video.size} bytes; allowed: at most {limits.max_size_bytes} (video.max_size_bytes)",
            redact_uri(uri),
        )
    return fs, video


def _info(fs: Any, path: str) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = fs.info(path)
    except Exception as error:  # noqa: BLE001 - raised below, with the store's reason
        fuller = asked_again(error, fs, path)
    else:
        return found
    raise fuller  # raised outside the handler to keep its own cause


def _is_file(entry: Mapping[str, Any]) -> bool:
    return entry.get("type") != "directory"


def _remote_file(info: Mapping[str, Any], path: str, is_web: bool) -> RemoteFile:
    size = info.get("size")
    version = "|".join(f"{key}={info[key]}" for key in _VERSION_KEYS if info.get(key) is not None)
    return RemoteFile(path, int(size) if size is not None else None, version, of_info(info, is_web=is_web))


def download(
    fs: Any,
    video: RemoteVideo,
    folder: Path,
    max_bytes: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Path:
    """Copy a video into an empty local folder; returns the local file, or the folder of frames.

    `progress` is called with the number of bytes so far, as often as the store reports it.

    Local names are made from the last part of the remote names, and cannot lead out of the folder.

    Raises:
        ClipError: the reasons of `naming_store_errors`; storage if the size differs from the announced one; over_limits
            if more than `max_bytes` arrive, whatever was announced.
    """
    targets = [
        folder / local_name(file.path, number if video.is_folder else None) for number, file in enumerate(video.files)
    ]
    arrived = 0
    for at in range(0, len(targets), _BATCH):
        files, batch = video.files[at : at + _BATCH], targets[at : at + _BATCH]
        counter = _Counter(progress, arrived, max_bytes)
        try:
            with naming_store_errors(video.uri):
                if video.is_folder:
                    fs.get([file.path for file in files], [str(target) for target in batch], callback=counter)
                else:
                    _fetch(fs, files[0], batch[0], max_bytes, counter, kind_of_storage(video.uri) == WEB)
        except web.TooLarge:
            raise ClipError(
                Reason.OVER_LIMITS, f"it has more than {max_bytes} bytes (the limit)", redact_uri(video.uri)
            ) from None
        for file, target in zip(files, batch, strict=True):
            got = os.path.getsize(target)
            arrived += got
            if file.size is not None and got != file.size:
                raise ClipError(Reason.STORAGE, f"{got} of {file.size} bytes arrived", redact_uri(video.uri))
        if arrived > max_bytes:
            raise ClipError(
                Reason.OVER_LIMITS, f"it has more than {max_bytes} bytes (the limit)", redact_uri(video.uri)
            )
        progress(arrived)
    return folder if video.is_folder else targets[0]


def _fetch(fs: Any, file: RemoteFile, target: Path, max_bytes: int, counter: _Counter, is_web: bool) -> None:
    if is_web:
        with open(target, "wb") as sink:
            web.copy(fs, file.path, sink, max_bytes, counter.absolute_update)
    elif file.size is None:
        with fs.open(file.path, "rb") as source, open(target, "wb") as sink:
            while chunk := source.read(_CHUNK):
                counter.relative_update(len(chunk))
                sink.write(chunk)
    else:
        fs.get_file(file.path, str(target), callback=counter)


class _Counter(Callback):
    """Reports how many bytes have arrived, and ends a transfer of more than `max_bytes`."""

    def __init__(self, progress: Callable[[int], None], before: int, max_bytes: int) -> None:
        super().__init__()
        self._progress = progress
        self._before = before
        self._max_bytes = max_bytes

    def call(self, *_: Any, **__: Any) -> None:
        if self._before + self.value > self._max_bytes:
            raise web.TooLarge
        self._progress(self._before + self.value)

    def branched(self, path_1: Any, path_2: Any, **_: Any) -> Callback:
        """The counter of one file in a folder, whose bytes are added to the total."""
        return _Branch(self)


class _Branch(Callback):
    def __init__(self, whole: _Counter) -> None:
        super().__init__()
        self._whole = whole

    def relative_update(self, inc: int = 1) -> None:
        self._whole.relative_update(inc)


def local_name(path: str, number: int | None) -> str:
    """A safe local file name that resembles the remote one; frames of a folder get `number` as a prefix."""
    stem, suffix = posixpath.splitext(posixpath.basename(re.split(r"[?#]", path, maxsplit=1)[0]))
    suffix = re.sub(r"[^A-Za-z0-9.]", "_", suffix)[:12]
    if number is not None:
        return f"{number:08d}{suffix}"
    return (re.sub(r"[^A-Za-z0-9_-]", "_", stem)[:80] or "video") + suffix
