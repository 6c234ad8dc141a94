"""A clip that is left at any moment and taken up again has the rows of one that was not, whichever way it goes."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sam3ray.config import TrackingConfig
from sam3ray.engine import session
from sam3ray.engine.detector import Proposals
from sam3ray.engine.engine import Engine
from sam3ray.failures import ClipError, Reason
from sam3ray.files.sighting import of_size
from sam3ray.job import windows as windows_module
from sam3ray.job.window_rows import read_window, write_window
from sam3ray.job.windows import ClipWindows, Maker, WindowTaken
from sam3ray.prompts import ExemplarPrompt
from sam3ray.store import RunStore
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.video import Frame
from tests.engine.pipeline import HEIGHT, WIDTH, Found, ScriptedDetector, checkpoint, clip
from tests.engine.prompted import WORKFLOWS, on_frame
from tests.engine.test_exemplars import Seer
from tests.engine.tiny import small_model

pytestmark = pytest.mark.usefixtures("one_thread")

LENGTH = 22
FRAMES = [replace(frame, index=3 * frame.index + 2, pts=7 * frame.pts) for frame in clip(LENGTH)]  # as sampled
CLICK, BOX = (on_frame(WORKFLOWS[name].prompts[0], 3, 7) for name in ("click", "box"))
PROMPTS = (on_frame(CLICK, FRAMES[2].index, 7), on_frame(BOX, FRAMES[5].index, 8), on_frame(CLICK, FRAMES[11].index, 8))
SHOWN = tuple(
    ExemplarPrompt(((20, 15, 50, 40),), frame_index=FRAMES[at].index, **name)
    for at, name in ((2, {"label": "bolt"}), (5, {"phrase": "red"}), (12, {"label": "bolt"}), (13, {"label": "nut"}))
)
PLACES = np.random.default_rng(3).uniform(0.15, 0.85, (LENGTH, 4, 2))


@pytest.fixture(autouse=True)
def no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session works on a frame soon after it is given, so that short clips have many moments of rest."""
    monkeypatch.setattr(session, "LENGTH_HORIZON", 2)


class Sees(ScriptedDetector):
    """Of exemplars what the script says, less surely the more their boxes have said on earlier frames."""

    def propose(self, backbone: torch.Tensor, prompts: Sequence[Any], first_position: int) -> list[Proposals]:
        found = super().propose(backbone, prompts, first_position)
        for place, prompt in enumerate(prompts):
            if not isinstance(prompt, str):
                kept = int(Seer._said(prompt).rpartition("~")[2])
                for each in found:
                    each.probs[place] *= 1 - 0.01 * kept
        return found


class Source:
    height, width = HEIGHT, WIDTH

    def __init__(self) -> None:
        self.reads: list[int] = []

    @property
    def indices(self) -> list[int]:
        return [frame.index for frame in FRAMES]

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
        self.reads.append(start)
        return iter(FRAMES[start:stop])


