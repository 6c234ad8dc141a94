"""A clip that is cut into windows, part by part, without Ray: in any order, twice, damaged, abandoned."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3ray.config import JobConfig
from sam3ray.failures import ClipError, Failure, Reason
from sam3ray.job.graph import Stage, Work
from sam3ray.job.merging import MergeOrder, merge_one
from sam3ray.job.result import ClipCut, ClipResult, PartDone, PartsLost
from sam3ray.job.worker import ClipWorker
from sam3ray.store import RunStore, leftovers, read_status, verify_run
from sam3ray.store.cut_clip import CutClip
from sam3ray.values.clip import Clip
from sam3ray.values.prompts import PointPrompt
from tests.e2e.clips import write_clip
from tests.job.fakes import DrawnSegmenter


class Drawn(DrawnSegmenter):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model_info |= {"thresholds": {"hotstart_delay": 3, "recondition_every_nth_frame": 2}}


PRINT = {"a": 1}
WINDOWS = {"mode": "parallel", "frames": 20, "overlap": 4}
FRAMES = 70


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    path = tmp_path_factory.mktemp("clips") / "long.mp4"
    write_clip(path, 3, frames=FRAMES)
    return Clip("long", str(path), ("red", "green"))


@pytest.fixture(scope="module")
def whole(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip's file where it is worked on in one piece."""
    output = tmp_path_factory.mktemp("whole")
    worker = a_worker(output, clip, windows={"mode": "off"})
    worker.process(clip)
    worker.close()
    return output / "annotations/long.parquet"


def a_worker(output: Path | str, clip: Clip, make: Any = Drawn, **sections: Any) -> ClipWorker:
    config = JobConfig(manifest="m.csv", output=str(output), prompts=("red",), **{"windows": WINDOWS, **sections})
    store = RunStore(config.output, config.storage)
    store.create_or_open(PRINT, {}, [clip])
    return ClipWorker(config, store, PRINT, make)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def worker(output: Path, clip: Clip) -> ClipWorker:
    return a_worker(output, clip)


def window(worker: ClipWorker, clip: Clip, index: int, attempt: int = 1) -> Any:
    return worker.attempt(clip, 0, attempt, Work(0, Stage.WINDOW, index))


def link(worker: ClipWorker, clip: Clip) -> Any:
    return worker.attempt(clip, 0, 1, Work(0, Stage.LINK))


def merge(worker: ClipWorker, clip: Clip) -> ClipResult | PartsLost:
    return merge_one(MergeOrder(worker.store, PRINT), clip)


def windows_of(worker: ClipWorker) -> CutClip:
    kept = CutClip(worker.store.storage, "long")
    kept.look()
    return kept


def work_through(worker: ClipWorker, clip: Clip) -> None:
    """Every window, then the links; nothing is merged yet."""
    found = worker.process(clip)
    assert isinstance(found, ClipCut)
    for index in set(range(len(found.cutting.shares))) - found.cutting.kept:
        assert isinstance(window(worker, clip, index), PartDone)
    assert isinstance(link(worker, clip), PartDone)


def test_windows_in_any_order_and_twice_give_the_rows_of_the_whole_clip(worker, clip, whole, output):
    found = worker.process(clip)
    assert (found.frames, len(found.cutting.shares)) == (FRAMES, 4)
    assert sum(found.cutting.shares) > 1
    order = [*range(4), 1, 3]
    random.Random(3).shuffle(order)
    for attempt, index in enumerate(order, start=1):
        assert isinstance(window(worker, clip, index, attempt), PartDone)
    assert isinstance(link(worker, clip), PartDone)
    assert read_status(str(output)).facts()["partly done"] == "1, 4 of their parallel windows"
    assert not [each for each in verify_run(str(output)) if "windows" in each]
    result = merge(worker, clip)
    assert isinstance(result, ClipResult)
    assert result.committed
    assert pq.read_table(output / "annotations/long.parquet").equals(pq.read_table(whole))
    assert verify_run(str(output)) == []
    assert not (output / "windows").exists()


