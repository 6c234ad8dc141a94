"""The worker without Ray: a clip in, a committed file out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sam3ray.config import JobConfig
from sam3ray.failures import ClipError, Failure, JobStopped, Reason
from sam3ray.job.mishaps import classify
from sam3ray.job.result import ClipResult
from sam3ray.job.worker import ClipWorker
from sam3ray.manifest import Clip
from sam3ray.prompts import ExemplarPrompt
from sam3ray.store import RunStore
from tests.e2e.clips import write_clip
from tests.job.fakes import DrawnSegmenter
from tests.video.media import write_video
from tests.video.test_folder import write_frames


class Recorder(DrawnSegmenter):
    """Notes which rungs it was asked for, and fails as told."""

    error: BaseException | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rungs: list[int] = []

    def set_memory_rung(self, rung: int) -> None:
        self.rungs.append(rung)

    def on_frame(self, position: int, frame: Any) -> None:
        if position == 3 and self.error is not None:
            raise self.error


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    (tmp_path / "clips").mkdir()
    for number in range(3):
        write_clip(tmp_path / "clips" / f"{number}.mp4", number, frames=6 + number)
    return [Clip(f"clip-{n}", str(tmp_path / "clips" / f"{n}.mp4"), ("red", "green")) for n in range(3)]


@pytest.fixture
def worker(tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch) -> ClipWorker:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    config = JobConfig(manifest="m.csv", output=str(tmp_path / "run"), prompts=("red",))
    store = RunStore(config.output)
    store.create_or_open({"a": 1}, {}, clips)
    return ClipWorker(config, store, {"a": 1}, Recorder)


class Shown(DrawnSegmenter):
    """Notes the exemplars that it was given."""

    def segment(self, *clip: Any, exemplars: Any = (), **how: Any) -> Any:
        self.model_info["exemplars"] = exemplars
        return super().segment(*clip, **how)


@pytest.mark.parametrize("place", [{"frame_index": 2}, {"time_s": 0.0}])
def test_exemplars_are_resolved_and_recorded(
    place: dict[str, Any], worker: ClipWorker, clips: list[Clip], tmp_path: Path
) -> None:
    half = ExemplarPrompt(((0, 0, 0.5, 1),), label="bolt", units="relative", **place)
    worker.segmenter = model = Shown(worker.config.model, worker.config.tracking)
    worker.process(replace(clips[1], exemplars=(half,)))
    facts = json.loads(pq.read_metadata(tmp_path / "run/annotations/clip-1.parquet").metadata[b"sam3ray.clip"])
    box = [0, 0, facts["width"] / 2, facts["height"]]
    frame = place.get("frame_index", 0)
    assert [each.frame_index for each in model.model_info["exemplars"]] == [frame]
    assert facts["exemplars"] == [{"label": "bolt", "frame": frame, "units": "pixels", "boxes": [box], "labels": [1]}]


def left_behind(tmp_path: Path) -> list[str]:
    return [p.name for p in (tmp_path / "tmp").rglob("*.parquet")]


def test_a_clip_is_committed_with_its_facts(worker: ClipWorker, clips: list[Clip], tmp_path: Path) -> None:
    result = worker.process(clips[1], rung=2, attempt=3)
    assert (result.clip_id, result.frames, result.objects, result.rows) == ("clip-1", 7, 2, 14)
    assert result.committed
    assert result.rung == 2
    assert result.dropped_objects == 1
    assert {"fetch", "decode", "segment", "write", "commit"} <= result.timings.keys()
    path = tmp_path / "run" / "annotations" / "clip-1.parquet"
    metadata = pq.read_metadata(path).metadata
    facts = json.loads(metadata[b"sam3ray.clip"])
    assert (facts["rung"], facts["attempt"], facts["frames"], facts["uri"]) == (2, 3, 7, clips[1].uri)
    assert json.loads(metadata[b"sam3ray.fingerprint"]) == {"a": 1}
    assert json.loads(metadata[b"sam3ray.model"]) == {"checkpoint": "drawn"}
    assert "torch" in json.loads(metadata[b"sam3ray.software"])
    assert worker.segmenter.rungs == [2]
    assert left_behind(tmp_path) == []


def test_the_file_says_whose_clock_it_is_and_which_files_a_folder_has(
    worker: ClipWorker, clips: list[Clip], tmp_path: Path
) -> None:
    for name in ("a.ts", "twice.ts"):
        write_video(tmp_path / name, 6)
    (tmp_path / "twice.ts").write_bytes((tmp_path / "a.ts").read_bytes() * 2)
    write_frames(tmp_path / "frames", ["0010.png", "0020.png"])
    expected: dict[str, tuple[str, dict[str, str] | None]] = {
        "a.ts": ("container", None),
        "twice.ts": ("rebuilt", None),
        "frames": ("folder_fps", {"0": "0010.png", "1": "0020.png"}),
    }
    for name, (clock, names) in expected.items():
        worker.process(Clip(name, str(tmp_path / name), ("red",)))
        metadata = pq.read_metadata(tmp_path / "run" / "annotations" / f"{name}.parquet").metadata
        facts = json.loads(metadata[b"sam3ray.clip"])
        assert (facts["clock"], facts.get("frame_names")) == (clock, names)


def test_a_clip_committed_by_another_attempt_is_done(worker: ClipWorker, clips: list[Clip], tmp_path: Path) -> None:
    first = worker.process(clips[0])
    path = tmp_path / "run" / "annotations" / "clip-0.parquet"
    before = path.read_bytes()
    # The same attempt again, as a late twin would: it finds the file at the end.
    assert not worker.process(clips[0]).committed
    # A later attempt looks first, and tells what the file says.
    again = worker.process(clips[0], attempt=2)
    assert (again.committed, again.frames, again.objects, again.rows) == (False, 6, first.objects, first.rows)
    assert first.rows > 0
    assert path.read_bytes() == before


def test_prefetched_clips_give_the_same_rows(worker: ClipWorker, clips: list[Clip], tmp_path: Path) -> None:
    worker.prefetch(clips[0], first_frames=True)
    worker.prefetch(clips[1], first_frames=False)
    worker.prefetch(clips[2])
    worker.drop_prefetch(clips[2].clip_id)
    worker.drop_prefetch("never heard of")
    rows = [worker.process(clip).rows for clip in clips]
    assert rows == [12, 14, 16]
    alone = ClipWorker(worker.config, RunStore(str(tmp_path / "alone")), {"a": 1}, DrawnSegmenter)
    alone.store.create_or_open({"a": 1}, {}, clips)
    for clip in clips:
        alone.process(clip)
        ours, theirs = (
            pq.read_table(tmp_path / run / f"annotations/{clip.clip_id}.parquet") for run in ("run", "alone")
        )
        assert ours.equals(theirs)


def test_a_failed_prefetch_fails_its_own_clip_alone(worker: ClipWorker, clips: list[Clip]) -> None:
    missing = Clip("missing", "/nowhere/x.mp4", ("red",))
    assert isinstance(worker.prefetch(missing).exception(), ClipError)
    assert isinstance(worker.attempt(clips[0]), ClipResult)
    failure = worker.attempt(missing)
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.NOT_FOUND
    assert failure.traceback == ""


def test_what_goes_wrong_becomes_a_record(worker: ClipWorker, clips: list[Clip], tmp_path: Path) -> None:
    for error, reason in [
        (MemoryError("no room"), Reason.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), Reason.DEVICE),
        (ValueError("a defect"), Reason.INTERNAL),
        (ClipError(Reason.OVER_LIMITS, "too large"), Reason.OVER_LIMITS),
    ]:
        worker.segmenter.error = error
        failure = worker.attempt(clips[0], attempt=2)
        assert isinstance(failure, Failure)
        assert failure.reason is reason
        assert failure.attempt == 2
        assert failure.versions["python"]
        assert ("a defect" in failure.traceback) == (reason is Reason.INTERNAL)
        assert left_behind(tmp_path) == []
    worker.segmenter.error = None
    assert isinstance(worker.attempt(clips[0], attempt=3), ClipResult)


def test_a_stopped_job_is_no_clips_failure(worker: ClipWorker, clips: list[Clip]) -> None:
    worker.segmenter.error = JobStopped("the disk is full")
    with pytest.raises(JobStopped):
        worker.attempt(clips[0])


def test_progress_tells_the_stage_and_the_frames(worker: ClipWorker, clips: list[Clip]) -> None:
    seen = []
    worker.segmenter.on_frame = lambda position, frame: seen.append(worker.progress)  # type: ignore[method-assign]
    worker.process(clips[0])
    assert [value[:2] for value in seen] == [("segment", n) for n in range(6)]
    assert worker.progress[0] == "idle"


def test_secrets_in_errors_are_masked(worker: ClipWorker, clips: list[Clip]) -> None:
    worker.segmenter.error = RuntimeError("GET https://user:hunter2@host/x?sig=abc failed")
    failure = worker.attempt(clips[0])
    assert isinstance(failure, Failure)
    assert "hunter2" not in failure.message + failure.traceback
    assert "sig=abc" not in failure.message + failure.traceback


def test_torch_errors_are_recognised() -> None:
    torch = pytest.importorskip("torch")
    assert classify(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))[0] is Reason.OUT_OF_MEMORY
    allocator = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
    assert classify(allocator)[0] is Reason.OUT_OF_MEMORY
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert classify(caught.value)[0] is Reason.OUT_OF_MEMORY
    assert classify(RuntimeError("shapes do not match"))[0] is Reason.INTERNAL


def test_close_removes_the_local_files(worker: ClipWorker, clips: list[Clip], tmp_path: Path) -> None:
    worker.prefetch(clips[0])
    worker.process(clips[1])
    worker.close()
    assert [p for p in (tmp_path / "tmp").iterdir() if p.name.startswith("sam3ray-work")] == []
