"""Reads ranges of a remote file, always of the version that was seen first.

Requests to S3 name the version, and a web server's answers name it. Other stores are asked for the version after each
range, which shows that the range was of that version.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.files import WEB, kind_of_storage, web
from sam3ray.files.sighting import change, of_info
from sam3ray.video._movie import picture_ranges
from sam3ray.video._opened import opened
from sam3ray.video._pieces import pieces_of
from sam3ray.video._ranges import Fetch, NoRanges, RangedVideo
from sam3ray.video._remote import RemoteVideo, local_name, naming_store_errors, redact_uri

_TS_PACKETS = (188, 192, 204)  # packet sizes in bytes; those of 192 have the sync byte after 4 bytes
# How a program stream, an FLV, an ASF (with WMV) and an MXF begin. Not OGG, whose frames have different times in libav
# after a jump.
_BEGINNINGS = (
    b"\0\0\1\xba",
    b"FLV\1",
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    bytes.fromhex("060e2b34020501010d0102010102"),
)


def has_versions(video: RemoteVideo) -> bool:
    """Whether a change of the file can be noticed: the store reports an etag or a time in addition to the size."""
    seen = json.loads(video.sighting)
    return bool(seen.get("size")) and ("etag" in seen or "modified" in seen)


def open_by_ranges(fs: Any, video: RemoteVideo, progress: Callable[[int], None] | None = None) -> RangedVideo | None:
    """Opens the video, which the caller must close; None if it must be fetched whole.

    Raises:
        ClipError: as `naming_store_errors`.
    """
    file = video.files[0]
    if file.size is None or not has_versions(video):
        return None
    fetch = fetcher(fs, video)
    remote = RangedVideo(fetch, local_name(file.path, None), file.size, progress or (lambda _: None))
    try:
        if picture_ranges(remote) is not None or pieces_of(remote, VideoConfig()) is not None or _is_stream(remote):
            return remote
    except NoRanges:
        pass
    except BaseException:
        remote.close()
        raise
    remote.close()
    return None


def _is_stream(remote: RangedVideo) -> bool:
    """Whether it is an AVI, a transport or program stream, or another container of `_BEGINNINGS`."""
    with opened(remote) as file:
        head = file.read(4 * max(_TS_PACKETS))
    if (head[:4] == b"RIFF" and head[8:12] == b"AVI ") or head.startswith(_BEGINNINGS):
        return True
    return any(head[4 * (spacing == 192) :: spacing][:3] == b"GGG" for spacing in _TS_PACKETS)


def fetcher(fs: Any, video: RemoteVideo) -> Fetch:
    """A function that returns the bytes from one offset to another (exclusive). It may be called in several threads.

    It raises ClipError: those of `naming_store_errors`, and not_found if the file has changed.
    """
    path, uri = video.files[0].path, video.uri
    is_web = kind_of_storage(uri) == WEB
    with naming_store_errors(uri):
        # S3's file objects send the version to the server (If-Match).
        conditional = fs.open(path, "rb", cache_type="none") if kind_of_storage(uri) == "s3" else None

    def of_web(begin: int, end: int) -> bytes:
        piece = web.read_range(fs, path, begin, end)
        if piece is None:
            raise NoRanges(Reason.STORAGE, "its server did not send the requested part of it", redact_uri(uri))
        _compare(video, piece.info, is_web=True)
        if piece.begin != begin:
            message = f"its server sent bytes from {piece.begin} on instead of {begin}"
            raise ClipError(Reason.STORAGE, message, redact_uri(uri))
        return piece.data

    def of_s3(begin: int, end: int) -> bytes:
        assert conditional is not None
        _compare(video, conditional.details, is_web=False)
        try:
            return bytes(conditional._fetch_range(begin, end))
        except OSError as error:
            if type(error).__name__ == "FileExpired":
                raise _changed(video, "its store reports another version of it") from None
            raise

    def of_store(begin: int, end: int) -> bytes:
        data = bytes(fs.cat_file(path, start=begin, end=end))
        fs.invalidate_cache(fs._parent(path))
        _compare(video, fs.info(path), is_web=False)
        return data

    read = of_web if is_web else of_store if conditional is None else of_s3

    def fetch(begin: int, end: int) -> bytes:
        with naming_store_errors(uri):
            return read(begin, end)

    return fetch


def _compare(video: RemoteVideo, info: Any, *, is_web: bool) -> None:
    if how := change(video.sighting, of_info(info, is_web=is_web)):
        raise _changed(video, how)


def _changed(video: RemoteVideo, how: str) -> ClipError:
    return ClipError(
        Reason.NOT_FOUND,
        f"the video has changed while it was being read ({how}); restore the original, or use another output",
        redact_uri(video.uri),
    )
