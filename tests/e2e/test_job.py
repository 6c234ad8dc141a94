"""The driver on a real local Ray, with a model that misbehaves."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sam3ray.config import ClusterConfig
from sam3ray.failures import JobStopped, Reason, UserError
from sam3ray.job.driver import run_job
from sam3ray.job.spread import spread_over_cluster
from sam3ray.store import RunStore, verify_run
from tests.e2e.clips import write_clips
from tests.e2e.faults import BrokenModel, Fault, FaultyModel, NoModel, counted
from tests.e2e.runs import annotations_of, assert_same_annotations, config_for
from tests.job.fakes import DrawnSegmenter

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="session")
def undisturbed(six_clips: Path, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    summary = run_job(config_for(six_clips, output, actors=1), make_segmenter=DrawnSegmenter)
    assert (summary.done, summary.exit_code) == (6, 0)
    return output


def records_of(output: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for failure in RunStore(str(output)).failures():
        found.setdefault(failure.clip_id, []).append(failure.reason.value)
    return found


def test_all_clips_done_and_counted(undisturbed: Path) -> None:
    tables = annotations_of(undisturbed)
    assert {name: table.num_rows for name, table in tables.items()} == {
        "clip-000": 60, "clip-001": 24, "clip-002": 28, "clip-003": 32, "clip-004": 36, "clip-005": 40,
    }  # fmt: skip
    clips = pq.read_table(undisturbed / "clips.parquet").to_pylist()
    assert [row["status"] for row in clips] == ["done"] * 6
    assert [row["frames"] for row in clips] == [30, 12, 14, 16, 18, 20]


def test_an_audit_may_be_spread_over_the_cluster(undisturbed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(undisturbed, copy)
    with spread_over_cluster(ClusterConfig()) as spread:
        assert verify_run(str(copy), spread=spread) == []
        (copy / "annotations" / "clip-001.parquet").write_bytes(b"PAR1")
        (problem,) = verify_run(str(copy), spread=spread)
    assert "annotations/clip-001.parquet: cannot be read" in problem


def test_a_second_run_has_nothing_to_do(undisturbed: Path, six_clips: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (undisturbed / "annotations").iterdir()}
    summary = run_job(config_for(six_clips, undisturbed), make_segmenter=DrawnSegmenter)
    assert (summary.done, summary.skipped, summary.exit_code) == (0, 6, 0)
    assert before == {p: p.stat().st_mtime_ns for p in (undisturbed / "annotations").iterdir()}


def test_faults_of_every_kind_leave_the_other_clips_alone(six_clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    model = FaultyModel(
        str(tmp_path),
        {
            0: Fault("kill", times=1),
            1: Fault("abort"),
            2: Fault("oom", below_rung=2),
            3: Fault("hang"),
            4: Fault("raise"),
        },
    )
    config = config_for(six_clips, output, retry={"no_progress_s": 10.0, "crashes": 2})
    summary = run_job(config, make_segmenter=model)
    assert summary.exit_code == 1
    assert summary.failed == {"crashed": 1, "internal": 1, "timed_out": 1}
    assert counted(tmp_path, "abort-1") == 2
    assert counted(tmp_path, "hang-3") == 2
    records = records_of(output)
    assert records.pop("clip-000", ["crashed"]) == ["crashed"]
    assert records == {
        "clip-001": ["crashed"] * 2,
        "clip-002": ["out_of_memory"] * 2,
        "clip-003": ["timed_out"] * 2,
        "clip-004": ["internal"],
    }
    (internal,) = [f for f in RunStore(str(output)).failures() if f.reason is Reason.INTERNAL]
    assert "a defect, for a test" in internal.message
    assert "faults.py" in internal.traceback
    assert internal.final
    mended = annotations_of(output)
    whole = annotations_of(undisturbed)
    assert mended.keys() == {"clip-000", "clip-002", "clip-005"}
    assert all(table.equals(whole[name]) for name, table in mended.items())
    clip = json.loads(pq.read_metadata(output / "annotations/clip-002.parquet").metadata[b"sam3ray.clip"])
    assert clip["rung"] == 2

    # What failed for good stays so until its records are cleared; then the next run makes it whole.
    again = run_job(config, make_segmenter=DrawnSegmenter)
    assert (again.done, again.exit_code, sum(again.failed.values())) == (0, 1, 3)
    RunStore(str(output)).clear_failures()
    last = run_job(config, make_segmenter=DrawnSegmenter)
    assert (last.done, last.exit_code, dict(last.failed)) == (3, 0, {})
    assert_same_annotations(output, undisturbed)


def test_a_decoder_that_aborts_is_charged_to_its_own_clip(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 8, frames=10)
    model = FaultyModel(str(tmp_path), {}, hostile=(3, 6), frame_s=0.01)
    summary = run_job(config_for(manifest, tmp_path / "run"), make_segmenter=model)
    assert summary.failed == {"crashed": 2}
    assert annotations_of(tmp_path / "run").keys() == {f"clip-{n:03d}" for n in range(8)} - {"clip-003", "clip-006"}
    records = records_of(tmp_path / "run")
    assert records["clip-003"] == records["clip-006"] == ["crashed"] * 3
    assert all(len(found) <= 1 for name, found in records.items() if name not in ("clip-003", "clip-006"))


def test_another_fingerprint_is_refused(undisturbed: Path, six_clips: Path) -> None:
    config = config_for(six_clips, undisturbed, video={"fps": 2.0})
    with pytest.raises(UserError, match=r"video\.fps"):
        run_job(config, make_segmenter=DrawnSegmenter)


def test_more_gpus_than_there_are(six_clips: Path, tmp_path: Path) -> None:
    config = config_for(six_clips, tmp_path / "run", cluster={"gpus_per_actor": 1})
    with pytest.raises(JobStopped, match=r"no GPU.*room for none.*gpus_per_actor to 0"):
        run_job(config, make_segmenter=DrawnSegmenter)


def test_fewer_cpus_than_asked_runs_what_fits(six_clips: Path, tmp_path: Path) -> None:
    summary = run_job(config_for(six_clips, tmp_path / "run", actors=50, cpus=1), make_segmenter=DrawnSegmenter)
    assert summary.exit_code == 0
    assert "running 2" in summary.message


def test_a_model_that_does_not_exist_stops_the_job(six_clips: Path, tmp_path: Path) -> None:
    summary = run_job(config_for(six_clips, tmp_path / "run", actors=1), make_segmenter=NoModel)
    assert (summary.exit_code, summary.done, summary.left) == (3, 0, 6)
    assert summary.message == "no actor can start: there is no checkpoint at /nowhere"


def test_actors_that_keep_failing_to_start_stop_the_job(six_clips: Path, tmp_path: Path) -> None:
    config = config_for(six_clips, tmp_path / "run", actors=1, retry={"backoff_s": 0.0})
    summary = run_job(config, make_segmenter=BrokenModel)
    assert summary.exit_code == 3
    assert "3 actors in a row could not start; the last error: OSError: disk on fire" in summary.message


class Broken:
    """Watches a job, and fails at it."""

    def update(self, snapshot: object) -> None:
        raise BrokenPipeError("the terminal is gone")

    clip_done = clip_failed = update

    def close(self) -> None:
        raise UnicodeEncodeError("ascii", "é", 0, 1, "no such character")


def test_nothing_beside_the_work_can_end_it(six_clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Ray's metrics take labels in ASCII alone, and this output's name is not."""
    output = tmp_path / "étiquettes 標籤"
    summary = run_job(config_for(six_clips, output, actors=1), make_segmenter=DrawnSegmenter, progress=Broken())
    assert (summary.done, summary.exit_code) == (6, 0)
    assert_same_annotations(output, undisturbed)


def test_two_jobs_in_two_threads_share_this_process_s_ray(six_clips: Path, undisturbed: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / "one", tmp_path / "two"]
    with ThreadPoolExecutor(2) as pool:
        configs = [config_for(six_clips, output, actors=1, cpus=1) for output in outputs]
        summaries = list(pool.map(lambda config: run_job(config, make_segmenter=DrawnSegmenter), configs))
    assert [(summary.done, summary.exit_code) for summary in summaries] == [(6, 0)] * 2
    for output in outputs:
        assert_same_annotations(output, undisturbed)


def test_an_address_that_this_process_cannot_honour_is_an_error(six_clips: Path, tmp_path: Path) -> None:
    config = config_for(six_clips, tmp_path / "run", cluster={"address": "10.0.0.1:6379"})
    with pytest.raises(UserError, match=r"cluster\.address is '10\.0\.0\.1:6379', but this process is connected to"):
        run_job(config, make_segmenter=DrawnSegmenter)
