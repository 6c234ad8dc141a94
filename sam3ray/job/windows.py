"""Checkpoints inside a clip: what an attempt saves from time to time, and where the next one continues.

Only whole windows reach the store (`sam3ray.store.windows` says what is there if the process dies at any step). A
window that is damaged, or of another video or engine, is never used and never fatal: the clip continues from what is
left, or starts over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from sam3ray.files.sighting import change
from sam3ray.job.seen import Seen
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import AnnotationWriter, read_file_metadata, read_frames
from sam3ray.store.windows import ROWS, STATE, WindowEntry, WindowName, WindowNote, Windows, sha256_of
from sam3ray.values.annotations import FrameAnnotations

if TYPE_CHECKING:
    from sam3ray.engine.recorder import Kept, Save
    from sam3ray.engine.state import StateError

_LOG = logging.getLogger(__name__)

MOST_ROWS = 200_000  # a window ends early at this many, since its frames stay in memory until it is written


class WindowTaken(Exception):
    """Another attempt at the clip is ahead: continue from its state."""


@dataclass(frozen=True)
class Maker:
    """Who makes the windows, for the record."""

    attempt: int
    rung: int
    device: str


class ClipWindows:
    """A `sam3ray.engine.recorder.Recorder` that keeps a clip on the run's store.

    Args:
        run_id: of the run; windows of any other are not used.
        source: how the clip's video looks now; windows made of any other are not used.
        seconds: of work, after which a window is saved.
        folder: for local files; they are removed by `close`.
        kept_one: called with the name of each window, including the one that the clip continues from.
    """

    def __init__(
        self,
        store: RunStore,
        clip_id: str,
        run_id: str,
        source: str,
        seconds: float,
        folder: Path,
        maker: Maker,
        kept_one: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._windows = Windows(store.storage, clip_id)
        self._note = WindowNote(run_id, clip_id, source, [])
        self._seconds = seconds
        self._folder = folder
        self._maker = maker
        self._seen: Callable[[], Mapping[str, Any]] = dict
        self._kept_one = kept_one
        self._seen_before = Seen()  # up to the last window
        self._files: dict[WindowName, Path] = {}
        self._frames: dict[int, list[FrameAnnotations]] = {}  # by pass, since the last window
        self._rows = 0
        self._since = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self._windows.list()

    @property
    def are_there(self) -> bool:
        """Whether there may be a state to continue from."""
        return bool(self._windows.states)

    @property
    def facts(self) -> dict[str, Any]:
        """For the clip's metadata: what all attempts saw while reading, and the windows that the clip is made of."""
        seen = self._seen_before.joined(Seen.of(self._seen())).facts
        return seen | ({"windows": [asdict(entry) for entry in self._note.windows]} if self._note.windows else {})

    def reads(self, seen: Callable[[], Mapping[str, Any]]) -> None:
        """`seen` says what reading the video has shown so far. It is kept, too: the next attempt reads other frames."""
        self._seen = seen

    def close(self) -> None:
        for file in self._folder.iterdir():
            file.unlink(missing_ok=True)
        self._folder.rmdir()

    def clear(self) -> None:
        """The clip is done."""
        self._windows.list()
        if self._windows.rows or self._windows.states:
            self._windows.clear()

    # What a walk asks

    def kept(self) -> Iterator[Kept]:
        from sam3ray.engine.recorder import Kept

        fresh, tried = self._note, set[WindowName]()
        while untried := self._windows.states - tried:
            name = max(untried)
            tried.add(name)
            self._note, self._seen_before = fresh, Seen()
            state = self._windows.fetch(name, STATE, self._folder)
            if state is None:
                self._windows.list()  # a later one has taken its place meanwhile, or the clip is done
                continue
            try:
                self._note = self._sound(state, fresh)
            except ValueError as error:
                _LOG.warning("clip %s: window %s is not used: %s", fresh.clip_id, name, error)
            else:
                yield Kept(state, self._frames_of)
            state.unlink(missing_ok=True)
        self._note, self._seen_before = fresh, Seen()

    def refused(self, error: StateError) -> None:
        _LOG.warning("clip %s: a window is not used: %s", self._note.clip_id, error)

    def took_up(self) -> None:
        last = self._note.windows[-1].window
        _LOG.info("clip %s continues from window %s", self._note.clip_id, last)
        self._since = time.monotonic()
        self._kept_one(str(last))

    def _sound(self, state: Path, fresh: WindowNote) -> WindowNote:
        """The note of a usable state of this clip, whose rows are all there. Raises ValueError if it is not usable."""
        from sam3ray.engine.state import StateError, read_note

        try:
            note = WindowNote.loads(read_note(state))
        except StateError as error:
            raise ValueError(str(error)) from None
        for what in ("run_id", "clip_id"):
            if getattr(note, what) != getattr(fresh, what):
                raise ValueError(f"its {what} is {getattr(note, what)!r:.80}, here it is {getattr(fresh, what)!r:.80}")
        if how := change(note.source, fresh.source):
            raise ValueError(f"the video has changed since ({how})")
        if not note.windows:
            raise ValueError("it names no rows")
        for entry in note.windows:
            rows = self._windows.fetch(entry.window, ROWS, self._folder)
            if rows is None:
                raise ValueError(f"the rows of window {entry.name} are missing")
            if sha256_of(rows) != entry.sha256:
                raise ValueError(f"the rows of window {entry.name} are damaged: their digest is another")
            self._files[entry.window] = rows
            self._seen_before = self._seen_before.joined(Seen.of(_facts_of(rows).get("seen", {})))
        return note

    def _frames_of(self, pass_number: int) -> Iterator[FrameAnnotations]:
        for entry in self._note.windows:
            if entry.window.pass_number == pass_number:
                yield from read_window(self._files[entry.window])

    # What a walk tells

    def add(self, pass_number: int, frame: FrameAnnotations) -> None:
        self._frames.setdefault(pass_number, []).append(frame)
        self._rows += len(frame.objects)

    def at_rest(self, pass_number: int, save: Save) -> None:
        """Raises WindowTaken if another attempt is ahead."""
        if time.monotonic() - self._since >= self._seconds or self._rows >= MOST_ROWS:
            self._keep(pass_number, save)

    def _keep(self, pass_number: int, save: Save) -> None:
        seconds = time.monotonic() - self._since
        # What the end of an earlier pass has brought since then is a window of that pass.
        passes = sorted({*self._frames, pass_number})
        seen = Seen.of(self._seen())
        news = seen.beyond(self._seen_before)
        entries = [self._rows_kept(each, seconds if each == pass_number else 0.0, news) for each in passes]
        note = replace(self._note, windows=[*self._note.windows, *entries])
        self._seen_before = self._seen_before.joined(seen)
        name = entries[-1].window
        state = self._folder / f"new{STATE}"
        save(state, note.dumps())
        if not self._windows.create_state(name, state):
            raise WindowTaken(str(name))
        state.unlink()
        self._note, self._frames, self._rows = note, {}, 0
        self._since = time.monotonic()
        self._kept_one(str(name))

    def _rows_kept(self, pass_number: int, seconds: float, seen: Seen) -> WindowEntry:
        maker, frames = self._maker, self._frames.get(pass_number, [])
        local = self._folder / f"new{ROWS}"
        write_window(local, self._note.clip_id, frames, seen.facts)
        known = set(self._windows.states)
        while True:
            name = self._windows.next_name(pass_number)
            if self._windows.create_rows(name, local):
                break
            self._windows.list()
            if news := self._windows.states - known:
                raise WindowTaken(str(max(news)))
            # Rows without a state: of an attempt that died between the two, or is about to find that it has lost.
        digest = sha256_of(local)
        local.unlink()
        return WindowEntry(str(name), digest, len(frames), maker.rung, maker.device, maker.attempt, round(seconds, 3))


