"""A folder or a glob as a manifest: videos by their suffix, folders of numbered frames."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sam3ray.failures import UserError
from sam3ray.files import filesystem, is_local, local_path
from sam3ray.manifest._rows import MAX_ROWS, Rows
from sam3ray.redact import redact

_SUFFIXES = (
    ".3g2 .3gp .asf .avi .flv .ivf .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .nut .obu .ogv .rm .ts .vob .webm "
    ".wmv .y4m"
)
VIDEO_SUFFIXES = frozenset(_SUFFIXES.split())
FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_MAGIC = re.compile(r"[*?\[]")


def is_glob(uri: str) -> bool:
    """Whether this is a pattern rather than one place. A local file whose name has such characters is a place."""
    return _MAGIC.search(uri) is not None and not (is_local(uri) and os.path.lexists(local_path(uri)))


def glob_root(uri: str) -> str:
    """The part of a pattern before the first folder that is a pattern."""
    start = _MAGIC.search(uri)
    assert start is not None
    return uri[: start.start()].rpartition("/")[0]


def read_folder(uri: str, storage_options: Mapping[str, Any]) -> Rows:
    """Every video and every folder of numbered frames below `uri`, sorted by path."""
    fs, root = filesystem(uri, storage_options, what="manifest")
    root = root.rstrip("/") or "/"
    return _rows(_files_below(fs, root, uri), fs, root, uri)


def read_glob(uri: str, storage_options: Mapping[str, Any]) -> Rows:
    """The videos and folders of numbered frames that a pattern matches, sorted by path."""
    fs, pattern = filesystem(uri, storage_options, what="manifest")
    root = glob_root(pattern)
    files: set[str] = set()
    try:
        for path, info in fs.glob(pattern, detail=True).items():
            if _is_hidden(path[len(root) :]):
                continue
            if info["type"] == "directory":
                # A folder of frames counts as one match; a folder of videos is no match for a pattern of files.
                inside = [
                    e["name"]
                    for e in fs.ls(path, detail=True)
                    if e["type"] == "file" and not _is_hidden(e["name"][len(path) :])
                ]
                if not any(_suffix(name) in VIDEO_SUFFIXES for name in inside):
                    files.update(name for name in inside if _suffix(name) in FRAME_SUFFIXES)
            elif _suffix(path) in VIDEO_SUFFIXES:
                files.add(path)
    except Exception as error:
        raise UserError(f"manifest {redact(uri)} cannot be listed: {_reason(error)}") from error
    return _rows(files, fs, root, uri)


def _files_below(fs: Any, root: str, uri: str) -> Iterable[str]:
    try:
        if is_local(uri):
            return _walk(root)
        return (path for path in fs.find(root) if not _is_hidden(path[len(root) :]))
    except Exception as error:
        raise UserError(f"manifest {redact(uri)} cannot be listed: {_reason(error)}") from error


def _walk(root: str) -> Iterator[str]:
    """Files below a local folder. Links to folders are followed, each folder once, so that loops end."""
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                yield f"{folder.rstrip('/')}/{name}"


def _rows(files: Iterable[str], fs: Any, root: str, uri: str) -> Rows:
    videos: list[str] = []
    images: dict[str, list[str]] = {}
    prefix = "/" if root == "/" else f"{root}/"
    for path in files:
        if path != root and not path.startswith(prefix) and not is_local(uri):
            raise UserError(
                f"manifest {redact(uri)} is not what its store lists, which is {redact(path)}; "
                "allowed: an address without doubled slashes"
            )
        suffix = _suffix(path)
        if suffix in VIDEO_SUFFIXES:
            videos.append(path)
        elif suffix in FRAME_SUFFIXES:
            folder, _, name = path.rpartition("/")
            images.setdefault(folder, []).append(name)
        if len(videos) > MAX_ROWS:
            raise UserError(f"manifest {redact(uri)} has over {MAX_ROWS} videos, which is the limit")
    with_videos = {path.rpartition("/")[0] for path in videos}
    # Images beside videos, or without numbers, are previews and the like.
    frames = [
        folder
        for folder, names in images.items()
        if folder not in with_videos and all(re.search(r"\d", posixpath.splitext(name)[0]) for name in names)
    ]
    paths = sorted([*videos, *frames])
    if not paths:
        raise UserError(
            f"manifest {redact(uri)} has no videos; allowed: files ending in {_SUFFIXES}, "
            "and folders of numbered .jpg or .png frames"
        )
    uris = [path if is_local(uri) else fs.unstrip_protocol(path) for path in paths]
    identities = [path.removeprefix(prefix) if path != root else posixpath.basename(path) for path in paths]
    return Rows(redact(uri), len(uris), {"uri": list(uris)}, identities=identities)


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _is_hidden(relative: str) -> bool:
    return "/." in f"/{relative.lstrip('/')}"


def _reason(error: Exception) -> str:
    return redact(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
