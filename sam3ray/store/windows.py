"""The finished part of a running clip: `windows/<clip_id>/<pass>-<k>.parquet` and `<pass>-<k>.safetensors`.

A window is the progress of a clip since the previous one: its rows, and the state of the engine. The state names the
run, the clip, its video, and every file of rows before it with its SHA-256. It can be used only if all of them
exist and are intact. So rows are written first, then the state; earlier states are removed last.

If the process dies after
* writing the rows: a file remains that no state names. The next attempt uses another number; the file is removed when
  the clip is done.
* writing the state: two states remain; the later one counts.
* the clip is done: files remain, which `verify` notes and the next driver removes.

Files are created if absent. An attempt that finds its state already stored has lost a race against another attempt at
the same clip. It continues from that state: both attempts find the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from sam3ray.faults.damage import damage
from sam3ray.store import layout
from sam3ray.store.storage import Storage

ROWS, STATE = ".parquet", ".safetensors"
_STRICT = ConfigDict(strict=True, extra="forbid")
_Count = Annotated[int, Field(ge=0, le=2**53)]


@dataclass(frozen=True, order=True)
class WindowName:
    """Windows of a pass count from 0; a later pass comes after all windows of an earlier one."""

    pass_number: int
    number: int

    def __str__(self) -> str:
        return f"{self.pass_number}-{self.number}"


@checked(config=_STRICT)
class WindowEntry:
    """One window, as named in its own state and later ones.

    Attributes:
        frames: number of its frames, including those without objects.
        rung, device, attempt, seconds: how it was made.
    """

    name: str
    sha256: str
    frames: _Count
    rung: _Count = 0
    device: str = ""
    attempt: _Count = 0
    seconds: float = 0.0

    @property
    def window(self) -> WindowName:
        """The window's name. Raises ValueError if it is not one."""
        found = layout.window_of(self.name + ROWS, ROWS)
        if found is None:
            raise ValueError(f"{self.name!r:.60} is not the name of a window")
        return WindowName(*found)


@checked(config=_STRICT)
class WindowNote:
    """A state's description of itself.

    Attributes:
        source: the video's sighting (`sam3ray.files.sighting`).
        windows: all up to this state, in order.
    """

    run_id: str
    clip_id: str
    source: str
    windows: list[WindowEntry]

    def dumps(self) -> str:
        return _NOTE.dump_json(self).decode()

    @classmethod
    def loads(cls, text: str) -> WindowNote:
        """Parse a note. Raises ValueError if it is not a state's note, or names files that are not windows."""
        try:
            note = _NOTE.validate_json(text)
        except ValidationError as error:
            raise ValueError(f"the note of the state is damaged: {damage(error)}") from None
        names = [entry.window for entry in note.windows]
        if names != sorted(set(names)):
            raise ValueError("the note of the state names its windows twice or out of order")
        return note


_NOTE = TypeAdapter(WindowNote)


@dataclass
class Windows:
    """The windows of one clip on the store.

    Attributes:
        rows, states, has_index: the existing files, by the last listing.
    """

    storage: Storage
    clip_id: str
    rows: set[WindowName] = field(default_factory=set)
    states: set[WindowName] = field(default_factory=set)
    has_index: bool = False

    def list(self) -> None:
        names = self.storage.names(layout.window_folder(self.clip_id))
        self.rows, self.states = set(_named(names, ROWS)), set(_named(names, STATE))
        self.has_index = layout.FRAMES in names

    def next_name(self, pass_number: int) -> WindowName:
        """Name of the next window, with a number above all used so far."""
        taken = [name.number for name in self.rows | self.states if name.pass_number == pass_number]
        return WindowName(pass_number, max(taken, default=-1) + 1)

    def fetch(self, name: WindowName, suffix: str, folder: Path) -> Path | None:
        """A local copy of a file; None if it is gone."""
        local = folder / f"{name}{suffix}"
        return local if self.storage.download(self._path(name, suffix), str(local)) else None

    def create_rows(self, name: WindowName, local: Path) -> bool:
        """Create the window's rows. False if another attempt has already done so."""
        self.rows.add(name)
        return self.storage.create(str(local), self._path(name, ROWS))

    def create_state(self, name: WindowName, local: Path) -> bool:
        """Create the window's state, and delete earlier states. False if another attempt was first."""
        if not self.storage.create(str(local), self._path(name, STATE)):
            self.states.add(name)
            return False
        for earlier in sorted(self.states):
            self.storage.delete(self._path(earlier, STATE))
        self.states = {name}
        return True

    def clear(self) -> None:
        """Remove all windows of the clip."""
        clear_windows(self.storage, [self.clip_id])

    def _path(self, name: WindowName, suffix: str) -> str:
        return f"{layout.window_folder(self.clip_id)}/{name}{suffix}"


def clip_windows(storage: Storage) -> dict[str, WindowName | None]:
    """Clips with windows, each with its newest state, if any; by one listing."""
    found: dict[str, WindowName | None] = {}
    for entry in storage.walk(layout.WINDOWS):
        parts = entry.path.split("/")
        if len(parts) != 3 or not layout.is_clip_id(parts[1]):
            continue
        newest = found.setdefault(parts[1], None)
        for name in _named([parts[2]], STATE):
            found[parts[1]] = name if newest is None else max(newest, name)
    return found


def newest_window(storage: Storage, clip_id: str) -> WindowName | None:
    """The newest window of one clip, by one listing."""
    windows = Windows(storage, clip_id)
    windows.list()
    return max(windows.states, default=None)


def clear_windows(storage: Storage, clip_ids: Iterable[str]) -> None:
    """Delete the windows of some clips: states before the files that they name, so that no file is missed."""
    for clip_id in clip_ids:
        folder = layout.window_folder(clip_id)
        for name in sorted(storage.names(folder), key=_order_of_removal):
            storage.delete(f"{folder}/{name}")
        storage.delete_empty_folder(folder)
    storage.delete_empty_folder(layout.WINDOWS)


def _order_of_removal(name: str) -> int:
    if name == layout.CUTS:  # last: it shows to which cuts the other files belong
        return 3
    return 0 if name == layout.LINKS else 1 if name.endswith((".json", STATE)) else 2


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _named(names: Iterable[str], suffix: str) -> Iterator[WindowName]:
    return (WindowName(*found) for name in names if (found := layout.window_of(name, suffix)) is not None)
