"""Create-if-absent: a file appears on the store complete, and only if no file of its name exists.

The condition is enforced as follows:

* local disk: an unnamed temporary file (Linux `O_TMPFILE`) is linked to its name. `link(2)` fails if the name is
  taken. A process that dies before that leaves nothing. Without unnamed files or hard links (other systems, some
  network mounts), a named temporary file in `.tmp/` is linked or, in the worst case, renamed after a check.
* S3, Azure, GCS: the server, on `If-None-Match: *` or `ifGenerationMatch=0`. S3 gets each file in one
  request, which may carry 5 GiB, so no multipart upload can be left behind. Azure keeps the invisible blocks of an
  interrupted upload for a week.
* memory: a lock within the process.
* any other filesystem: the file is uploaded under a temporary name, the final name is checked, and the file is moved.
  Two simultaneous writers can then both succeed, and the later file stays: `Guarantee.CHECKED`.

A request may succeed although its answer is lost. The client then retries and gets "exists". So if the store keeps
metadata, each call marks its file with a random token: if the existing file carries our token, we created it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import threading
import uuid
from enum import Enum
from typing import Any

from sam3ray.store import s3

_TOKEN = s3.TOKEN  # letters and digits, because stores and clients rewrite other characters
_MEMORY_LOCK = threading.Lock()


class Guarantee(Enum):
    """What ensures that only one writer creates a file."""

    SERVER = "server"
    LOCAL = "local"
    PROCESS = "process"
    CHECKED = "checked"  # not enforced: a check, then a write


def temporary_name() -> str:
    """A name for a temporary file that identifies its host and process."""
    return f"{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex}"


def temporary_is_dead(name: str, age_s: float) -> bool:
    """Whether a temporary file's process has ended: known on its own host, assumed on others after an hour."""
    host, _, rest = name.partition("~")
    pid = rest.partition("~")[0]
    if host == socket.gethostname() and pid.isdigit():
        return not os.path.exists(f"/proc/{pid}") if os.path.isdir("/proc/self") else age_s > 3600
    return age_s > 3600


def kind_of(fs: Any) -> str:
    protocols = fs.protocol if isinstance(fs.protocol, (tuple, list)) else (fs.protocol,)
    for kind, names in (
        ("local", {"file", "local"}),
        ("memory", {"memory"}),
        ("s3", {"s3", "s3a"}),
        ("azure", {"abfs", "az", "abfss"}),
        ("gcs", {"gs", "gcs"}),
    ):
        if names & set(protocols):
            return kind
    return "other"


GUARANTEES = {
    "local": Guarantee.LOCAL,
    "memory": Guarantee.PROCESS,
    "s3": Guarantee.SERVER,
    "azure": Guarantee.SERVER,
    "gcs": Guarantee.SERVER,
    "other": Guarantee.CHECKED,
}


def create(fs: Any, local: str, remote: str, scratch: str, token: str) -> bool:
    """Create `remote` from the local file. Raises FileExistsError if it exists.

    Args:
        scratch: a folder on the same store for temporary files.
        token: marks the file as created by this call, if the store keeps metadata.

    Returns:
        Whether the store has confirmed these very bytes, so that no check is needed.
    """
    kind = kind_of(fs)
    if kind == "local":
        _create_local(local, remote, scratch)
        return True
    if kind == "memory":
        with _MEMORY_LOCK:
            if fs.exists(remote):
                raise FileExistsError(remote)
            _put_whole(fs, local, remote)
    elif kind == "s3":
        return s3.put(fs, local, remote, token=token)
    elif kind == "azure":
        _create_azure(fs, local, remote, token)
    elif kind == "gcs":
        fs.put_file(local, remote, mode="create", metadata={_TOKEN: token})
    else:
        _create_checked(fs, local, remote, scratch)
    return False


def replace(fs: Any, local: str, remote: str, scratch: str) -> None:
    """Put the local file at `remote`, atomically, replacing an existing one."""
    kind = kind_of(fs)
    if kind == "local":
        os.makedirs(os.path.dirname(remote), exist_ok=True)
        temporary = _named_temporary(local, scratch)
        os.replace(temporary, remote)
        _sync_folder(os.path.dirname(remote))
        _remove_if_empty(scratch)
    elif kind == "s3":
        s3.put(fs, local, remote, token=None)
    elif kind in ("azure", "gcs"):
        fs.put_file(local, remote)
    else:
        _put_whole(fs, local, remote)


