"""Videos from anywhere, as local paths: local ones in place, remote ones through a bounded cache.

The cache is a folder, which all processes of a node can share:

    <key>.lock           held shared while the video is in use, exclusively while it is fetched or removed; its time is
                         that of the last use
    <key>.<size>.part/   being fetched, with <key>.lock held exclusively
    <key>.<size>/        complete
    room.lock            held while space is reserved or freed

`<key>` names the uri and its content (size, etag, modification time), so a video that changes is fetched again. Path,
size and time (0) of what is fetched are the same whenever it is.
Locks are the kernel's (`flock`) and end with the process that holds them. If a process dies at any step, the videos
that it used are released, and its unfinished fetch is a `.part` folder without a lock, which the next fetch removes.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.faults.machine import free_bytes
from sam3ray.files import is_local, local_path
from sam3ray.files.sighting import of_frames, of_local, of_size
from sam3ray.video._fetching import open_by_ranges
from sam3ray.video._folder import SUFFIXES as FRAME_SUFFIXES
from sam3ray.video._frame_index import FrameIndex
from sam3ray.video._movie import needs_anchors
from sam3ray.video._opened import VideoSource
from sam3ray.video._ranges import RangedVideo
from sam3ray.video._remote import RemoteVideo, download, look_up, naming_store_errors, redact_uri
from sam3ray.video._signed import is_short_lived

__all__ = ["IndexKeeper", "VideoCache", "local_sighting", "redact_uri", "video_size"]

_POLL_S = 0.1
_STEP_BYTES = 64 * 2**20
_NO_ROOM = "Try again when fewer are in use, or raise video.cache_bytes"


def local_sighting(path: Path) -> str:
    """The sighting of a local file or folder of frames (`sam3ray.files.sighting`). Raises OSError."""
    now = time.time()
    if not path.is_dir():
        status = path.stat()
        return of_local(status.st_size, status.st_mtime_ns, now)
    with os.scandir(path) as entries:
        frames = [entry for entry in entries if os.path.splitext(entry.name)[1].lower() in FRAME_SUFFIXES]
    # Frame times are ignored, because copies on several nodes differ: a new frame of the same size is not noticed.
    return of_frames({entry.name: of_size(entry.stat().st_size) for entry in frames if not entry.name.startswith(".")})


class IndexKeeper(Protocol):
    """Keeps the index of a video's frames between attempts.

    Attributes:
        until_s: time up to which frames will be requested by position; None: the end.
    """

    until_s: float | None

    def find(self, sighting: str) -> tuple[FrameIndex | None, bool]:
        """The index of the video with this sighting, and whether the video is known to have none."""

    def keep(self, sighting: str, index: FrameIndex | None) -> None:
        """Keeps the index; None: the video has none."""


def _find_index(remote: RangedVideo, video: RemoteVideo, keeper: IndexKeeper) -> bool:
    """Whether the video has none, so that reading from the middle means reading everything before."""
    remote.index, lacks_index = keeper.find(video.sighting)
    remote.index_until_s = keeper.until_s
    remote.learned = functools.partial(keeper.keep, video.sighting)
    return lacks_index


def video_size(
    uri: str, storage_options: Mapping[str, Any] | None = None, limits: VideoConfig | None = None
) -> int | None:
    """Size in bytes of a video file or a folder's frames, for planning; None if the store does not report it.

    Raises:
        ClipError: not_found, permission_denied, storage, no_video_stream (a folder without frames), over_limits.
    """
    return look_up(uri, storage_options or {}, limits or VideoConfig())[1].size


class VideoCache:
    """Provides local paths for videos.

    Args:
        cache_dir: folder for remote videos; None: a folder of this user in the system's temporary folder, whose videos
            are removed when the cache is closed.
        max_bytes: maximum size at any time. Videos in use are never removed: if they fill the cache, the next one waits
            for room.
        storage_options: fsspec options.
        limits: `max_size_bytes` and `max_frames` are checked before anything is fetched.
        wait_s: how long to wait for room.
    """

    def __init__(
        self,
        cache_dir: str | os.PathLike[str] | None,
        max_bytes: int,
        storage_options: Mapping[str, Any] | None = None,
        *,
        limits: VideoConfig | None = None,
        wait_s: float = 300.0,
    ) -> None:
        self._is_temporary = cache_dir is None
        self._folder = Path(cache_dir) if cache_dir is not None else None
        self._max_bytes = max_bytes
        self._options = dict(storage_options or {})
        self._limits = limits or VideoConfig()
        self._wait_s = wait_s

    @contextmanager
    def open(
        self,
        uri: str,
        progress: Callable[[int], None] | None = None,
        saw: Callable[[str], None] | None = None,
        *,
        last: Path | None = None,
    ) -> Iterator[Path]:
        """A local path of the video, valid within the `with` block.

        Args:
            progress: called from time to time with the number of bytes so far, even if another process fetches them.
            saw: called with the video's sighting (`sam3ray.files.sighting`) before anything is fetched; may raise.
            last: the path that this cache gave for the video before. If it is still there, it is given again: nothing
                is asked of the store, or `saw`.

        Raises:
            ClipError: not_found, permission_denied, storage (network, disk, no room in time), over_limits,
                no_video_stream (a folder without frames).
        """
        if is_local(uri):
            path = Path(local_path(uri))
            if path != last:
                with naming_store_errors(uri):
                    path.stat()
                    seen = local_sighting(path)
                if saw is not None:
                    saw(seen)
            yield path
            return
        if last is not None:
            with self._pinned_again(last) as is_there:
                if is_there:
                    yield last
                    return
        fs, video = look_up(uri, self._options, self._limits)
        if saw is not None:
            saw(video.sighting)
        with self._fetched(fs, video, progress) as path:
            yield path

    @contextmanager
    def _fetched(self, fs: Any, video: RemoteVideo, progress: Callable[[int], None] | None) -> Iterator[Path]:
        if (video.size or 0) > self._max_bytes:
            raise ClipError(
                Reason.OVER_LIMITS,
                f"it has {video.size} bytes, and the video cache {self._folder or tempfile.gettempdir()} holds "
                f"{self._max_bytes} (video.cache_bytes)",
                redact_uri(video.uri),
            )
        with self._pinned(fs, video, progress or (lambda _: None)) as path:
            yield path

    @contextmanager
    def open_parts(
        self,
        uri: str,
        progress: Callable[[int], None] | None = None,
        saw: Callable[[str], None] | None = None,
        *,
        keeper: IndexKeeper | None = None,
    ) -> Iterator[VideoSource]:
        """Like `open`, but a large remote video is not fetched: its bytes are read on demand.

        That applies to MP4, MOV, Matroska, WebM, AVI, FLV, ASF, MXF, transport and program streams that are larger
        than `limits.ranges_above_bytes` or than the cache, on a store that returns ranges and reports changes of a
        file. Videos that are already in the cache are read from there. Videos whose signed addresses may expire before
        the clip ends are fetched.

        Args:
            keeper: keeps the index of the video's frames if it has no table of them.

        Raises:
            ClipError: as `open`. Reading may raise it, too, such as not_found if the video has changed.
        """
        if is_local(uri):
            with self.open(uri, progress, saw) as path:
                yield path
            return
        fs, video = look_up(uri, self._options, self._limits)
        if saw is not None:
            saw(video.sighting)
        remote = None if self._is_better_whole(video) else open_by_ranges(fs, video, progress)
        if remote is not None:
            with closing(remote):
                lacks_index = keeper is not None and needs_anchors(remote) and _find_index(remote, video, keeper)
                if not lacks_index or (video.size or 0) > self._max_bytes:
                    yield remote
                    return
        with self._fetched(fs, video, progress) as path:
            yield path

    def _is_better_whole(self, video: RemoteVideo) -> bool:
        size, above = video.size or 0, self._limits.ranges_above_bytes
        if video.is_folder or above is None:
            return True
        if size > self._max_bytes:
            return False
        if size <= above or is_short_lived(video.uri):
            return True
        return (
            self._folder is not None and self._folder.is_dir() and _complete_entry(self._folder, video.key) is not None
        )

    def close(self) -> None:
        """Remove unused files from a temporary cache, and leftovers of dead processes. Other caches are kept."""
        if self._folder is None or not self._is_temporary:
            return
        with _locked(self._folder / "room.lock", fcntl.LOCK_EX):
            entries = _entries(self._folder)
            removed = [e for e in entries if e.remove_if_unused()]
            if len(removed) == len(entries):
                (self._folder / "room.lock").unlink()
                with suppress(OSError):  # not empty: another process has just started to use it
                    self._folder.rmdir()

    def __enter__(self) -> VideoCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _pinned(self, fs: Any, video: RemoteVideo, progress: Callable[[int], None]) -> Iterator[Path]:
        folder = self._make_folder()
        lock = folder / f"{video.key}.lock"
        while True:
            with _locked(lock, fcntl.LOCK_SH | fcntl.LOCK_NB) as is_held:
                entry = _complete_entry(folder, video.key) if is_held else None
                if entry is not None:
                    os.utime(lock)  # least recently used first
                    yield entry if video.is_folder else next(entry.iterdir())
                    return
            with _locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_held:
                if is_held and _complete_entry(folder, video.key) is None:
                    try:
                        self._fetch(fs, video, folder, progress)
                    except BaseException:
                        lock.unlink(missing_ok=True)  # held by us, so unused
                        raise
            if not is_held:  # another process or thread is fetching it
                progress(sum(_size_of(e.path) for e in _entries(folder) if e.key == video.key))
                time.sleep(_POLL_S)

    @contextmanager
    def _pinned_again(self, path: Path) -> Iterator[bool]:
        """Whether a video is still where it was. If so, it stays within the `with` block."""
        folder = self._make_folder()
        entry = path if path.parent == folder else path.parent  # a folder of frames, or the one that holds the file
        if not entry.is_dir():
            yield False
            return
        lock = _Entry(entry).lock
        with _locked(lock, fcntl.LOCK_SH | fcntl.LOCK_NB) as is_held:
            is_there = is_held and entry.is_dir()
            if is_there:
                os.utime(lock)
            yield is_there

    def _fetch(self, fs: Any, video: RemoteVideo, folder: Path, progress: Callable[[int], None]) -> None:
        part = self._reserve(video, folder)
        counted = video.size or 0

        def arrived(count: int) -> None:
            nonlocal counted
            if count > counted:  # the announced size was missing or too low
                counted = count + max(1, min(_STEP_BYTES, self._max_bytes // 100))
                self._make_room_for(count, video, part)
            progress(count)

        try:
            download(fs, video, part, min(self._limits.max_size_bytes, self._max_bytes), arrived)
            if all(each.version for each in video.files):  # else `<key>` does not name the content
                for each in (*part.iterdir(), part):
                    os.utime(each, (0, 0))
            part.rename(folder / f"{video.key}.{_size_of(part)}")
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _reserve(self, video: RemoteVideo, folder: Path) -> Path:
        """Creates an empty `.part` folder, whose announced bytes count from now on."""
        deadline = time.monotonic() + self._wait_s
        size = video.size or 0
        while True:
            with _locked(folder / "room.lock", fcntl.LOCK_EX):
                if _make_room(folder, self._max_bytes - size, fetching=video.key):
                    self._check_disk(video, folder, size)
                    part = folder / f"{video.key}.{size}.part"
                    part.mkdir()
                    return part
            if time.monotonic() > deadline:
                would_fit = max(0, self._max_bytes - _used(folder))
                raise ClipError(
                    Reason.STORAGE,
                    f"the video cache {folder} holds {self._max_bytes} bytes (video.cache_bytes), and videos in use "
                    f"left no room for its {size} within {self._wait_s:g} s; {would_fit} would fit. {_NO_ROOM}",
                    redact_uri(video.uri),
                )
            time.sleep(_POLL_S)

    def _make_room_for(self, count: int, video: RemoteVideo, part: Path) -> None:
        """Makes room for bytes that were not announced. Does not wait: running fetches would wait for each other."""
        with _locked(part.parent / "room.lock", fcntl.LOCK_EX):
            if not _make_room(part.parent, self._max_bytes - count, fetching=video.key, leaving=part):
                raise ClipError(
                    Reason.STORAGE,
                    f"the video cache {part.parent} holds {self._max_bytes} bytes (video.cache_bytes), "
                    f"and videos in use left no room for its {count} and more. {_NO_ROOM}",
                    redact_uri(video.uri),
                )

    @staticmethod
    def _check_disk(video: RemoteVideo, folder: Path, size: int) -> None:
        """A fetch is not started if the disk has no room; unused videos are removed first to make room."""
        for entry in sorted((e for e in _entries(folder) if not e.is_part), key=_last_used):
            free = free_bytes(folder)
            if free is None or free >= size:
                break
            entry.remove_if_unused()
        free = free_bytes(folder)
        if free is not None and free < size:
            raise ClipError(
                Reason.LOCAL_DISK,
                f"it has {size} bytes, and the disk of the video cache {folder} has {free} left",
                redact_uri(video.uri),
            )

    def _make_folder(self) -> Path:
        if self._folder is None:
            self._folder = _temporary_folder()
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ClipError(
                Reason.LOCAL_DISK, f"the video cache cannot be created: {error.strerror}", str(self._folder)
            ) from error
        return self._folder


def _temporary_folder() -> Path:
    """This user's cache in the system's temporary folder; a new one if another user owns its name."""
    folder = Path(tempfile.gettempdir()) / f"sam3ray-videos-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if status.st_uid == os.getuid() and not folder.is_symlink() and status.st_mode & 0o077 == 0:
            return folder
    except FileExistsError:
        pass
    return Path(tempfile.mkdtemp(prefix="sam3ray-videos-"))


class _Entry:
    """One video of the cache, complete or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        parts = path.name.split(".")
        self.key, self.size = parts[0], int(parts[1])
        self.is_part = parts[-1] == "part"
        self.lock = path.parent / f"{self.key}.lock"

    def remove_if_unused(self) -> bool:
        with _locked(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_held:
            if is_held:
                doomed = self.path if self.is_part else self.path.rename(f"{self.path}.part")
                shutil.rmtree(doomed, ignore_errors=True)
                self.lock.unlink(missing_ok=True)
            return is_held


def _entries(folder: Path) -> list[_Entry]:
    found = []
    for path in folder.iterdir():
        key, _, rest = path.name.partition(".")
        if len(key) == 40 and rest.removesuffix(".part").isdigit():
            found.append(_Entry(path))
    return found


def _complete_entry(folder: Path, key: str) -> Path | None:
    return next((e.path for e in _entries(folder) if e.key == key and not e.is_part), None)


def _make_room(folder: Path, allowed: int, fetching: str, leaving: Path | None = None) -> bool:
    """Free space until the cache holds at most `allowed` bytes; False if videos in use prevent that.

    The caller holds room.lock, and the lock of the video that it is `fetching`, whose own folder is `leaving`.
    """
    kept = []
    for entry in _entries(folder):
        if entry.path == leaving:
            continue
        if entry.key == fetching:  # left by a dead process: we hold its lock
            shutil.rmtree(entry.path, ignore_errors=True)
        elif not (entry.is_part and entry.remove_if_unused()):
            kept.append(entry)
    # A download may be larger than announced.
    used = sum(max(entry.size, _size_of(entry.path)) if entry.is_part else entry.size for entry in kept)
    for entry in sorted((e for e in kept if not e.is_part), key=_last_used):
        if used <= allowed:
            break
        if entry.remove_if_unused():
            used -= entry.size
    return used <= allowed


def _used(folder: Path) -> int:
    return sum(entry.size for entry in _entries(folder))


def _size_of(folder: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except FileNotFoundError:  # removed or renamed meanwhile
        return 0


def _last_used(entry: _Entry) -> float:
    try:
        return entry.lock.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextmanager
def _locked(path: Path, how: int) -> Iterator[bool]:
    """Hold a lock file within a `with` block. With LOCK_NB, yields whether it was free."""
    handle = _lock(path, how)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


def _lock(path: Path, how: int) -> int | None:
    """Lock a file. The holder of an exclusive lock may delete the file, so check that the locked file still exists."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # another process has closed a temporary cache and removed its folder
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            continue
        try:
            fcntl.flock(handle, how)
            if os.path.samestat(os.stat(path), os.fstat(handle)):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
