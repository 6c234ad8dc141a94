"""One folder on any fsspec storage: the only place that talks to filesystems."""

from __future__ import annotations

import contextlib
import datetime
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import fsspec
import pyarrow.fs as pafs

from sam3ray.failures import ClipError, JobStopped, Reason, UserError
from sam3ray.files import options_for
from sam3ray.guard.addresses import AddressError, folder_form
from sam3ray.guard.redact import redact, remember_secrets
from sam3ray.store import creating, s3
from sam3ray.store.creating import Guarantee
from sam3ray.store.errors import describe
from sam3ray.store.layout import TEMPORARY
from sam3ray.store.retrying import RetryPolicy, retrying
from sam3ray.store.scratch import unnamed_file

T = TypeVar("T")
R = TypeVar("R")

PARALLEL_READS = 32


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a listing: its path below the root, size in bytes, and when it was written (Unix seconds)."""

    path: str
    size: int
    modified: float | None


_UNKNOWN_KIND = "its kind is not known; allowed: a path, s3://, gs:// or az://"


def _file_on_the_way(path: str) -> str:
    """The nearest existing parent of a local path if it is a file, else empty."""
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return path if os.path.isfile(path) else ""


class Storage:
    """A folder and its options. Picklable; each process opens its own filesystem.

    Paths are relative to the folder, with `/`. Every call is retried where that can help (see `retrying`). It raises
    `JobStopped` if storage rejects it, and `ClipError` with reason `storage` if storage stays unreachable.
    """

    def __init__(self, uri: str, options: Mapping[str, Any] | None = None, retry: RetryPolicy | None = None) -> None:
        try:
            self.uri = folder_form(uri)
        except AddressError as error:
            raise UserError(f"output {redact(uri)} {error}") from None
        if "://" not in self.uri and (file := _file_on_the_way(self.uri)):
            why = "is a file" if file == self.uri else f"cannot be a folder, because {file} is a file"
            raise UserError(f"{self.uri} {why}; allowed: a folder")
        self.options = dict(options or {})
        self.retry = retry or RetryPolicy()
        self.enforced: bool | None = None  # whether create-if-absent is enforced, according to `probe`
        remember_secrets(self.options)
        self._opened: tuple[int, Any, str] | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({redact(self.uri)!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "options": self.options, "retry": self.retry, "enforced": self.enforced}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["uri"], state["options"], state["retry"])  # type: ignore[misc]
        self.enforced = state["enforced"]

    # ---- the filesystem

    def _open(self) -> tuple[Any, str]:
        # One filesystem per process, because event loops and connections do not survive a fork.
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                options = options_for(self.uri, self.options)
                try:
                    # A separate instance, unaffected by listings that other code in the process has cached.
                    fs, root = fsspec.core.url_to_fs(self.uri, **{**options, "skip_instance_cache": True})
                except (ImportError, ValueError, TypeError) as error:
                    known = _UNKNOWN_KIND if "not known" in str(error) else describe(error)
                    raise UserError(f"cannot use the storage {redact(self.uri)}: {known}") from None
                self._opened = (os.getpid(), fs, str(root).rstrip("/"))
            return self._opened[1], self._opened[2]

    @property
    def fs(self) -> Any:
        return self._open()[0]

    @property
    def root(self) -> str:
        return self._open()[1]

    @property
    def is_local(self) -> bool:
        return creating.kind_of(self.fs) == "local"

    @property
    def is_s3(self) -> bool:
        return creating.kind_of(self.fs) == "s3"

    @property
    def guarantee(self) -> Guarantee:
        return creating.GUARANTEES[creating.kind_of(self.fs)]

    def arrow(self) -> pafs.FileSystem:
        """The same filesystem for pyarrow."""
        if self.is_local:
            return pafs.LocalFileSystem()
        return pafs.PyFileSystem(pafs.FSSpecHandler(self.fs))

    def address(self, path: str = "") -> str:
        """The full URI of a path."""
        return f"{self.uri}/{path}" if path else self.uri

    def shown(self, path: str = "") -> str:
        """The full URI for messages, without credentials."""
        return redact(self.address(path))

    def full(self, path: str = "") -> str:
        """The path in the form that the filesystem expects."""
        return f"{self.root}/{path}" if path else self.root

    def retrying(self, what: str, path: str, call: Callable[[], T]) -> T:
        return retrying(self.retry, what, self.address(path), call)

    # ---- reading

    def read(self, path: str) -> bytes | None:
        """The file's bytes; None if there is no such file."""

        def ask() -> bytes:
            if self.is_local:
                with open(self.full(path), "rb") as file:
                    return file.read()
            if self.is_s3:
                return s3.get(self.fs, self.full(path))
            return self.fs.cat_file(self.full(path))

        try:
            return self.retrying("read", path, ask)
        except FileNotFoundError:
            return None

    def read_tail(self, path: str, size: int) -> bytes | None:
        """The last `size` bytes, or the whole file if it has fewer; None if there is no such file."""

        def ask() -> bytes:
            full = self.full(path)
            if self.is_local:
                with open(full, "rb") as file:
                    file.seek(max(0, os.fstat(file.fileno()).st_size - size))
                    return file.read()
            if self.is_s3:
                return s3.get(self.fs, full, start=-size)
            total = int(self.fs.info(full)["size"])
            return self.fs.cat_file(full, start=max(0, total - size), end=total)

        try:
            return self.retrying("read", path, ask)
        except FileNotFoundError:
            return None

    def read_range(self, path: str, start: int, end: int) -> bytes | None:
        """Bytes from `start` up to `end`; None if there is no such file."""

        def ask() -> bytes:
            full = self.full(path)
            if self.is_local:
                with open(full, "rb") as file:
                    file.seek(start)
                    return file.read(end - start)
            if self.is_s3:
                return s3.get(self.fs, full, start, end)
            return self.fs.cat_file(full, start=start, end=end)

        try:
            return self.retrying("read", path, ask)
        except FileNotFoundError:
            return None

    def size(self, path: str) -> int | None:
        """The file's size in bytes; None if there is no such file."""

        def ask() -> int:
            if self.is_local:
                return os.stat(self.full(path)).st_size
            if self.is_s3:
                return int(s3.head(self.fs, self.full(path))["ContentLength"])
            self.fs.invalidate_cache()
            return int(self.fs.info(self.full(path))["size"])

        try:
            return self.retrying("look at", path, ask)
        except FileNotFoundError:
            return None

    def exists(self, path: str) -> bool:
        return self.size(path) is not None

    def names(self, folder: str, told: Callable[[int], None] | None = None) -> list[str]:
        """Names in a folder, by one listing; empty if there is no such folder.

        Args:
            told: called from time to time with the count, if a listing takes many requests.
        """
        return [entry.path.rpartition("/")[2] for entry in self.listed(folder, told=told)]

    def listed(self, folder: str, prefix: str = "", told: Callable[[int], None] | None = None) -> list[Entry]:
        """The files and folders in a folder whose names begin with `prefix`, by one listing.

        The size of a folder is 0. Empty if there is no such folder.
        """

        def ask() -> list[Entry]:
            if self.is_local:
                with os.scandir(self.full(folder)) as found:
                    return [_local_entry(folder, item) for item in found if item.name.startswith(prefix)]
            if self.is_s3:
                return [
                    _s3_entry(f"{folder}/{name}" if folder else name, item)
                    for name, item in s3.listing(self.fs, self.full(folder), prefix, told=told)
                ]
            self.fs.invalidate_cache()
            below = self.full(folder).rstrip("/")
            items = {str(info["name"]).rstrip("/"): info for info in self.fs.ls(self.full(folder), detail=True)}
            items.pop(below, None)  # the empty object that a console's "create folder" makes
            entries = [
                Entry(f"{folder}/{name}" if folder else name, int(info.get("size") or 0), _modified(info))
                for path, info in items.items()
                if (name := path.rpartition("/")[2]).startswith(prefix)
            ]
            if told is not None:
                told(len(entries))
            return entries

        try:
            return self.retrying("list", folder, ask)
        except FileNotFoundError:
            return []

    def walk(self, folder: str = "", told: Callable[[int], None] | None = None) -> Iterator[Entry]:
        """All files below a folder, by one listing. Files that vanish meanwhile are omitted.

        Args:
            told: called from time to time with the count, if a listing takes many requests.
        """
        if self.is_local:
            yield from self._walk_local(self.full(folder))
            return

        def ask() -> list[Entry]:
            if self.is_s3:
                return [
                    _s3_entry(f"{folder}/{name}" if folder else name, item)
                    for name, item in s3.listing(self.fs, self.full(folder), deep=True, told=told)
                ]
            self.fs.invalidate_cache()
            prefix = self.root + "/"
            entries = []
            for path, info in self.fs.find(self.full(folder), detail=True).items():
                if info.get("type") == "directory" or str(path).endswith("/"):
                    continue
                if not str(path).startswith(prefix):
                    raise JobStopped(
                        f"the store lists {redact(str(path))} in {self.shown(folder)}, which is impossible"
                    )
                entries.append(Entry(str(path)[len(prefix) :], int(info.get("size") or 0), _modified(info)))
            return entries

        try:
            yield from self.retrying("list", folder, ask)
        except FileNotFoundError:
            return

    def _walk_local(self, folder: str) -> Iterator[Entry]:
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return
        except PermissionError as error:
            raise JobStopped(f"cannot list {folder}: {describe(error)}") from None
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk_local(entry.path)
                continue
            with contextlib.suppress(FileNotFoundError):
                facts = entry.stat()
                yield Entry(os.path.relpath(entry.path, self.root), facts.st_size, facts.st_mtime)

    def download(self, path: str, local: str) -> bool:
        """Fetch a file. False if there is no such file."""
        try:
            self.retrying("read", path, lambda: self.fs.get_file(self.full(path), local))
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def fetched(self, path: str) -> Iterator[str | None]:
        """A local copy of a file; the file itself on local storage; None if there is no such file."""
        if self.is_local:
            full = self.full(path)
            yield full if os.path.exists(full) else None
            return
        with unnamed_file() as local:
            yield local if self.download(path, local) else None

    def each(self, call: Callable[[T], R], items: Iterable[T], workers: int | None = None) -> Iterator[R]:
        """Apply a reading call to many items, in order, in a limited number of threads."""
        # Local reads gain nothing from threads.
        workers = workers or (4 if self.is_local else PARALLEL_READS)
        pending: list[Any] = []
        with ThreadPoolExecutor(workers, thread_name_prefix="store") as pool:
            try:
                for item in items:
                    pending.append(pool.submit(call, item))
                    if len(pending) >= 4 * workers:
                        yield pending.pop(0).result()
                while pending:
                    yield pending.pop(0).result()
            finally:
                for future in pending:
                    future.cancel()

    # ---- writing

    def create(self, local: str, path: str) -> bool:
        """Create a file from a local one, unless it exists. True if this call created it.

        At every moment there is either no file or a complete one. If the process dies, at most a temporary file is left
        in `.tmp/`, on storage that needs one.
        """
        # If the store is not known to enforce the condition, an existing file is never overwritten.
        if not self.is_local and not self.enforced and self.exists(path):
            return False
        return self._create(local, path)

    def _create(self, local: str, path: str) -> bool:
        token = uuid.uuid4().hex
        size = os.path.getsize(local)

        def attempt() -> bool:
            return creating.create(self.fs, local, self.full(path), self.full(TEMPORARY), token)

        try:
            if self.retrying("create", path, attempt):
                return True
        except (FileExistsError, FileNotFoundError) as error:
            # "Not found" means a missing bucket, or comes from a client's clean-up after "exists" (gcsfs).
            if isinstance(error, FileNotFoundError) and not self.exists(path):
                raise self._no_folder("create", path, error) from None
            # An earlier try of this call may have created it, with the answer lost.
            try:
                owner = self.retrying("look at", path, lambda: creating.token_of(self.fs, self.full(path)))
            except FileNotFoundError:
                return False  # created by another writer, and deleted meanwhile
            if owner != token:
                return False
        written = self.size(path)
        if written != size:
            # Ours but damaged: no file is better than a broken one. (None: it is already gone.)
            if written is not None:
                self.delete(path)
            raise ClipError(Reason.STORAGE, f"{size} bytes were sent, {written} arrived", self.shown(path))
        return True

    def create_bytes(self, data: bytes, path: str) -> bool:
        """Like `create`, from bytes."""
        with unnamed_file(data) as local:
            return self.create(local, path)

    def replace(self, local: str, path: str) -> None:
        """Write a file atomically: readers see the old one or the new one."""
        try:
            self.retrying(
                "write", path, lambda: creating.replace(self.fs, local, self.full(path), self.full(TEMPORARY))
            )
        except FileNotFoundError as error:
            raise self._no_folder("write", path, error) from None

    def _no_folder(self, what: str, path: str, error: FileNotFoundError) -> JobStopped:
        why = "its folder does not exist and cannot be created" if self.is_local else "no such folder or bucket"
        return JobStopped(f"cannot {what} {self.shown(path)}: {why}; check the address ({describe(error)})")

    def replace_bytes(self, data: bytes, path: str) -> None:
        """Like `replace`, from bytes."""
        with unnamed_file(data) as local:
            self.replace(local, path)

    def delete(self, path: str) -> bool:
        """Delete a file. False if there was none."""

        def attempt() -> None:
            self.fs.rm_file(self.full(path))
            self.fs.invalidate_cache()

        try:
            self.retrying("delete", path, attempt)
        except FileNotFoundError:
            return False
        return True

    def delete_empty_folder(self, path: str) -> None:
        """Delete a folder if it is empty. No effect on stores without folders."""
        if self.is_local:
            with contextlib.suppress(OSError):
                os.rmdir(self.full(path))

    def clear_temporaries(self) -> None:
        """Delete temporary files of dead processes."""
        now = time.time()
        for entry in list(self.walk(TEMPORARY)):
            age = now - entry.modified if entry.modified is not None else 0.0
            if creating.temporary_is_dead(entry.path.rsplit("/", 1)[-1], age):
                self.delete(entry.path)
        self.delete_empty_folder(TEMPORARY)

    def probe(self) -> Guarantee:
        """Test whether create-if-absent is enforced, with a small file that is deleted afterwards.

        Some S3-compatible servers ignore the condition. Then two simultaneous writers could both succeed, and the
        result is `Guarantee.CHECKED`.
        """
        if self.guarantee is not Guarantee.SERVER:
            return self.guarantee
        path = f"{TEMPORARY}/{creating.temporary_name()}"
        try:
            with unnamed_file(b"1") as local:
                self._create(local, path)
                self.enforced = not self._create(local, path)
        finally:
            self.delete(path)
        return Guarantee.SERVER if self.enforced else Guarantee.CHECKED


def _local_entry(folder: str, item: os.DirEntry[str]) -> Entry:
    return Entry(f"{folder}/{item.name}" if folder else item.name, 0, None)


def _s3_entry(path: str, item: Mapping[str, Any] | None) -> Entry:
    if item is None:
        return Entry(path, 0, None)
    return Entry(path, int(item["Size"]), item["LastModified"].timestamp())


def _modified(info: Mapping[str, Any]) -> float | None:
    for key in ("LastModified", "last_modified", "mtime", "updated", "modified", "created"):
        value = info.get(key)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                return datetime.datetime.fromisoformat(value).timestamp()
    return None