def token_of(fs: Any, remote: str) -> str | None:
    """The token that `create` stored with a file; None if the store keeps no metadata."""
    kind = kind_of(fs)
    if kind == "s3":
        return {k.lower(): v for k, v in s3.head(fs, remote)["Metadata"].items()}.get(_TOKEN)
    if kind == "azure":
        fs.invalidate_cache()
        return (fs.info(remote, refresh=True).get("metadata") or {}).get(_TOKEN)
    if kind == "gcs":
        fs.invalidate_cache()
        return (fs.info(remote).get("metadata") or {}).get(_TOKEN)
    return None


def _put_whole(fs: Any, local: str, remote: str) -> None:
    with open(local, "rb") as file:
        data = file.read()
    fs.makedirs(remote.rsplit("/", 1)[0], exist_ok=True)
    fs.pipe_file(remote, data)


def _create_azure(fs: Any, local: str, remote: str, token: str) -> None:
    # adlfs sets the blob's metadata itself and does not accept ours, so we call the library below it.
    from azure.core.exceptions import ResourceExistsError
    from fsspec.asyn import sync

    container, path, _ = fs.split_path(remote)

    async def upload() -> None:
        with open(local, "rb") as file:
            async with fs.service_client.get_blob_client(container, path) as blob:
                await blob.upload_blob(
                    file,
                    overwrite=False,
                    metadata={"is_directory": "false", _TOKEN: token},
                    max_concurrency=fs.max_concurrency or 1,
                )

    try:
        sync(fs.loop, upload)
    except ResourceExistsError:
        raise FileExistsError(remote) from None
    finally:
        fs.invalidate_cache()


def _create_checked(fs: Any, local: str, remote: str, scratch: str) -> None:
    if fs.exists(remote):
        raise FileExistsError(remote)
    temporary = f"{scratch}/{temporary_name()}"
    fs.makedirs(scratch, exist_ok=True)
    fs.put_file(local, temporary)
    try:
        fs.invalidate_cache()
        if fs.exists(remote):
            raise FileExistsError(remote)
        fs.makedirs(remote.rsplit("/", 1)[0], exist_ok=True)
        fs.mv(temporary, remote)
    finally:
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(temporary)


def _create_local(local: str, remote: str, scratch: str) -> None:
    folder = os.path.dirname(remote)
    os.makedirs(folder, exist_ok=True)
    if os.path.lexists(remote):  # only saves the copy; the link below decides
        raise FileExistsError(errno.EEXIST, "File exists", remote)
    if not _link_unnamed(local, remote, folder):
        _link_named(local, remote, scratch)
    _sync_folder(folder)


def _link_unnamed(local: str, remote: str, folder: str) -> bool:
    """Link an unnamed copy to its name. False if the filesystem does not support unnamed files."""
    flag = getattr(os, "O_TMPFILE", None)
    if flag is None:
        return False
    try:
        target = os.open(folder, flag | os.O_WRONLY, 0o644)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            return False
        raise
    with open(local, "rb") as source, os.fdopen(target, "wb") as file:
        shutil.copyfileobj(source, file, 2**20)
        file.flush()
        os.fsync(file.fileno())
        where = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # With a directory given, Python calls linkat(2) with AT_SYMLINK_FOLLOW, which resolves the /proc link.
            os.link(f"/proc/self/fd/{file.fileno()}", remote, src_dir_fd=where)
        except FileExistsError:
            if os.fstat(file.fileno()).st_ino == os.stat(remote).st_ino:
                return True  # a network filesystem repeated the request after losing the first answer
            raise
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOENT, errno.EXDEV):
                return False
            raise
        finally:
            os.close(where)
    return True


def _link_named(local: str, remote: str, scratch: str) -> None:
    temporary = _named_temporary(local, scratch)
    try:
        os.link(temporary, remote)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if os.path.lexists(remote):
            raise FileExistsError(errno.EEXIST, "File exists", remote) from None
        os.rename(temporary, remote)  # without hard links, this is the best that the filesystem allows
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        _remove_if_empty(scratch)


def _named_temporary(local: str, scratch: str) -> str:
    for _ in range(100):  # another process may remove the empty folder between the two calls
        os.makedirs(scratch, exist_ok=True)
        temporary = os.path.join(scratch, temporary_name())
        try:
            target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileNotFoundError:
            continue
        try:
            with open(local, "rb") as source, os.fdopen(target, "wb") as file:
                shutil.copyfileobj(source, file, 2**20)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:  # on a full disk, a partial file would keep it full
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            _remove_if_empty(scratch)
            raise
        return temporary
    raise OSError(errno.EAGAIN, "cannot make a temporary file", scratch)


def _sync_folder(folder: str) -> None:
    where = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(where)
    finally:
        os.close(where)


def _remove_if_empty(folder: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(folder)
