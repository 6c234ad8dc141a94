"""The job's books: what they say at the end is what is on storage, or the end is an error."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sam3ray.config import RetryConfig
from sam3ray.failures import ClipError, Failure, JobStopped, Reason
from sam3ray.job.result import ClipResult
from sam3ray.job.tables import Ledger
from sam3ray.store import RunStore
from tests.store.store_files import CONFIG, FINGERPRINT, clips, write_clip


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(str(tmp_path / "run"))
    store.create_or_open(FINGERPRINT, CONFIG, clips(3))
    return store


def failing(error: Exception) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise error

    return call


def ended(ledger: Ledger) -> tuple[int, str]:
    ledger.close()
    summary = ledger.summary(1.0, "")
    return summary.exit_code, summary.message


def test_the_table_says_what_became_of_each_clip(store: RunStore, tmp_path: Path) -> None:
    store.record_failure(Failure("clip-001", Reason.CRASHED, "before"))
    ledger = Ledger(store, clips(3), RetryConfig())
    store.commit("clip-000", write_clip(tmp_path, "clip-000")[0])
    ledger.clip_done(ClipResult("clip-000", 6, 2, 8, 1.5, {"decode": 0.5}))
    ledger.failed_attempt(Failure("clip-001", Reason.CRASHED, "again", attempt=2, final=True))
    assert ended(ledger) == (1, "")
    rows = {row["clip_id"]: row for row in pq.read_table(f"{store.output}/clips.parquet").to_pylist()}
    assert [rows[f"clip-00{i}"]["status"] for i in range(3)] == ["done", "failed", "left"]
    assert (rows["clip-000"]["frames"], rows["clip-001"]["attempts"]) == (6, 2)
    assert Counter(each.clip_id for each in store.failures()) == {"clip-001": 2}


@pytest.mark.parametrize("error", [ClipError(Reason.STORAGE, "no answer"), JobStopped("access denied")])
def test_a_table_that_cannot_be_written_at_the_end_is_an_error(store: RunStore, monkeypatch, error: Exception) -> None:
    ledger = Ledger(store, clips(3), RetryConfig())
    for clip in clips(3):
        ledger.clip_done(ClipResult(clip.clip_id, 6, 2, 8, 1.5))
    monkeypatch.setattr(store, "write_clips_table", failing(error))
    code, message = ended(ledger)
    assert code == 3
    assert str(error) in message
    assert ledger.summary(1.0, "interrupted", exit_code=130).exit_code == 130


def test_a_table_that_is_written_after_all_is_no_error(store: RunStore, monkeypatch) -> None:
    ledger = Ledger(store, clips(3), RetryConfig())
    for clip in clips(3):
        ledger.clip_done(ClipResult(clip.clip_id, 6, 2, 8, 1.5))
    with monkeypatch.context() as outage:
        outage.setattr(store, "write_clips_table", failing(ClipError(Reason.STORAGE, "no answer")))
        ledger.tick(time.monotonic() + 1000)
        ledger.write()
    assert ended(ledger) == (0, "")


def test_a_record_that_is_lost_is_an_error(store: RunStore, monkeypatch) -> None:
    ledger = Ledger(store, clips(3), RetryConfig())
    monkeypatch.setattr(store, "record_failure", failing(ClipError(Reason.STORAGE, "no answer")))
    ledger.failed_attempt(Failure("clip-000", Reason.CRASHED, "x", final=True))
    code, message = ended(ledger)
    assert code == 3
    assert "1 failure record could not be written" in message


def test_a_driver_that_was_taken_over_writes_nothing_more(store: RunStore, tmp_path: Path) -> None:
    lost = False

    def check() -> None:
        if lost:
            raise JobStopped("another process has taken over this output")

    ledger = Ledger(store, clips(3), RetryConfig(), check)
    before = {path: path.read_bytes() for path in Path(store.output).rglob("*") if path.is_file()}
    lost = True
    ledger.failed_attempt(Failure("clip-000", Reason.CRASHED, "x", final=True))
    ledger.clip_done(ClipResult("clip-001", 6, 2, 8, 1.5))
    for _ in range(1000):
        if ledger.tick(time.monotonic() + 1000):
            break
        time.sleep(0.01)
    assert "taken over this output" in ledger.tick(0.0)
    code, message = ended(ledger)
    assert code == 3
    assert "taken over this output" in message
    assert {path: path.read_bytes() for path in Path(store.output).rglob("*") if path.is_file()} == before