def script(frame: int, prompt: int) -> list[Found]:
    """Some that last, and some that hotstart removes; none on a few frames, which then have no rows."""
    if frame % 11 in (7, 8):
        return []
    lasting = [Found((0.2 + 0.3 * prompt, 0.25), 0.12, 0.9, 6.0), Found((0.7, 0.3 + 0.3 * prompt), 0.15, 0.85, 6.0)]
    return lasting[: frame // 6] + [Found((y, x), 0.08, 0.72) for y, x in PLACES[frame % LENGTH][: 1 + frame % 2]]


def engine(**tracking: Any) -> Engine:
    values = {"hotstart_delay": 6, "hotstart_unmatch_thresh": 4, "hotstart_dup_thresh": 3} | tracking
    detector = Sees(script, small_model(0).low_res_mask_size)
    return Engine(checkpoint(small_model(0, 1.0)), TrackingConfig(**values), detector)


class Killed(BaseException):
    """No handler may mistake it for an error."""


class Dies(ClipWindows):
    """Keeps a window at each moment of rest, until it is killed at one of them, or in the middle of keeping it."""

    rests_left = 10**9
    in_the_middle = False

    def at_rest(self, pass_number: int, snapshot: Any) -> None:
        if self.rests_left <= 0:
            if self.in_the_middle:
                self._windows.create_state = self._die  # type: ignore[method-assign]
                super().at_rest(pass_number, snapshot)
                self.settle()
            raise Killed
        self.rests_left -= 1
        super().at_rest(pass_number, snapshot)
        self.settle()

    def _die(self, *_: Any) -> bool:
        raise Killed


class Blank:
    """A state that says nothing."""

    def write(self, path: Path, note: str) -> None:
        path.write_bytes(b"")


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(str(tmp_path / "run"))


def recorder(store: RunStore, tmp_path: Path, kind: type[ClipWindows] = Dies, **given: Any) -> Any:
    told = {"clip_id": "a", "run_id": "r", "source": of_size(9), "seconds": 1e-9, "folder": tmp_path / "local"} | given
    return kind(store, maker=Maker(1, 0, "cpu"), **told)


def rows(one: Engine, source: Source, how: dict[str, Any], windows: ClipWindows | None) -> list[FrameAnnotations]:
    how = dict(how)
    phrases, visual = how.pop("phrases", ()), how.pop("visual", ())
    return list(one.annotate(source, HEIGHT, WIDTH, phrases, visual, recorder=windows, **how))


WAYS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"phrases": ("red", "blue")}, {"frame_batch": 2}),
    ({"phrases": ("red",), "start_frame": FRAMES[4].index}, {"rules": "transformers"}),
    ({"phrases": ("red",), "exemplars": SHOWN}, {}),
    ({"phrases": ("red",), "exemplars": SHOWN, "visual": PROMPTS}, {"exemplars": "everywhere"}),
    ({"exemplars": SHOWN}, {"exemplars": "everywhere", "detect_every": 2}),
    ({"visual": PROMPTS}, {}),
    ({"phrases": ("red",), "visual": PROMPTS}, {"offload_state": True}),
    ({"phrases": ("red",), "visual": PROMPTS, "direction": "backward"}, {}),
    ({"phrases": ("red",), "visual": PROMPTS, "direction": "both"}, {}),
    ({"visual": PROMPTS, "refine": "throughout"}, {}),
    ({"visual": PROMPTS, "refine": "throughout", "direction": "both"}, {"frame_batch": 2}),
]


@pytest.mark.parametrize(("how", "tracking"), WAYS)
def test_rows_are_those_of_an_undisturbed_run(store, tmp_path, how, tracking):
    """Killed again and again, at rests and between the rows of a window and its state."""
    one = engine(**tracking)
    whole = Source()
    expected = rows(one, whole, how, None)
    assert [frame.frame_index for frame in expected] == [frame.index for frame in FRAMES]
    assert any(frame.objects for frame in expected)
    attempts, lives = 0, np.random.default_rng(len(how)).integers(2, 5, 40).tolist()
    while True:
        windows = recorder(store, tmp_path)
        windows.rests_left = lives[attempts]
        windows.in_the_middle = attempts % 2 == 0
        attempts += 1
        source = Source()
        try:
            found = rows(one, source, how, windows)
            break
        except Killed:
            windows.close()
    assert found == expected
    assert 3 <= attempts < 40
    assert source.reads != whole.reads, "the last attempt went on from the middle"
    names = {file.name for file in (tmp_path / "run" / "windows" / "a").iterdir()}
    assert len([name for name in names if name.endswith(".safetensors")]) == 1, "the newest state alone is kept"
    windows.clear()
    windows.close()
    assert not (tmp_path / "run" / "windows").exists()
    assert not (tmp_path / "local").exists()


HOW: dict[str, Any] = {"phrases": ("red",)}


@pytest.fixture(scope="module")
def undisturbed() -> list[FrameAnnotations]:
    """The rows that all tests of one phrase ask for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session, "LENGTH_HORIZON", 2)
            return rows(engine(), Source(), HOW, None)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with windows of a clip that was left. To be copied."""
    folder = tmp_path_factory.mktemp("left")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "LENGTH_HORIZON", 2)
        half_done(engine(), RunStore(str(folder / "run")), folder)
    return folder / "run"


def half_done(one: Engine, store: RunStore, tmp_path: Path, lives: int = 9, **given: Any) -> Path:
    """Leaves a clip with windows on the store. Returns their folder."""
    windows = recorder(store, tmp_path, **given)
    windows.rests_left = lives
    with pytest.raises(Killed):
        rows(one, Source(), HOW, windows)
    windows.close()
    return tmp_path / "run" / "windows" / "a"


def spoil_state(folder: Path) -> None:
    (state,) = folder.glob("*.safetensors")
    data = bytearray(state.read_bytes())
    data[-5] ^= 1
    state.write_bytes(data)


