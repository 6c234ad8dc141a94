"""The files of an unfinished clip that is cut into parallel windows, in `windows/<clip_id>/`.

    cuts.json                 how the clip is cut, decided once
    w<k>-<n>.parquet          rows of window k, made by its n-th attempt
    w<k>-<n>.safetensors      its objects' memories at the end of its overlap; none for the last
    w<k>.json                 window k is done: names both files with their SHA-256
    links.json                which objects are the same across windows, decided once; names the rows that it is based
    on

Each file is created if absent, completely or not at all, in this order. If the process dies after
* `cuts.json`: the next attempt uses it if video, rules and versions are the same.
* rows, or the memories: files remain that nothing names. The next attempt uses another number.
* `w<k>.json`: the window is done, and is not processed again.
* `links.json`: only merging remains.
* the clip is done: files remain, which `verify` notes and the next driver removes.

Two attempts at one window create two sets of files, and `w<k>.json` names one of them. Two attempts at linking may
decide differently; the first `links.json` counts. Digests tie the files together: a file that is damaged or belongs to
another `cuts.json` counts as absent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from sam3ray.faults.damage import damage
from sam3ray.store import layout
from sam3ray.store.storage import Storage
from sam3ray.store.windows import ROWS, STATE, clear_windows, sha256_of
from sam3ray.values.cutting import Cut, cuts

FORMAT = 1
MOST_BYTES = 2**26  # largest size of a JSON file
_STRICT = ConfigDict(strict=True, extra="forbid")
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
T = TypeVar("T")


@checked(config=_STRICT)
class CutsNote:
    """How a clip is cut: `cuts.json`.

    Attributes:
        source: the video's sighting (`sam3ray.files.sighting`).
        num_frames, frames, overlap, hotstart_delay, multiple_of: arguments of `sam3ray.values.cutting.cuts`.
        bound_to: all else on which the rows depend: rules, versions, dtype, kind of device.
    """

    run_id: str
    clip_id: str
    source: str
    num_frames: _Count
    frames: _Count
    overlap: _Count
    hotstart_delay: _Count
    multiple_of: _Count
    bound_to: dict[str, Any]
    format: int = FORMAT

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """The windows of the clip. Raises ValueError if the numbers are impossible."""
        return cuts(self.num_frames, self.frames, self.overlap, self.hotstart_delay, self.multiple_of)


@checked(config=_STRICT)
class WindowMark:
    """A window is done: `w<k>.json`.

    Attributes:
        cuts: SHA-256 of the `cuts.json` to which the window belongs.
        attempt_number: number in its files' names. `rows`, `ending`: their SHA-256; the last window has no ending.
        frames: number of frames that the clip takes from the window.
        objects, dropped, rung, device, attempt, seconds: how it was made.
    """

    cuts: _Digest
    attempt_number: _Count
    rows: _Digest
    ending: _Digest | None
    frames: _Count
    objects: _Count = 0
    dropped: _Count = 0
    rung: _Count = 0
    device: str = ""
    attempt: _Count = 0
    seconds: float = 0.0
    format: int = FORMAT


@checked(config=_STRICT)
class LinksNote:
    """Which objects are the same across windows: `links.json`.

    Attributes:
        cuts: SHA-256 of `cuts.json`.
        rows: SHA-256 of each window's rows.
        links: the text that `sam3ray.stitching.Links.dumps` returns.
    """

    cuts: _Digest
    rows: list[_Digest]
    links: str
    format: int = FORMAT


_CUTS, _MARK, _LINKS = TypeAdapter(CutsNote), TypeAdapter(WindowMark), TypeAdapter(LinksNote)


class WindowLost(Exception):
    """Windows are missing or damaged on the store and must be processed again; if none is named, the links are.

    Attributes:
        windows: numbers of the windows.
    """

    def __init__(self, windows: Sequence[int], why: str) -> None:
        super().__init__(why)
        self.windows = tuple(windows)


@dataclass
class CutClip:
    """The files of one clip that is cut.

    Attributes:
        names: the existing files, by the last listing.
    """

    storage: Storage
    clip_id: str
    names: set[str] = field(default_factory=set)

    def look(self) -> None:
        self.names = set(self.storage.names(layout.window_folder(self.clip_id)))

    @property
    def done(self) -> frozenset[int]:
        """Windows that are done, by the last listing."""
        found = (layout.cut_file_of(name) for name in self.names)
        return frozenset(each[0] for each in found if each is not None and each[1] is None)

    @property
    def is_linked(self) -> bool:
        return layout.LINKS in self.names

    # Cuts

    def read_cuts(self) -> tuple[CutsNote, str] | None:
        """Read `cuts.json`: its content and SHA-256, or None if there is none. Raises ValueError if it is damaged."""
        data = self.storage.read(self._path(layout.CUTS))
        if data is None:
            return None
        note = _parsed(_CUTS, data, layout.CUTS)
        if len(note.cuts) < 2:
            raise ValueError(f"{layout.CUTS} does not cut the clip")
        return note, hashlib.sha256(data).hexdigest()

    def create_cuts(self, note: CutsNote) -> bool:
        """Create `cuts.json`. False if another attempt has created it."""
        return self._create_json(layout.CUTS, _CUTS.dump_json(note))

    # Windows

    def create_window(self, index: int, rows: Path, ending: Path | None, mark: Mapping[str, Any]) -> bool:
        """Put a window onto the store. False if another attempt was first: its window counts.

        Args:
            mark: values of `WindowMark`, except those derived from the files.
        """
        taken = [each[1] for name in self.names if (each := layout.cut_file_of(name)) is not None and each[0] == index]
        number = max((each for each in taken if each is not None), default=-1) + 1
        while not self.storage.create(str(rows), self._path(f"w{index}-{number}{ROWS}")):
            number += 1
        if ending is not None:
            self.storage.create(str(ending), self._path(f"w{index}-{number}{STATE}"))
        note = WindowMark(
            attempt_number=number,
            rows=sha256_of(rows),
            ending=None if ending is None else sha256_of(ending),
            **mark,
        )
        return self._create_json(f"w{index}.json", _MARK.dump_json(note))

    def read_mark(self, index: int, cuts_digest: str) -> WindowMark | None:
        """Read a window's mark. None if the window is not done: the mark is missing, damaged or of other cuts."""
        data = self.storage.read(self._path(f"w{index}.json"))
        if data is None:
            return None
        try:
            mark = _parsed(_MARK, data, f"w{index}.json")
        except ValueError:
            return None
        return mark if mark.cuts == cuts_digest else None

    def marks(self, note: CutsNote, cuts_digest: str) -> list[WindowMark]:
        """The marks of all windows. Raises WindowLost if some are not done."""
        indices = range(len(note.cuts))
        found = list(self.storage.each(lambda index: self.read_mark(index, cuts_digest), indices))
        if lost := [index for index in indices if found[index] is None]:
            raise WindowLost(lost, f"windows {lost[:10]} are not done")
        return [mark for mark in found if mark is not None]

    def drop_mark(self, index: int) -> None:
        """Delete a window's mark: the window must be processed again."""
        self.storage.delete(self._path(f"w{index}.json"))

    def fetch_rows(self, index: int, mark: WindowMark, folder: Path) -> Path:
        """A local copy of a window's rows. Raises WindowLost if they are missing or damaged."""
        return self._fetch(index, f"w{index}-{mark.attempt_number}{ROWS}", mark.rows, folder)

    def fetch_ending(self, index: int, mark: WindowMark, folder: Path) -> Path | None:
        """Likewise for its memories; None for the last window."""
        if mark.ending is None:
            return None
        return self._fetch(index, f"w{index}-{mark.attempt_number}{STATE}", mark.ending, folder)

    def _fetch(self, index: int, name: str, digest: str, folder: Path) -> Path:
        local = folder / name
        if not self.storage.download(self._path(name), str(local)):
            raise WindowLost([index], f"{name} is missing")
        if sha256_of(local) != digest:
            local.unlink()
            raise WindowLost([index], f"{name} is damaged: its digest does not match")
        return local

    # Links

    def read_links(self, cuts_digest: str, marks: Sequence[WindowMark]) -> str | None:
        """The links of these windows; None if there are none, or if they are based on other windows."""
        data = self.storage.read(self._path(layout.LINKS))
        if data is None:
            return None
        try:
            note = _parsed(_LINKS, data, layout.LINKS)
        except ValueError:
            return None
        fits = note.cuts == cuts_digest and note.rows == [mark.rows for mark in marks]
        return note.links if fits else None

    def create_links(self, cuts_digest: str, marks: Sequence[WindowMark], links: str) -> bool:
        """Create `links.json`. False if another attempt was first."""
        note = LinksNote(cuts_digest, [mark.rows for mark in marks], links)
        return self._create_json(layout.LINKS, _LINKS.dump_json(note))

    def drop_links(self) -> None:
        """Delete `links.json`: the windows must be linked again."""
        self.storage.delete(self._path(layout.LINKS))

    def clear(self) -> None:
        """Delete all files of the clip's windows."""
        clear_windows(self.storage, [self.clip_id])

    def _path(self, name: str) -> str:
        return f"{layout.window_folder(self.clip_id)}/{name}"

    def _create_json(self, name: str, data: bytes) -> bool:
        self.names.add(name)
        return self.storage.create_bytes(data + b"\n", self._path(name))


def _parsed(adapter: TypeAdapter[T], data: bytes, name: str) -> T:
    """Parse a JSON file of ours. Raises ValueError if it is damaged or of another format."""
    if len(data) > MOST_BYTES:
        raise ValueError(f"{name} has {len(data)} bytes; allowed: {MOST_BYTES}")
    try:
        value = adapter.validate_json(data)
    except ValidationError as error:
        raise ValueError(f"{name} is damaged: {damage(error)}") from None
    if getattr(value, "format", None) != FORMAT:
        raise ValueError(f"{name} is of another version's format; expected {FORMAT}")
    return value


def windows_done(storage: Storage) -> dict[str, int]:
    """Unfinished clips that are cut, with the number of their finished windows; by one listing."""
    found: dict[str, int] = {}
    for entry in storage.walk(layout.WINDOWS):
        parts = entry.path.split("/")
        if len(parts) != 3 or not layout.is_clip_id(parts[1]):
            continue
        of = layout.cut_file_of(parts[2])
        if of is not None or parts[2] == layout.CUTS:
            found[parts[1]] = found.get(parts[1], 0) + (of is not None and of[1] is None)
    return found