def test_the_metadata_is_that_of_the_whole_clip_and_names_the_windows(worker, clip, whole, output):
    work_through(worker, clip)
    merge(worker, clip)

    def about(path: Path) -> dict[str, Any]:
        facts = json.loads(pq.read_metadata(path).metadata[b"sam3ray.clip"])
        for name in ("timings", "seconds", "finished_at", "attempt_id", "windows", "source"):
            facts.pop(name, None)
        return facts

    ours = output / "annotations/long.parquet"
    assert about(ours) == about(whole)
    facts = json.loads(pq.read_metadata(ours).metadata[b"sam3ray.clip"])
    assert [(each["name"], each["start"]) for each in facts["windows"]] == [
        ("w0", 0),
        ("w1", 20),
        ("w2", 40),
        ("w3", 60),
    ]
    assert sum(each["frames"] for each in facts["windows"]) == FRAMES
    for key in (b"sam3ray.model", b"sam3ray.fingerprint"):
        assert json.loads(pq.read_metadata(ours).metadata[key]) == json.loads(pq.read_metadata(whole).metadata[key])


def test_another_worker_takes_up_what_is_kept(worker, clip, output):
    worker.process(clip)
    window(worker, clip, 2)
    found = a_worker(output, clip).process(clip)
    assert found.cutting.kept == {2}
    assert not found.cutting.linked
    work_through(worker, clip)
    assert a_worker(output, clip).process(clip).cutting.linked


@pytest.mark.parametrize("change", ["rules", "video", "frames", "damage"])
def test_what_is_kept_of_something_else_is_not_used(change, worker, clip, output):
    worker.process(clip)
    window(worker, clip, 0)
    sections: dict[str, Any] = {}
    other = Drawn
    if change == "rules":

        class other(Drawn):
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                self.model_info |= {"dtype": "bfloat16"}

    elif change == "frames":
        sections["windows"] = {**WINDOWS, "frames": 24}
    elif change == "damage":
        (output / "windows/long/cuts.json").write_bytes(b"{}")
    elif change == "video":
        note = json.loads((output / "windows/long/cuts.json").read_text())
        note["source"] = json.dumps(json.loads(note["source"]) | {"size": 1})
        (output / "windows/long/cuts.json").write_text(json.dumps(note))
    found = a_worker(output, clip, other, **sections).process(clip)
    assert found.cutting.kept == frozenset()
    assert found.cutting.shares != () or change == "frames"


@pytest.mark.parametrize("harm", ["rows", "mark", "no rows", "no ending", "foreign mark"])
def test_windows_that_are_damaged_are_made_again(harm, worker, clip, whole, output):
    work_through(worker, clip)
    folder = output / "windows/long"
    (folder / "links.json").unlink()
    match harm:
        case "rows":
            (folder / "w1-0.parquet").write_bytes(b"PAR1")
        case "mark":
            (folder / "w1.json").write_bytes(b"{")
        case "no rows":
            (folder / "w1-0.parquet").unlink()
        case "no ending":
            (folder / "w1-0.safetensors").unlink()
        case "foreign mark":
            mark = json.loads((folder / "w1.json").read_text())
            (folder / "w1.json").write_text(json.dumps(mark | {"cuts": "0" * 64}))
    lost = link(worker, clip)
    assert isinstance(lost, PartsLost)
    assert lost.windows == (1,)
    work_through(worker, clip)
    merge(worker, clip)
    assert pq.read_table(output / "annotations/long.parquet").equals(pq.read_table(whole))


@pytest.mark.parametrize("harm", ["gone", "damaged", "of other rows", "rows"])
def test_a_merge_that_lacks_something_says_what(harm, worker, clip, output):
    work_through(worker, clip)
    links = output / "windows/long/links.json"
    if harm == "gone":
        links.unlink()
    elif harm == "damaged":
        links.write_bytes(links.read_bytes()[:-9])
    elif harm == "of other rows":
        note = json.loads(links.read_text())
        links.write_text(json.dumps(note | {"rows": note["rows"][::-1]}))
    else:
        (output / "windows/long/w2-0.parquet").write_bytes(b"")
    lost = merge(worker, clip)
    assert isinstance(lost, PartsLost)
    assert lost.windows == ((2,) if harm == "rows" else ())
    assert not (output / "annotations/long.parquet").exists()
    work_through(worker, clip)
    assert isinstance(merge(worker, clip), ClipResult)


