"""The clips that pages can request, by keys that the server assigns."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3ray.app._open_clips import OpenClip, OpenClips
from sam3ray.app._options import AppOptions
from sam3ray.app._stills import small_still
from sam3ray.config import JobConfig, VideoConfig
from sam3ray.failures import UserError
from sam3ray.files import is_local
from sam3ray.guard.redact import redact
from sam3ray.manifest import read_manifest
from sam3ray.values.clip import Clip
from sam3ray.values.clip_ids import derive_clip_id

_MAX_CLIPS = 100_000
_MAX_THUMBS = 2_000


class NotHere(LookupError):
    """A page names something that this server does not have, or no longer has."""


@dataclass(frozen=True)
class Entry:
    """A clip in the list.

    Attributes:
        key: its name in requests of pages.
        name: its name for people.
        run: number of the run that it belongs to (see `_review`); None: a clip to try.
    """

    key: str
    name: str
    clip: Clip
    run: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {"key": self.key, "name": self.name, "prompts": list(self.clip.prompts)}


class Library:
    """All clips of one server. Closing it deletes the temporary files.

    Args:
        folder: for uploads, stills and videos from stores.
    """

    def __init__(self, folder: Path, options: AppOptions) -> None:
        self.folder = folder
        self._options = options
        self._entries: dict[str, Entry] = {}
        self._clips = OpenClips(folder, options)
        self._lock = threading.Lock()
        self._thumbs: dict[str, bytes] = {}
        self._thumbing = threading.Lock()

    @property
    def limits(self) -> VideoConfig:
        return self._options.video

    def add(self, clips: Sequence[Clip], run: int | None = None, names: Sequence[str] = ()) -> list[Entry]:
        with self._lock:
            if len(self._entries) + len(clips) > _MAX_CLIPS:
                raise UserError(f"there would be more than {_MAX_CLIPS} clips; name fewer")
            added = []
            for n, clip in enumerate(clips):
                key = f"c{len(self._entries) + 1}"
                name = names[n] if names else clip.clip_id
                self._entries[key] = Entry(key, name, clip, run)
                added.append(self._entries[key])
            return added

    def add_source(self, uri: str, *, remote_only: bool = False) -> list[Entry]:
        """Adds a video, folder, glob or manifest.

        Args:
            remote_only: for addresses that a page names: nothing on this machine's disks.

        Raises:
            UserError: it cannot be read.
        """
        if remote_only and is_local(uri):
            raise UserError(f"{uri!r:.200} is on this machine's disk: upload the file, or start the page with it")
        placeholder = JobConfig(manifest=uri, output="/none", prompts=("object",), storage=dict(self._options.storage))
        clips = _without_placeholder(read_manifest(uri, placeholder))
        if remote_only and (own := next((each.uri for each in clips if is_local(each.uri)), None)) is not None:
            raise UserError(
                f"a manifest from elsewhere names {own!r:.200}, which is on this machine's disk; "
                "allowed: addresses of stores and web servers"
            )
        return self.add(clips, names=_names(clips))

    def entries(self, run: int | None = None) -> list[Entry]:
        with self._lock:
            return [each for each in self._entries.values() if each.run == run]

    def entry(self, key: str) -> Entry:
        """Raises NotHere."""
        if key not in self._entries:
            raise NotHere(f"there is no clip {key[:100]!r} here")
        return self._entries[key]

    def thumb(self, key: str) -> bytes:
        """A small JPEG of a clip's first frame. One is made at a time: what is being looked at goes first.

        Raises: as `open`.
        """
        with self._thumbing:
            if key not in self._thumbs:
                self._thumbs[key] = small_still(self._clips.first_image(self.entry(key).clip))
                if len(self._thumbs) > _MAX_THUMBS:
                    del self._thumbs[next(iter(self._thumbs))]
            return self._thumbs[key]

    def still(self, key: str, position: int) -> bytes:
        """JPEG of the frame at a position of the clip. The video is not fetched for a picture that is there already.

        Raises:
            UserError: there is no such frame.
            NotHere, ClipError: as `open`.
        """
        if (data := self._clips.still(key, position)) is not None:
            return data
        with self.open(key) as opened:
            if not 0 <= position < len(opened.frames.indices):
                raise UserError(f"frame {position} is not in the clip; allowed: 0 to {len(opened.frames.indices) - 1}")
            return opened.stills.get(position)

    def open(self, key: str) -> AbstractContextManager[OpenClip]:
        """Opens a clip for a `with` block; downloads it first if it is on a store. See `OpenClips.open`.

        Raises:
            NotHere: there is no such clip.
            ClipError: it cannot be read, or has no room in the cache.
        """
        return self._clips.open(key, self.entry(key).clip)

    def opened(self, key: str) -> OpenClip | None:
        """A clip that is open already."""
        return self._clips.get(key)

    def close(self) -> None:
        self._clips.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _without_placeholder(clips: Sequence[Clip]) -> list[Clip]:
    """Clips without phrases of their own were given one to pass the manifest's checks."""
    from dataclasses import replace

    return [replace(each, prompts=()) if each.prompts == ("object",) else each for each in clips]


def _names(clips: Sequence[Clip]) -> list[str]:
    """Clips without an id get the name of their file, if it is unique."""
    files = [shown_name(each.uri) for each in clips]
    count = Counter(files)
    return [
        file if count[file] == 1 and _is_derived(clip) else clip.clip_id
        for clip, file in zip(clips, files, strict=True)
    ]


def _is_derived(clip: Clip) -> bool:
    """Whether the id comes from the whole file's address, or from its path below the folder that is the manifest."""
    parts = clip.uri.split("/")
    paths = ("/".join(parts[n:]) for n in range(len(parts)))
    return any(clip.clip_id == derive_clip_id(each, None, None) for each in paths if each)


def shown_name(uri: str) -> str:
    return redact(uri.rstrip("/").rpartition("/")[2])