def cut_state(folder: Path) -> None:
    (state,) = folder.glob("*.safetensors")
    state.write_bytes(state.read_bytes()[:1000])


def spoil_rows(folder: Path) -> None:
    rows = min(folder.glob("*.parquet"))
    rows.write_bytes(rows.read_bytes() + b"\0")


def lose_rows(folder: Path) -> None:
    min(folder.glob("*.parquet")).unlink()


def swap_rows(folder: Path) -> None:
    """Each whole in itself."""
    first, second, *_ = sorted(folder.glob("*.parquet"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


@pytest.mark.parametrize("harm", [spoil_state, cut_state, spoil_rows, lose_rows, swap_rows])
def test_what_is_damaged_is_not_used_and_not_fatal(store, tmp_path, caplog, harm, undisturbed, left_behind):
    one = engine()
    harm(Path(shutil.copytree(left_behind, tmp_path / "run")) / "windows" / "a")
    source = Source()
    windows = recorder(store, tmp_path)
    assert rows(one, source, HOW, windows) == undisturbed
    assert source.reads == [0], "from the beginning"
    assert "is not used" in caplog.text
    windows.close()


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        ({"run_id": "another"}, {}),
        ({"source": of_size(1)}, {}),
        ({}, {"score_threshold_detection": 0.6}),
        ({}, {"rules": "transformers"}),
    ],
)
def test_what_is_of_another_run_or_video_or_engine_is_not_used(store, tmp_path, made, asked, undisturbed):
    half_done(engine(), store, tmp_path, **made)
    other = engine(**asked)
    source = Source()
    windows = recorder(store, tmp_path)
    expected = rows(other, Source(), HOW, None) if asked else undisturbed
    assert rows(other, source, HOW, windows) == expected
    assert source.reads == [0]
    windows.close()


def test_who_loses_the_race_goes_on_from_the_winners_state(store, tmp_path, undisturbed):
    one = engine()

    class Beaten(ClipWindows):
        """Another attempt keeps some windows before this one keeps its first."""

        def at_rest(self, pass_number: int, snapshot: Any) -> None:
            half_done(one, store, tmp_path, lives=4)
            super().at_rest(pass_number, snapshot)
            self.settle()

    slow = recorder(store, tmp_path, Beaten, folder=tmp_path / "slow")
    with pytest.raises(WindowTaken, match="0-3"):
        rows(one, Source(), HOW, slow)
    slow.close()
    again, source = recorder(store, tmp_path), Source()
    assert rows(one, source, HOW, again) == undisturbed
    assert source.reads == [4]


def test_windows_on_an_object_store(s3_place, tmp_path):
    """Kept, gone on from after deaths at each kind of step, taken over by who loses a race, and removed."""
    store, how = RunStore(s3_place.uri, s3_place.options), {"visual": PROMPTS, "refine": "throughout"}
    one = engine()
    expected = rows(one, Source(), how, None)
    for lives, in_the_middle in ((3, False), (4, True)):
        windows = recorder(store, tmp_path)
        windows.rests_left, windows.in_the_middle = lives, in_the_middle
        with pytest.raises(Killed):
            rows(one, Source(), how, windows)
        windows.close()
    behind = recorder(store, tmp_path, folder=tmp_path / "slow")
    next(behind.kept())
    ahead = recorder(store, tmp_path)
    ahead.rests_left = 2
    with pytest.raises(Killed):
        rows(one, Source(), how, ahead)
    ahead.close()
    with pytest.raises(WindowTaken):
        behind.at_rest(0, Blank)
    behind.close()
    names = store.storage.names("windows/a")
    assert len([name for name in names if name.endswith(".safetensors")]) == 1, "the newest state alone is kept"
    last, source = recorder(store, tmp_path), Source()
    assert rows(one, source, how, last) == expected
    assert source.reads[0] > 0
    last.clear()
    assert store.storage.names("windows/a") == []


class SlowStore(ClipWindows):
    """No state reaches the store before it is told to; `due` counts the moments when a window was due."""

    due = 0

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self.may_go_on, self._create = threading.Event(), self._windows.create_state
        self._windows.create_state = self._waits  # type: ignore[method-assign]

    def at_rest(self, pass_number: int, snapshot: Any) -> None:
        self.due += 1
        super().at_rest(pass_number, snapshot)

    def _waits(self, *given: Any) -> bool:
        self.may_go_on.wait()
        return self._create(*given)


