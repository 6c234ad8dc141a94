"""Checkpoints within a clip: an attempt saves its state from time to time, and the next attempt continues from it.

Only whole windows reach the store (`sam3ray.store.windows` says what it holds if the process dies at any step). A
window that is damaged, or of another video or engine, is ignored: the clip continues from an earlier window, or starts
over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam3ray.engine.header import StateError, read_note
from sam3ray.engine.recorder import Kept
from sam3ray.files.sighting import change
from sam3ray.job.seen import Seen
from sam3ray.job.window_rows import read_window, window_facts, write_window
from sam3ray.store import RunStore
from sam3ray.store.windows import ROWS, STATE, WindowEntry, WindowName, WindowNote, Windows, sha256_of
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.video import Anchor

if TYPE_CHECKING:
    from sam3ray.engine.state import Snapshot

_LOG = logging.getLogger(__name__)

MOST_ROWS = 200_000  # a window ends early at this many rows, because they stay in memory until it is written


class WindowTaken(Exception):
    """Another attempt at the clip is ahead; continue from its state."""


@dataclass(frozen=True)
class Maker:
    """Who made the windows, for the record."""

    attempt: int
    rung: int
    device: str


class _Unwanted(Exception):
    """The clip was done or given up before the window was stored."""


@dataclass(frozen=True)
class _Cut:
    """A copy of the window up to now: work continues while the copy is written and uploaded."""

    pass_number: int
    frames: Mapping[int, list[FrameAnnotations]]
    seen: Seen
    seconds: float
    state: Snapshot
    asked: Sequence[threading.Event]


class ClipWindows:
    """A `sam3ray.engine.recorder.Recorder` that saves a clip's windows on the run's store.

    A thread writes and uploads each window, one at a time. Meanwhile the next window grows; the clip waits only if
    MOST_ROWS rows are in memory.

    Args:
        run_id: the run's id; windows of other runs are not used.
        source: the current sighting of the clip's video; windows with another sighting are not used.
        seconds: time between two windows.
        folder: folder for local files, which `close` removes.
        kept_one: called with the name of each stored window, and of the window from which the clip continues.
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
        self._seen_before = Seen()  # frames up to the last window
        self._files: dict[WindowName, Path] = {}
        self._frames: dict[int, list[FrameAnnotations]] = {}  # frames by pass, since the last window
        self._rows = 0
        self._since = time.monotonic()
        self._beside = ThreadPoolExecutor(1, "sam3ray-window")
        self._upload: Future[WindowNote] | None = None
        self._upload_s = 0.0
        self._asked: list[threading.Event] = []  # set if someone waits for a window
        self._lock = threading.Lock()  # of `_asked`
        self._is_over = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        self._windows.list()

    @property
    def are_there(self) -> bool:
        """Whether the store may have a state to continue from."""
        return bool(self._windows.states)

    @property
    def facts(self) -> dict[str, Any]:
        """Entries for the clip's metadata: facts that all attempts read, and the windows that make up the clip."""
        seen = self._seen_before.joined(Seen.of(self._seen())).facts
        return seen | ({"windows": [asdict(entry) for entry in self._note.windows]} if self._note.windows else {})

    @property
    def anchor(self) -> Anchor | None:
        """Where to continue reading the video, according to the window from which the clip resumes."""
        return Anchor.of(self._seen_before.anchor)

    def reads(self, seen: Callable[[], Mapping[str, Any]]) -> None:
        """Sets the source of facts about the video. They are saved, because the next attempt reads other frames."""
        self._seen = seen

    def finish(self) -> None:
        """All frames are processed: no more windows are needed. A running upload ends early; its errors are ignored."""
        self._end()
        if self._upload is not None:
            upload, self._upload = self._upload, None
            error = upload.exception()
            if error is None:
                self._note = upload.result()
            elif not isinstance(error, _Unwanted):
                _LOG.warning("clip %s: its last window was not saved: %s", self._note.clip_id, error)

    def _end(self) -> None:
        with self._lock:
            self._is_over.set()
            for waiting in self._asked:
                waiting.set()

    def close(self) -> None:
        self._end()
        self._beside.shutdown(wait=True)
        for file in self._folder.iterdir():
            file.unlink(missing_ok=True)
        self._folder.rmdir()

    def clear(self) -> None:
        """Removes the windows of a finished clip."""
        self._windows.list()
        if self._windows.rows or self._windows.states or self._windows.has_index:
            self._windows.clear()

    def keep_now(self) -> threading.Event:
        """Requests a window, however short, at the next point where the session can be saved. For any thread.

        Returns:
            An event, set once the window is stored or it is certain that none will be.
        """
        kept = threading.Event()
        with self._lock:
            if self._is_over.is_set():
                kept.set()
            else:
                self._asked.append(kept)
        return kept

    # Called by a walk to resume

    def kept(self) -> Iterator[Kept]:
        fresh, tried = self._note, set[WindowName]()
        while untried := self._windows.states - tried:
            name = max(untried)
            tried.add(name)
            self._note, self._seen_before = fresh, Seen()
            state = self._windows.fetch(name, STATE, self._folder)
            if state is None:
                self._windows.list()  # a later window has replaced it, or the clip is done
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
        """The note of a state of this clip with all its rows. Raises ValueError if it is not usable."""
        try:
            note = WindowNote.loads(read_note(state))
        except StateError as error:
            raise ValueError(str(error)) from None
        for what in ("run_id", "clip_id"):
            if getattr(note, what) != getattr(fresh, what):
                raise ValueError(f"its {what} was {getattr(note, what)!r:.80}, and is now {getattr(fresh, what)!r:.80}")
        if how := change(note.source, fresh.source):
            raise ValueError(f"the video has changed since ({how})")
        if not note.windows:
            raise ValueError("it names no rows")
        for entry in note.windows:
            rows = self._windows.fetch(entry.window, ROWS, self._folder)
            if rows is None:
                raise ValueError(f"the rows of window {entry.name} are missing")
            if sha256_of(rows) != entry.sha256:
                raise ValueError(f"the rows of window {entry.name} are damaged: their digest does not match")
            self._files[entry.window] = rows
            self._seen_before = self._seen_before.joined(Seen.of(window_facts(rows).get("seen", {})))
        return note

    def _frames_of(self, pass_number: int) -> Iterator[FrameAnnotations]:
        for entry in self._note.windows:
            if entry.window.pass_number == pass_number:
                yield from read_window(self._files[entry.window])

    # Called by a walk to save

    def add(self, pass_number: int, frame: FrameAnnotations) -> None:
        self._frames.setdefault(pass_number, []).append(frame)
        self._rows += len(frame.objects)

    def at_rest(self, pass_number: int, snapshot: Callable[[], Snapshot]) -> None:
        """Raises WindowTaken if another attempt is ahead, or the error that kept the last window from the store."""
        if self._upload is not None and self._upload.done():
            self.settle()
        asked = bool(self._asked)
        # Early by the duration of the last upload, so at most `seconds` of work can be lost.
        is_due = time.monotonic() - self._since >= self._seconds - min(self._upload_s, self._seconds / 2)
        if self._rows >= MOST_ROWS:
            self.settle()
        elif not (is_due or asked) or self._upload is not None:
            return  # while the last window is being uploaded, this one grows
        self._upload = self._beside.submit(self._keep, self._cut(pass_number, snapshot))

    def settle(self) -> None:
        """Waits for the running upload. Raises what `at_rest` raises."""
        if self._upload is not None:
            upload, self._upload = self._upload, None
            self._note = upload.result()

    def _cut(self, pass_number: int, snapshot: Callable[[], Snapshot]) -> _Cut:
        """Everything since the last window, as a new window."""
        seen = Seen.of(self._seen())
        news = seen.beyond(self._seen_before)
        self._seen_before = self._seen_before.joined(seen)
        seconds = time.monotonic() - self._since
        with self._lock:
            asked, self._asked = self._asked, []
        cut = _Cut(pass_number, self._frames, news, round(seconds, 3), snapshot(), asked)
        self._frames, self._rows, self._since = {}, 0, time.monotonic()
        return cut

    # In the uploading thread

    def _keep(self, cut: _Cut) -> WindowNote:
        # If an earlier pass ended since the last window, its rows form a window of that pass.
        began = time.monotonic()
        passes = sorted({*cut.frames, cut.pass_number})
        entries = [self._rows_kept(each, cut) for each in passes]
        note = replace(self._note, windows=[*self._note.windows, *entries])
        name = entries[-1].window
        state = self._folder / f"new{STATE}"
        cut.state.write(state, note.dumps())
        self._check_wanted()
        if not self._windows.create_state(name, state):
            raise WindowTaken(str(name))
        state.unlink()
        self._kept_one(str(name))
        for waiting in cut.asked:
            waiting.set()
        self._upload_s = time.monotonic() - began
        return note

    def _rows_kept(self, pass_number: int, cut: _Cut) -> WindowEntry:
        maker, frames = self._maker, cut.frames.get(pass_number, [])
        local = self._folder / f"new{ROWS}"
        write_window(local, self._note.clip_id, frames, cut.seen.kept)
        known = set(self._windows.states)
        while True:
            self._check_wanted()
            name = self._windows.next_name(pass_number)
            if self._windows.create_rows(name, local):
                break
            self._windows.list()
            if news := self._windows.states - known:
                raise WindowTaken(str(max(news)))
            # Rows without a state: their attempt died between the two writes, or is about to lose the race.
        digest = sha256_of(local)
        local.unlink()
        seconds = cut.seconds if pass_number == cut.pass_number else 0.0
        return WindowEntry(str(name), digest, len(frames), maker.rung, maker.device, maker.attempt, seconds)

    def _check_wanted(self) -> None:
        if self._is_over.is_set():
            raise _Unwanted
