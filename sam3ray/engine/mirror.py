"""Fetches a checkpoint from an object store to this node once, for all its processes.

    <cache>/<key>.lock     held exclusively while the checkpoint is fetched
    <cache>/<key>.part/    being fetched
    <cache>/<key>/         complete

`<key>` names the address and what the store lists there (names, sizes, etags), so a checkpoint that is replaced is
fetched again and never mixed with the old one. Locks are the kernel's (`flock`) and end with their process: if it dies
while fetching, the next one starts over. A folder is renamed into place only when every file has its listed size; what
the weights are is then told by their SHA-256 (`digest`), which the driver and every worker compare.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sam3ray.engine.digest import model_files
from sam3ray.failures import JobStopped, NotNow, UserError
from sam3ray.faults.machine import free_bytes
from sam3ray.faults.storage import Kind, explain
from sam3ray.files import open_filesystem
from sam3ray.guard.addresses import AddressError, folder_form, scheme_of
from sam3ray.guard.protocols import protocol_problem
from sam3ray.guard.redact import redact

_POLL_S = 0.2
_CHUNK = 16 * 2**20
_MAX_ENTRIES = 1_000  # a folder with more files is no checkpoint
_TRIES = 4


def is_address(checkpoint: str) -> bool:
    """Whether a checkpoint lies on an object store, not in a folder or on the hub."""
    return "://" in checkpoint and scheme_of(checkpoint) != "file"


def cache_folder(config_dir: str | None) -> Path:
    """Where this node keeps fetched checkpoints: `model.cache_dir`, else a folder of this user's cache."""
    if config_dir is not None:
        return Path(config_dir).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "sam3ray" / "checkpoints"


def mirrored(checkpoint: str, storage_options: Mapping[str, Any], cache: Path, *, fetch: bool = True) -> Path | None:
    """A folder on this node with the checkpoint's files, fetched if necessary.

    Args:
        checkpoint: the address of a folder.
        fetch: False: return None if it has not been fetched yet.

    Raises:
        JobStopped: the address names no checkpoint, or the store refuses.
        NotNow: the store is out of reach for now, or the disk is full.
    """
    name = f"model.checkpoint {redact(checkpoint)!r}"
    try:
        address = folder_form(checkpoint)
    except AddressError as error:
        raise JobStopped(f"{name} {error}") from None
    if problem := protocol_problem(address, ()):
        raise JobStopped(f"{name} {problem}")
    with _naming_errors(name):
        fs, root = open_filesystem(address, storage_options)
        files = _listed(fs, root, name)
    digest = hashlib.sha256(repr((address, sorted(files.items()))).encode())
    folder = cache / digest.hexdigest()[:40]
    if folder.is_dir() or not fetch:
        return folder if folder.is_dir() else None
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise JobStopped(f"{name}: cannot create {cache} ({error.strerror}); set model.cache_dir") from error
    with _locked(cache / f"{folder.name}.lock"):
        if not folder.is_dir():
            _fetch(fs, root, {file: size for file, (size, _) in files.items()}, folder, name)
    return folder


def _listed(fs: Any, root: str, name: str) -> dict[str, tuple[int, str]]:
    """The model's files in the folder: name -> size and etag."""
    fs.invalidate_cache()
    entries = [entry for entry in fs.ls(root, detail=True) if entry["type"] == "file"][: _MAX_ENTRIES + 1]
    if len(entries) > _MAX_ENTRIES:
        raise JobStopped(f"{name} has more than {_MAX_ENTRIES} files; name the folder of one checkpoint")
    found = {entry["name"].rpartition("/")[2]: entry for entry in entries}
    wanted = model_files(found)
    if "config.json" not in wanted or not any(file.endswith(".safetensors") for file in wanted):
        raise JobStopped(f"{name} is not a checkpoint folder: it needs config.json and a .safetensors file")
    return {
        file: (int(found[file].get("size") or 0), str(found[file].get("ETag") or found[file].get("etag") or ""))
        for file in wanted
    }


def _fetch(fs: Any, root: str, sizes: Mapping[str, int], folder: Path, name: str) -> None:
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a dead process, since we hold the lock
    free, needed = free_bytes(folder.parent), sum(sizes.values())
    if free is not None and free < needed:
        raise NotNow(
            f"{name} has {needed} bytes, and {folder.parent} has {free} free; make room or set model.cache_dir"
        )
    part.mkdir(mode=0o700)
    try:
        for file, size in sizes.items():
            _fetch_file(fs, f"{root.rstrip('/')}/{file}", part / file, size, name)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _fetch_file(fs: Any, source: str, target: Path, size: int, name: str) -> None:
    for attempt in range(1, _TRIES + 1):
        try:
            with _naming_errors(name):
                with (
                    fs.open(source, "rb", block_size=_CHUNK, cache_type="readahead") as stream,
                    open(target, "wb") as sink,
                ):
                    shutil.copyfileobj(stream, sink, _CHUNK)
                    sink.flush()
                    os.fsync(sink.fileno())
                if (got := target.stat().st_size) != size:
                    raise NotNow(f"{name}: {got} of {size} bytes of {target.name} arrived; is it being replaced?")
            return
        except NotNow:
            if attempt == _TRIES:
                raise
            time.sleep(2.0**attempt / 4)


@contextmanager
def _naming_errors(name: str) -> Iterator[None]:
    """Turns errors of storage and disk into a sentence that says what to do."""
    try:
        yield
    except (JobStopped, UserError):
        raise
    except ImportError as error:
        raise JobStopped(f"{name} needs a package that is not installed: {error}") from error
    except Exception as error:
        found = explain(error)
        if found.kind is Kind.NOT_STORAGE:
            raise
        if found.kind is Kind.BUSY:
            raise NotNow(f"{name} cannot be fetched now: {found}") from error
        what = "does not exist" if found.kind is Kind.GONE else "cannot be fetched"
        raise JobStopped(f"{name} {what}: {found}") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for the lock without blocking signals. The file stays: it is empty, and removing it would be a race."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(handle)