def test_a_slow_store_does_not_stop_the_clip(store, tmp_path, undisturbed):
    """All frames are found while the first window is under way; the frames of those that were due are in the second."""
    windows = recorder(store, tmp_path, SlowStore)
    assert rows(engine(), Source(), HOW, windows) == undisturbed
    assert windows.due > 3
    windows.may_go_on.set()
    windows.settle()
    windows.at_rest(0, Blank)
    windows.settle()
    first, second = (entry["frames"] for entry in windows.facts["windows"])
    assert first + second == len(undisturbed)
    windows.close()


def test_a_clip_waits_for_a_slow_store_when_too_many_rows_are_in_memory(store, tmp_path, monkeypatch):
    monkeypatch.setattr(windows_module, "MOST_ROWS", 3)
    windows = recorder(store, tmp_path, SlowStore)
    threading.Timer(0.2, windows.may_go_on.set).start()
    rows(engine(), Source(), HOW, windows)
    windows.settle()
    entries = windows.facts["windows"]
    assert len(entries) > 1, "the second was kept before the last frame"
    windows.close()


def test_a_clip_that_is_done_does_not_wait_for_a_window_that_nobody_needs(store, tmp_path):
    windows = recorder(store, tmp_path, SlowStore)
    rows(engine(), Source(), HOW, windows)
    windows.may_go_on.set()
    windows.finish()
    windows.clear()
    windows.close()
    assert not (tmp_path / "run" / "windows").exists()


def test_what_keeps_a_window_from_the_store_is_told_by_the_next_rest(store, tmp_path):
    class Refused(ClipWindows):
        def at_rest(self, pass_number: int, snapshot: Any) -> None:
            self._windows.create_rows = self._refuse  # type: ignore[method-assign]
            super().at_rest(pass_number, snapshot)
            wait([self._upload] if self._upload is not None else [])

        def _refuse(self, *_: Any) -> bool:
            raise ClipError(Reason.STORAGE, "the store is away", "s3://bucket")

    windows = recorder(store, tmp_path, Refused)
    with pytest.raises(ClipError, match="the store is away") as told:
        rows(engine(), Source(), HOW, windows)
    assert told.value.reason is Reason.STORAGE
    windows.close()
    assert not (tmp_path / "local").exists()


def test_a_window_can_be_asked_for(store, tmp_path):
    class Asked(ClipWindows):
        """At the fifth rest."""

        rests = 0

        def at_rest(self, pass_number: int, snapshot: Any) -> None:
            self.rests += 1
            if self.rests == 5:
                self.kept = self.keep_now()
            super().at_rest(pass_number, snapshot)
            if self.rests == 5:
                self.settle()
                assert self.kept.is_set()

    windows = recorder(store, tmp_path, Asked, seconds=3600.0)
    rows(engine(), Source(), HOW, windows)
    assert len(windows.facts["windows"]) == 1
    too_late = windows.keep_now()
    assert not too_late.is_set()
    windows.finish()
    assert too_late.is_set()
    assert windows.keep_now().is_set()
    windows.close()


def test_windows_are_kept_by_the_clock_and_name_their_makers(store, tmp_path):
    windows = recorder(store, tmp_path, ClipWindows, seconds=3600.0)
    rows(engine(), Source(), HOW, windows)
    assert windows.facts == {}
    kept: list[str] = []
    windows = recorder(store, tmp_path, ClipWindows, kept_one=kept.append)
    found = rows(engine(), Source(), HOW, windows)
    windows.settle()
    entries = windows.facts["windows"]
    assert [entry["name"] for entry in entries] == kept
    assert {(entry["rung"], entry["device"], entry["attempt"]) for entry in entries} == {(0, "cpu", 1)}
    assert sum(entry["frames"] for entry in entries) < len(found)


@pytest.mark.parametrize("falls", [False, True])
def test_a_window_reads_as_it_was_written(tmp_path, falls, undisturbed):
    """Frames without objects at its ends and within, in either order."""
    frames = undisturbed
    frames = [frames[0], *frames[1:9], *frames[12:]]
    frames = frames[::-1] if falls else frames
    for part in (frames, frames[:1], []):
        write_window(tmp_path / "w.parquet", "a", part)
        assert list(read_window(tmp_path / "w.parquet")) == part