def write_window(
    path: Path, clip_id: str, frames: list[FrameAnnotations], seen: Mapping[str, Any] | None = None
) -> None:
    """Frames in one order, ascending or descending, as a file of annotations. It also says where there are no rows.

    Args:
        seen: what reading has shown since the window before.
    """
    falls = len(frames) > 1 and frames[0].frame_index > frames[-1].frame_index
    ordered = frames[::-1] if falls else frames
    facts: dict[str, Any] = {
        "falls": falls,
        "height": ordered[0].height if ordered else 0,
        "width": ordered[0].width if ordered else 0,
        "empty": [[each.frame_index, each.pts, each.time_s] for each in ordered if not each.objects],
        "seen": dict(seen or {}),
    }
    with AnnotationWriter(path, clip_id, {"clip": facts}) as writer:
        for frame in ordered:
            writer.write(frame)
        writer.finish()


def read_window(path: Path) -> Iterator[FrameAnnotations]:
    """The frames of a window in the order in which they were given to `write_window`."""
    facts = _facts_of(path)
    size = facts["height"], facts["width"]
    empty = [FrameAnnotations(int(index), int(pts), float(time_s), *size) for index, pts, time_s in facts["empty"]]
    frames = _merged(read_frames(str(path)), empty)
    yield from reversed(list(frames)) if facts["falls"] else frames


def _facts_of(path: Path) -> dict[str, Any]:
    """Raises ValueError if the file is not a window's."""
    facts = read_file_metadata(pq.read_metadata(path))["clip"]
    if not isinstance(facts, dict):
        raise ValueError("the file's metadata says nothing of the clip")
    return facts


def _merged(full: Iterator[FrameAnnotations], empty: list[FrameAnnotations]) -> Iterator[FrameAnnotations]:
    waiting = iter(empty)
    nothing = next(waiting, None)
    for frame in full:
        while nothing is not None and nothing.frame_index < frame.frame_index:
            yield nothing
            nothing = next(waiting, None)
        yield frame
    while nothing is not None:
        yield nothing
        nothing = next(waiting, None)
