"""Reads a folder or a glob as a manifest: videos, known by their suffix, and folders of numbered frames."""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sam3ray.failures import UserError
from sam3ray.faults.storage import explain
from sam3ray.files import WEB, filesystem, is_local, kind_of_storage, local_path
from sam3ray.files.sighting import of_frames, of_info
from sam3ray.guard.redact import redact
from sam3ray.manifest._rows import MAX_ROWS, Rows

_SUFFIXES = (
    ".264 .265 .3g2 .3gp .asf .avc .avi .dif .dv .f4v .flv .gif .gxf .h264 .h265 .hevc .ivf .m1v .m2t .m2ts .m2v .m4v "
    ".mk3d .mkv .mov .mp4 .mpeg .mpg .mts .mxf .nut .obu .ogm .ogv .qt .rm .rmvb .ts .vc1 .vob .webm .wmv .wtv .y4m"
)
VIDEO_SUFFIXES = frozenset(_SUFFIXES.split())
FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_NAMED = 5  # omitted files named in a message
_LOG = logging.getLogger(__name__)
_MAGIC = re.compile(r"[*?\[]")


def is_glob(uri: str) -> bool:
    """Whether this is a pattern. The name of an existing local file is not one, even with such characters."""
    pattern = uri.partition("?")[0] if kind_of_storage(uri) == WEB else uri  # in a web address, `?` begins the query
    return _MAGIC.search(pattern) is not None and not (is_local(uri) and os.path.lexists(local_path(uri)))


def glob_root(uri: str) -> str:
    """The part of a pattern before the first folder with a wildcard."""
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
    files: dict[str, _Info] = {}
    others = _LeftOut(uri, "no known video suffix")
    try:
        for path, info in fs.glob(pattern, detail=True).items():
            if _is_hidden(path[len(root) :]):
                continue
            if info["type"] == "directory":
                # A folder of frames counts as one match. A folder of videos does not match a pattern of files.
                inside = {
                    e["name"]: e
                    for e in fs.ls(path, detail=True)
                    if e["type"] == "file" and not _is_hidden(e["name"][len(path) :])
                }
                if not any(_suffix(name) in VIDEO_SUFFIXES for name in inside):
                    files |= {name: e for name, e in inside.items() if _suffix(name) in FRAME_SUFFIXES}
            elif _suffix(path) in VIDEO_SUFFIXES:
                files[path] = info
            else:
                others.add(path[len(root) :].lstrip("/"))
    except Exception as error:
        raise UserError(f"manifest {redact(uri)} cannot be listed: {explain(error)}") from error
    others.tell()
    return _rows(files.items(), fs, root, uri)


_Info = Mapping[str, Any]  # as fsspec lists a single file


def _files_below(fs: Any, root: str, uri: str) -> Iterable[tuple[str, _Info]]:
    try:
        if is_local(uri):
            return ((path, {}) for path in _walk(root))
        found = fs.find(root, detail=True).items()
        return ((path, info) for path, info in found if not _is_hidden(path[len(root) :]))
    except Exception as error:
        raise UserError(f"manifest {redact(uri)} cannot be listed: {explain(error)}") from error


def _walk(root: str) -> Iterator[str]:
    """Files below a local folder. Follows links to folders, but visits each folder once, so that loops end."""
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


def _rows(files: Iterable[tuple[str, _Info]], fs: Any, root: str, uri: str) -> Rows:
    videos: list[str] = []
    infos: dict[str, _Info] = {}
    images: dict[str, list[str]] = {}
    prefix = "/" if root == "/" else f"{root}/"
    others = _LeftOut(uri, "no known video suffix")
    for path, info in files:
        if path != root and not path.startswith(prefix) and not is_local(uri):
            raise UserError(
                f"manifest {redact(uri)} does not match what its store lists, {redact(path)}; "
                "allowed: an address without double slashes"
            )
        suffix = _suffix(path)
        if suffix in VIDEO_SUFFIXES:
            videos.append(path)
            infos[path] = info
        elif suffix in FRAME_SUFFIXES:
            folder, _, name = path.rpartition("/")
            images.setdefault(folder, []).append(name)
            infos[path] = info
        else:
            others.add(path.removeprefix(prefix))
        if len(videos) > MAX_ROWS:
            raise UserError(f"manifest {redact(uri)} has over {MAX_ROWS} videos (the limit)")
    with_videos = {path.rpartition("/")[0] for path in videos}
    # Images beside videos, or without numbers, are usually previews.
    frames = [
        folder
        for folder, names in images.items()
        if folder not in with_videos and all(re.search(r"\d", posixpath.splitext(name)[0]) for name in names)
    ]
    others.tell()
    passed_over = _LeftOut(uri, "next to videos, or in a folder where a name has no number", "images")
    for folder in sorted(images.keys() - set(frames)):
        for name in sorted(images[folder]):
            passed_over.add(f"{folder}/{name}".removeprefix(prefix))
    passed_over.tell()
    paths = sorted([*videos, *frames])
    if not paths:
        raise UserError(
            f"manifest {redact(uri)} has no videos; allowed: files ending in {_SUFFIXES}, "
            "and folders of numbered .jpg, .png or .webp frames"
        )
    uris = [path if is_local(uri) else fs.unstrip_protocol(path) for path in paths]
    identities = [path.removeprefix(prefix) if path != root else posixpath.basename(path) for path in paths]
    sources: list[str | None] | None = None
    if not is_local(uri):  # the driver looks at local files itself
        is_web = kind_of_storage(uri) == WEB
        sources = [_seen(path, infos, images, is_web) for path in paths]
    return Rows(redact(uri), len(uris), {"uri": list(uris)}, identities=identities, sources=sources)


def _seen(path: str, infos: Mapping[str, _Info], images: Mapping[str, Sequence[str]], is_web: bool) -> str:
    if path in infos:
        return of_info(infos[path], is_web=is_web)
    return of_frames({name: of_info(infos[f"{path}/{name}"], is_web=is_web) for name in images[path]})


class _LeftOut:
    """Counts the files of a folder that are not clips, and names some of them in one line of the log."""

    def __init__(self, uri: str, why: str, kind: str = "files") -> None:
        self._uri, self._why, self._kind = uri, why, kind
        self._count = 0
        self._first: list[str] = []

    def add(self, name: str) -> None:
        self._count += 1
        if len(self._first) < _NAMED:
            self._first.append(redact(name))

    def tell(self) -> None:
        if self._count:
            names = ", ".join(map(repr, self._first)) + (", ..." if self._count > _NAMED else "")
            kind = self._kind if self._count > 1 else self._kind.removesuffix("s")
            _LOG.warning("manifest %s: %d %s omitted (%s): %s", redact(self._uri), self._count, kind, self._why, names)


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _is_hidden(relative: str) -> bool:
    return "/." in f"/{relative.lstrip('/')}"
