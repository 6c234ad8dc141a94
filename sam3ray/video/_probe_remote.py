"""The facts of a video on any storage, from a few ranges of its bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.files import WEB, is_local, kind_of_storage, local_path, web
from sam3ray.video._fetching import open_by_ranges
from sam3ray.video._folder import probe_folder
from sam3ray.video._frame import VideoInfo
from sam3ray.video._pieces import Fragments, pieces_of
from sam3ray.video._probe import headers, probe, with_first_frame
from sam3ray.video._remote import RemoteVideo, download, local_name, look_up, naming_store_errors, redact_uri
from sam3ray.video._source import DEMUXERS, naming_errors, video_stream
from sam3ray.video._tables import check_tables
from sam3ray.video._truncation import HEAD_BYTES, intact_until

BLOCK_BYTES = 256 * 2**10
BUDGET_BYTES = 64 * 2**20  # headers, an index at the end and one frame need far less


def probe_uri(uri: str, limits: VideoConfig, storage_options: Mapping[str, Any] | None = None) -> VideoInfo:
    """The facts of a video file or folder of numbered frames on any fsspec storage.

    A remote file is not fetched: the demuxer reads the ranges that it needs, at most BUDGET_BYTES in all.

    Raises:
        ClipError: as `probe`, and storage.
    """
    if is_local(uri):
        return probe(local_path(uri), limits, measure=True)
    fs, video = look_up(uri, storage_options or {}, limits)
    where = redact_uri(uri)
    if video.is_folder:
        return _probe_frames(fs, video, limits)
    if video.size == 0:
        raise ClipError(Reason.UNREADABLE_VIDEO, "the file is empty", where)
    is_web = kind_of_storage(uri) == WEB
    with naming_store_errors(uri):
        stream = fs.open(video.files[0].path, "rb", block_size=BLOCK_BYTES, cache_type="blockcache")
    with stream:
        if is_web and isinstance(stream, _streamed()):
            return _probe_beginning(fs, video, limits)
        bounded = _Bounded(stream, uri)
        try:
            facts = _probe_stream(bounded, limits, where, video.size)
        except ClipError:
            if is_web and bounded.has_no_ranges:
                return _probe_beginning(fs, video, limits)
            if bounded.is_used_up and (facts_by_ranges := _probe_by_ranges(fs, video, limits)) is not None:
                return facts_by_ranges
            # libav hides the store's error behind its own.
            if bounded.error is not None:
                raise bounded.error from None
            raise
    if limits.ranges_above_bytes is None or (video.size or 0) <= limits.cache_bytes:
        return facts
    remote = open_by_ranges(fs, video)
    if remote is not None:
        remote.close()
    return replace(facts, has_ranges=remote is not None)


def _probe_by_ranges(fs: Any, video: RemoteVideo, limits: VideoConfig) -> VideoInfo | None:
    """The facts of a long fragmented MP4, whose tables at the beginning do not give its duration."""
    remote = open_by_ranges(fs, video)
    if remote is None:
        return None
    with closing(remote):
        if not isinstance(pieces_of(remote, limits), Fragments):
            return None
        return replace(probe(remote, limits), has_ranges=limits.ranges_above_bytes is not None)


def _streamed() -> type:
    """fsspec's file object for a web server without range requests, read once from beginning to end."""
    from fsspec.implementations.http import HTTPStreamFile

    kind: type = HTTPStreamFile
    return kind


def _probe_beginning(fs: Any, video: RemoteVideo, limits: VideoConfig) -> VideoInfo:
    """The facts from the first BUDGET_BYTES, for servers without sizes or range requests."""
    file, where = video.files[0], redact_uri(video.uri)
    budget = min(BUDGET_BYTES, limits.max_size_bytes)
    with TemporaryDirectory(prefix="sam3ray-probe-") as folder:
        local = Path(folder) / local_name(file.path, None)
        is_whole = True
        try:
            with naming_store_errors(video.uri), local.open("wb") as sink:
                web.copy(fs, file.path, sink, budget)
        except web.TooLarge:
            is_whole = False
        if not is_whole and budget == limits.max_size_bytes:
            raise ClipError(Reason.OVER_LIMITS, f"it has more than {budget} bytes (the limit)", where)
        try:
            facts = probe(local, limits)
        except ClipError as error:
            if is_whole or error.reason is not Reason.UNREADABLE_VIDEO:
                raise ClipError(error.reason, error.message, where) from None
            message = (
                f"its server does not support range requests, and the first {budget} bytes are not enough to open it"
            )
            raise ClipError(Reason.STORAGE, message, where) from None
    return facts if is_whole else replace(facts, size_bytes=video.size)


def _probe_stream(stream: _Bounded, limits: VideoConfig, where: str, size: int | None) -> VideoInfo:
    with (
        naming_errors(where, "cannot be opened"),
        av.open(stream, "r", container_options={"format_whitelist": DEMUXERS}, metadata_errors="replace") as container,
    ):
        video = video_stream(container, limits, where)
        facts = headers(container, video)
        check_tables(container, None, limits, where)
        at = stream.seek(0, io.SEEK_CUR)
        stream.seek(0)
        head = stream.read(HEAD_BYTES)
        stream.seek(at)
        facts = replace(facts, intact_s=intact_until(container, video, size, head))
        first = next(iter(container.decode(video)), None)
    if first is None:
        raise ClipError(Reason.UNREADABLE_VIDEO, "it contains no frame", where)
    return with_first_frame(facts, first, size)


def _probe_frames(fs: Any, video: RemoteVideo, limits: VideoConfig) -> VideoInfo:
    """Only the first frame is fetched."""
    with TemporaryDirectory(prefix="sam3ray-probe-") as folder:
        first = RemoteVideo(video.uri, True, video.files[:1])
        facts = probe_folder(download(fs, first, Path(folder), limits.max_size_bytes), limits)
    count = len(video.files)
    duration_s = None if facts.fps is None else float(count / facts.fps)
    return replace(facts, frame_count=count, duration_s=duration_s, size_bytes=video.size)


class _Bounded(io.RawIOBase):
    """A file that ends after BUDGET_BYTES, and keeps the reason why it ended or failed."""

    def __init__(self, stream: Any, uri: str) -> None:
        super().__init__()
        self._stream = stream
        self._uri = uri
        self._left = BUDGET_BYTES
        self.error: ClipError | None = None
        self.is_used_up = False
        self.has_no_ranges = False  # a web server without ranges, which fsspec notices at the first request

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            with naming_store_errors(self._uri):
                try:
                    data: bytes = self._stream.read(size)
                except ValueError as error:
                    self.has_no_ranges = "range requests" in str(error)
                    raise
            self._left -= len(data)
            if self._left < 0:
                self.is_used_up = True
                message = f"its headers and first frame are not within {BUDGET_BYTES} bytes"
                raise ClipError(Reason.UNREADABLE_VIDEO, message, redact_uri(self._uri))
        except ClipError as error:
            self.error = error
            raise OSError(str(error)) from error
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())