def test_a_merge_that_is_given_up_and_lives_changes_nothing(worker, clip, output):
    work_through(worker, clip)
    first = merge(worker, clip)
    again = merge(worker, clip)
    assert isinstance(again, ClipResult)
    assert (again.committed, again.rows) == (False, first.rows)


def test_windows_of_a_straggler_are_a_note_and_go(worker, clip, output):
    work_through(worker, clip)
    merge(worker, clip)
    worker.store.storage.create_bytes(b"x", "windows/long/w3-1.parquet")
    assert verify_run(str(output)) == []
    assert len(leftovers(worker.store)) == 1


def test_on_an_object_store_the_first_result_counts_and_damage_is_found(clip, whole, s3_place):
    storage = {"storage": s3_place.options}
    one, other = (a_worker(s3_place.uri, clip, **storage) for _ in range(2))
    assert one.process(clip) == other.process(clip), "one of them has decided"
    assert isinstance(window(one, clip, 1), PartDone)
    kept = windows_of(one)
    mark = one.store.storage.read("windows/long/w1.json")
    assert isinstance(window(other, clip, 1, 2), PartDone)
    assert one.store.storage.read("windows/long/w1.json") == mark
    assert a_worker(s3_place.uri, clip, **storage).process(clip).cutting.kept == {1}
    work_through(other, clip)
    assert read_status(s3_place.uri, s3_place.options).facts()["partly done"] == "1, 4 of their parallel windows"
    one.store.storage.replace_bytes(b"PAR1", "windows/long/w1-0.parquet")
    lost = merge(one, clip)
    assert isinstance(lost, PartsLost)
    assert lost.windows == (1,)
    work_through(one, clip)
    result = merge(other, clip)
    assert isinstance(result, ClipResult)
    assert result.committed
    assert not merge(one, clip).committed, "of a merge that was given up"
    read = one.store.storage.read("annotations/long.parquet")
    assert pq.read_table(pa.BufferReader(read)).equals(pq.read_table(whole))
    assert verify_run(s3_place.uri, s3_place.options) == []
    kept.look()
    assert kept.names == set()


def test_retry_from_the_start_drops_windows(worker, clip, output):
    work_through(worker, clip)
    worker.store.record_failure(Failure("long", Reason.CRASHED, "it died", final=True, window="w1"))
    assert worker.store.clear_failures(from_start=True) == 1
    assert not (output / "windows").exists()


def test_a_short_clip_is_worked_on_whole(output, clip, whole):
    worker = a_worker(output, clip, windows={**WINDOWS, "frames": 200})
    assert isinstance(worker.process(clip), ClipResult)
    assert pq.read_table(output / "annotations/long.parquet").equals(pq.read_table(whole))


def test_a_clip_with_visual_prompts_is_sequential(output, clip):
    pointed = replace(clip, visual_prompts=(PointPrompt(((5.0, 5.0),), (True,), 0, 1),))
    assert isinstance(a_worker(output, clip).process(pointed), ClipResult)


def test_a_model_that_knows_no_windows_works_on_whole_clips(output, clip):
    class Whole(Drawn):
        stitching = None

    assert isinstance(a_worker(output, clip, Whole).process(clip), ClipResult)


def test_without_its_cuts_a_window_waits_for_the_next_run(worker, clip, output):
    worker.process(clip)
    (output / "windows/long/cuts.json").unlink()
    failure = window(worker, clip, 0)
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.STORAGE


def test_a_video_that_has_become_shorter_is_no_window(worker, clip, output, monkeypatch):
    worker.process(clip)

    def short(self: Any, segmenter: Any, frames: Any, *more: Any, **how: Any) -> Any:
        yield from list(segmenter._drawn(frames, 0, *more[:3]))[:5]

    monkeypatch.setattr("tests.job.drawn_windows.DrawnWindows.segment_window", short)
    with pytest.raises(ClipError, match="only 5 frames could be read from frame 20 of the clip on"):
        worker.process(clip, work=Work(0, Stage.WINDOW, 1))
    assert windows_of(worker).done == frozenset()
