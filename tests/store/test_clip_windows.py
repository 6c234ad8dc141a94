"""Windows of clips under way: what verify, status, retry and the next driver make of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sam3ray.annotations import read_annotations
from sam3ray.config import RetryConfig
from sam3ray.failures import Failure, Reason
from sam3ray.job.tables import Ledger
from sam3ray.store import RunStore, compact_run, leftovers, read_status, verify_run
from sam3ray.store.windows import WindowEntry, WindowName, WindowNote, Windows, clip_windows
from sam3ray.values.clip import Clip
from tests.servers import Place
from tests.store.store_files import FINGERPRINT, write_clip


def filled(store: RunStore, tmp_path: Path) -> RunStore:
    """Clip `done` is done, `lost` failed for good, `open` is left; each has windows."""
    clips = [Clip(each, f"/videos/{each}.mp4", ("red ball", "blue box")) for each in ("done", "lost", "open")]
    store.create_or_open(FINGERPRINT, {}, clips)
    for clip in clips:
        for name in ("0-0.parquet", "0-1.parquet", "0-1.safetensors"):
            store.storage.create_bytes(b"x", f"windows/{clip.clip_id}/{name}")
    store.commit("done", write_clip(tmp_path, "done")[0])
    store.record_failure(Failure("lost", Reason.CRASHED, "it died", final=True, window="0-1"))
    store.record_failure(Failure("open", Reason.CRASHED, "it died", window="0-0"))
    return store


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    return filled(RunStore(str(tmp_path / "run")), tmp_path)


def test_the_newest_state_of_each_clip_is_told_by_one_listing(run):
    assert clip_windows(run.storage) == dict.fromkeys(("done", "lost", "open"), WindowName(0, 1))


def test_windows_are_no_unknown_files_and_those_of_done_clips_are_a_note(run, tmp_path):
    (tmp_path / "run" / "windows" / "open" / "01-2.parquet").write_bytes(b"x")
    problems = verify_run(run.output)
    assert [problem for problem in problems if "windows" in problem] == [
        "windows/open/01-2.parquet: not a file of a run"
    ]
    assert [note.split(":")[0] for note in leftovers(run)] == ["clip done"]


def test_status_counts_what_is_partly_done(run):
    status = read_status(run.output)
    assert status.windows == 2
    assert status.facts()["partly done"] == "2"


@pytest.mark.parametrize(
    ("names", "partly", "windows"),
    [
        (("frames.json",), 0, 0),
        (("frames.json", "0-0.parquet"), 0, 0),
        (("frames.json", "0-0.parquet", "0-0.safetensors"), 1, 0),
        (("frames.json", "cuts.json", "w0-0.parquet", "w0-0.safetensors"), 0, 0),
        (("cuts.json", "w0-0.parquet", "w0-0.safetensors", "w0.json"), 1, 1),
        (("cuts.json", "w0-0.parquet", "w0.json", "w3-1.parquet", "w3.json", "w4-0.parquet", "links.json"), 1, 2),
    ],
)
def test_status_counts_a_clip_as_partly_done_once_the_next_attempt_need_not_start_over(
    names, partly, windows, tmp_path
):
    store = RunStore(str(tmp_path / "run"))
    store.create_or_open(FINGERPRINT, {}, [Clip("open", "/videos/open.mp4", ("red ball",))])
    for name in names:
        store.storage.create_bytes(b"x", f"windows/open/{name}")
    status = read_status(store.output)
    assert (status.windows, status.windows_done) == (partly, windows)


def test_the_next_driver_removes_leftovers_and_charges_per_window(run, tmp_path):
    ledger = Ledger(run, run.manifest(), RetryConfig())
    assert not (tmp_path / "run" / "windows" / "done").exists()
    assert ledger.windows == {"lost": "0-1", "open": "0-1"}
    assert ledger.prior == {"lost": [Reason.CRASHED]}, "what befell an earlier window of `open` does not count"
    ledger.close()


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_compaction_passes_over_windows(kind, tmp_path, request):
    """Their rows are nobody's yet, and what is under way stays as it is."""
    place = Place(str(tmp_path / "run")) if kind == "local" else request.getfixturevalue("s3_place")
    store = filled(RunStore(place.uri, place.options), tmp_path)

    def rows() -> list[tuple[int, int]]:
        table = read_annotations(place.uri, place.options).to_table()
        return sorted((row["frame_index"], row["object_id"]) for row in table.to_pylist())

    windows, before = sorted(entry.path for entry in store.storage.walk("windows")), rows()
    result = compact_run(place.uri, place.options, remove_originals=True)
    assert (result.clips, result.removed) == (1, 1)
    assert sorted(entry.path for entry in store.storage.walk("windows")) == windows
    assert rows() == before
    assert not [problem for problem in verify_run(place.uri, place.options) if "windows" in problem]
    ledger = Ledger(store, store.manifest(), RetryConfig())
    assert ledger.windows == {"lost": "0-1", "open": "0-1"}
    assert clip_windows(store.storage).keys() == {"lost", "open"}, "those of the merged clip are removed"
    ledger.close()


@pytest.mark.parametrize("from_start", [False, True])
def test_retry_goes_on_unless_it_is_told_to_begin_again(run, from_start):
    assert run.clear_failures(["crashed"], from_start=from_start) == 2
    assert clip_windows(run.storage).keys() == ({"done"} if from_start else {"done", "lost", "open"})


def test_a_name_that_was_ever_taken_is_not_used_again(run):
    windows = Windows(run.storage, "open")
    windows.list()
    assert windows.next_name(0) == WindowName(0, 2)
    assert windows.next_name(1) == WindowName(1, 0)


@pytest.mark.parametrize(
    "harm",
    [
        {"windows": [{"name": "../0-0", "sha256": "", "frames": 1}]},
        {"windows": [{"name": "0-1", "sha256": "", "frames": 1}] * 2},
        {"windows": [{"name": "0-0", "sha256": "", "frames": -1}]},
        {"windows": "0-0"},
        {"more": 1},
    ],
)
def test_a_note_of_strangers_names_no_other_files(harm):
    note = WindowNote("r", "a", "{}", [WindowEntry("0-0", "d", 1), WindowEntry("1-0", "e", 0)])
    assert WindowNote.loads(note.dumps()) == note
    with pytest.raises(ValueError):
        WindowNote.loads(json.dumps(json.loads(note.dumps()) | harm))
