"""A run's folder on every kind of storage: local disk, memory, an S3 server, an Azure server."""

from __future__ import annotations

import datetime
import json
import os
import pickle
import shutil
import signal
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3ray.annotations import read_annotations
from sam3ray.config import JobConfig, fingerprint
from sam3ray.failures import Failure, JobStopped, Reason, UserError, WorkerUnfit
from sam3ray.manifest import Clip
from sam3ray.prompts import BoxPrompt, MaskPrompt, PointPrompt
from sam3ray.store import ClipSummary, DriverLease, Guarantee, RunStore, compact_run, verify_run
from tests.store.conftest import QUICK, everything
from tests.store.store_files import CONFIG, FINGERPRINT, clips, write_clip

# ---- identity


def test_a_run_is_created_once_and_opened_again(store: RunStore):
    assert not store.exists()
    assert store.create_or_open(FINGERPRINT, CONFIG, clips(3), extra={"versions": {"sam3ray": "0.1.0"}})
    before = everything(store)
    assert set(before) == {"run.json", "manifest.parquet"}
    assert not store.create_or_open(dict(reversed(FINGERPRINT.items())), {"other": 1}, clips(3)[::-1])
    assert everything(store) == before
    assert store.exists()
    assert store.manifest() == clips(3)
    info = store.run_info()
    assert info["fingerprint"] == FINGERPRINT
    assert info["config"] == CONFIG
    assert info["versions"] == {"sam3ray": "0.1.0"}


def test_another_fingerprint_is_refused_and_named(local_store: RunStore):
    local_store.create_or_open(FINGERPRINT, CONFIG, clips(3))
    before = everything(local_store)
    changed = {**FINGERPRINT, "model": {"checkpoint": "embedded", "dtype": "bfloat16"}, "fps": 5}
    with pytest.raises(UserError) as caught:
        local_store.create_or_open(changed, CONFIG, clips(3))
    assert 'model.dtype is "bfloat16", the run has "float32"' in str(caught.value)
    assert "fps is 5, the run has nothing" in str(caught.value)
    assert "checkpoint" not in str(caught.value)
    assert everything(local_store) == before


@pytest.mark.parametrize(
    ("before", "by"), [({}, r"sam3ray 0\.1\.0"), ({"engine_version": 2}, "engine version 2")], ids=["0.1.0", "older"]
)
def test_a_run_of_another_engine_is_refused_in_one_sentence_and_stays_readable(
    local_store: RunStore, tmp_path, before: dict[str, int], by: str
):
    old = {**FINGERPRINT, **before}
    local_store.create_or_open(old, CONFIG, clips(1))
    local_store.commit("clip-000", write_clip(tmp_path, "clip-000", seed=1, fingerprint=old)[0])
    there = everything(local_store)
    with pytest.raises(UserError, match=rf"was made by {by}, but this is engine version 3") as caught:
        local_store.create_or_open({**FINGERPRINT, "engine_version": 3, "fps": 5}, CONFIG, clips(1))
    assert len(caught.value.problems) == 1
    assert everything(local_store) == there
    assert verify_run(local_store.output) == []
    assert compact_run(local_store.output).clips == 1
    assert read_annotations(local_store.output).count_rows() > 0


def test_another_manifest_is_refused_and_named(local_store: RunStore):
    local_store.create_or_open(FINGERPRINT, CONFIG, clips(3))
    before = everything(local_store)
    other = [*clips(4)[1:], Clip("clip-000", "/videos/else.mp4", ("red ball",))]
    with pytest.raises(UserError, match=r"1 new \(clip-003\), 1 changed \(clip-000\)"):
        local_store.create_or_open(FINGERPRINT, CONFIG, other)
    assert everything(local_store) == before


def test_carried_columns_do_not_make_another_manifest(local_store: RunStore):
    local_store.create_or_open(FINGERPRINT, CONFIG, clips(2))
    assert not local_store.create_or_open(FINGERPRINT, CONFIG, [Clip(c.clip_id, c.uri, c.prompts) for c in clips(2)])


OTHER = {**FINGERPRINT, "fps": 5}


def test_a_run_of_which_nothing_has_come_makes_way(store: RunStore):
    store.create_or_open(FINGERPRINT, CONFIG, clips(3))
    store.write_clips_table({})
    store.discard_unstarted(OTHER, clips(2))
    assert store.create_or_open(OTHER, {"other": 1}, clips(2))
    assert store.run_info()["fingerprint"] == OTHER
    assert RunStore(store.output, store.storage.options, QUICK).manifest() == clips(2)
    assert set(everything(store)) == {"run.json", "manifest.parquet"}


def test_a_run_that_is_the_same_does_not_make_way(local_store: RunStore):
    local_store.create_or_open(FINGERPRINT, CONFIG, clips(3))
    before = everything(local_store)
    local_store.discard_unstarted(FINGERPRINT, clips(3))
    assert everything(local_store) == before


@pytest.mark.parametrize("trace", ["annotations", "failures", "windows", "compacted"])
def test_a_run_of_which_something_has_come_does_not_make_way(local_store: RunStore, tmp_path, trace: str):
    local_store.create_or_open(FINGERPRINT, CONFIG, clips(3))
    if trace == "windows":
        local_store.storage.create_bytes(b"x", "windows/clip-000/0-0.parquet")
    elif trace == "failures":
        local_store.record_failure(Failure("clip-000", Reason.STORAGE, "m"))
    else:
        local_store.commit("clip-000", write_clip(tmp_path, "clip-000")[0])
    if trace == "compacted":
        compact_run(local_store.output, remove_originals=True)
    before = everything(local_store)
    local_store.discard_unstarted(OTHER, clips(3))
    with pytest.raises(UserError, match="fps is 5, the run has nothing"):
        local_store.create_or_open(OTHER, CONFIG, clips(3))
    assert everything(local_store) == before


@pytest.mark.parametrize("left", ["manifest", "other manifest", "broken manifest"])
def test_a_manifest_without_a_run_froze_nothing(store: RunStore, left: str):
    if left == "broken manifest":
        store.storage.create_bytes(b"PAR1", "manifest.parquet")
    else:
        store.create_or_open(FINGERPRINT, CONFIG, clips(3 if left == "manifest" else 5))
        store.storage.delete("run.json")
    again = RunStore(store.output, store.storage.options, QUICK)
    assert again.create_or_open(FINGERPRINT, CONFIG, clips(3))
    assert again.manifest() == clips(3)


def test_a_manifest_that_cannot_be_read_back_makes_no_run(local_store: RunStore, monkeypatch):
    monkeypatch.setattr("sam3ray.store.frozen.to_parquet", lambda *_: b"PAR1 broken PAR1")
    with pytest.raises(UserError, match=r"manifest\.parquet is damaged"):
        local_store.create_or_open(FINGERPRINT, CONFIG, clips(3))
    assert not local_store.exists()


def test_a_start_that_died_between_its_two_files_is_repaired(store: RunStore):
    store.create_or_open(FINGERPRINT, CONFIG, clips(3))
    store.storage.delete("manifest.parquet")
    again = RunStore(store.output, store.storage.options, QUICK)
    with pytest.raises(UserError, match="run it again"):
        again.manifest()
    with pytest.raises(UserError, match="never written"):
        again.create_or_open(FINGERPRINT, CONFIG, clips(2))
    assert not again.create_or_open(FINGERPRINT, CONFIG, clips(3))
    assert again.manifest() == clips(3)


def test_of_many_drivers_that_start_at_once_one_creates_the_run(store: RunStore):
    def start(i: int) -> bool | str:
        try:
            return RunStore(store.output, store.storage.options, QUICK).create_or_open(
                {**FINGERPRINT, "driver": i % 2}, CONFIG, clips(3)
            )
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(start, range(8)))
    assert answers.count(True) == 1
    winner = answers.index(True) % 2
    for i, answer in enumerate(answers):
        if i % 2 == winner:
            assert answer in (True, False)
        else:
            assert "driver is" in str(answer)
    assert store.run_info()["fingerprint"]["driver"] == winner


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 9, "fingerprint": {}}'])
def test_a_damaged_run_file_is_refused(local_store: RunStore, content: bytes):
    local_store.storage.create_bytes(content, "run.json")
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        local_store.run_info()


def test_no_run_is_told_apart(local_store: RunStore):
    with pytest.raises(UserError, match="there is no run in"):
        local_store.run_info()


def test_the_frozen_manifest_keeps_everything_of_a_clip(local_store: RunStore):
    marks = (
        PointPrompt(((1.5, 2.0), (3.0, 4.0)), (True, False), 4, 1, "left hand"),
        BoxPrompt((0.1, 0.2, 0.3, 0.4), -1, 2, "cup", time_s=0.48, units="relative"),
        MaskPrompt("04", 2, 2, 7, 3, "object 3"),
    )
    given = [
        Clip("a", "s3://videos/a b.mp4", ("red ball", "käfer"), 1.25, None, 5.0, carried={"n": 1, "t": "x"}),
        Clip("b", "/v/b.mp4", (), None, 3.5, None, marks, carried={"n": 2, "t": None}),
    ]
    local_store.create_or_open(FINGERPRINT, CONFIG, given)
    assert RunStore(local_store.output).manifest() == given


SIGNATURES = [
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={n}&X-Amz-Date={n}&X-Amz-Expires=9&X-Amz-Signature={n}",
    "AWSAccessKeyId={n}&Signature={n}&Expires={n}",
    "GoogleAccessId={n}&Expires={n}&Signature={n}",
    "sv=2024-01-01&se={n}&sr=b&sp=r&sig={n}",
    "Policy={n}&Signature={n}&Key-Pair-Id={n}",
    "%73ig={n}&sv=1",
    "token={n}",
    "jwt={n}&exp={n}",
]


@pytest.mark.parametrize("signature", SIGNATURES)
def test_renewed_addresses_are_those_of_the_same_run_and_are_used_from_then_on(local_store: RunStore, signature: str):
    def signed(n: int) -> list[Clip]:
        query = f"id=7&{signature.format(n=n)}"
        mask = MaskPrompt("", 0, 0, 7, 3, "object 3", png=f"https://h/m.png?{query}")
        return [
            Clip("a", f"https://h/v.mp4?{query}", ("x",), carried={"n": 1}),
            Clip("b", f"https://h/w.mp4?{query}", (), visual_prompts=(mask,), carried={"n": 2}),
        ]

    prints = [fingerprint(JobConfig(manifest="m", output="/o"), signed(n)) for n in (1, 2)]
    assert prints[0] == prints[1]
    local_store.create_or_open(prints[0], CONFIG, signed(1))
    local_store.record_failure(Failure("a", Reason.CRASHED, "m"))
    again = RunStore(local_store.output)
    assert not again.create_or_open(prints[1], CONFIG, signed(2)[::-1])
    assert RunStore(local_store.output).manifest() == signed(2)


def test_another_video_of_the_same_server_is_another_manifest(local_store: RunStore):
    local_store.create_or_open(FINGERPRINT, CONFIG, [Clip("a", "https://h/v?id=7&sig=1")])
    with pytest.raises(UserError, match=r"1 changed \(a\)"):
        local_store.create_or_open(FINGERPRINT, CONFIG, [Clip("a", "https://h/v?id=8&sig=1")])


def test_run_files_nested_100_000_deep_are_a_sentence(local_store: RunStore):
    local_store.storage.create_bytes(b'{"format": ' + b"[" * 100_000, "run.json")
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        local_store.run_info()


# ---- one storage for all


def sent(store: RunStore) -> RunStore:
    """As a worker gets it."""
    return pickle.loads(pickle.dumps(store))  # noqa: S301 - our own


def test_a_worker_that_sees_the_drivers_storage_goes_to_work(store: RunStore):
    store.create_or_open(FINGERPRINT, CONFIG, clips(1))
    sent(store).confirm()  # nobody has said what to expect
    with store.lease() as lease:
        store.expect(lease)
        if "memory:" not in store.output:
            sent(store).confirm()


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        ("nothing", "has no run"),
        ("another run", "holds the run"),
        ("a copy", "is a copy of the run"),
        ("a copy of an earlier start", "is a copy of the run"),
    ],
)
def test_a_worker_that_sees_other_storage_says_so(tmp_path, monkeypatch, seen: str, sentence: str):
    """A folder of the same name on another machine's own disk."""
    monkeypatch.setattr(DriverLease, "_beat", lambda _: None)  # the driver's heartbeats go to its own disk
    store = RunStore(str(tmp_path / "run"))
    store.create_or_open(FINGERPRINT, CONFIG, clips(1))
    if seen == "a copy of an earlier start":
        with store.lease():
            shutil.copytree(tmp_path / "run", tmp_path / "theirs")
    with store.lease() as lease:
        store.expect(lease)
        if seen == "a copy":
            ignore = shutil.ignore_patterns("active_driver.json")
            shutil.copytree(tmp_path / "run", tmp_path / "theirs", ignore=ignore)
        elif seen == "another run":
            RunStore(str(tmp_path / "theirs")).create_or_open(FINGERPRINT, CONFIG, clips(1))
        (tmp_path / "run").rename(tmp_path / "ours")
        if seen != "nothing":
            (tmp_path / "theirs").rename(tmp_path / "run")
        with pytest.raises(WorkerUnfit, match=sentence) as caught:
            sent(store).confirm()
        assert "storage that all nodes share" in str(caught.value)
        assert socket.gethostname() in str(caught.value)


# ---- finished clips


def test_a_clip_is_committed_once(store: RunStore, tmp_path):
    first, _ = write_clip(tmp_path, "clip-001", seed=1)
    second, _ = write_clip(tmp_path, "clip-001", seed=2)
    assert not store.is_done("clip-001")
    assert store.commit("clip-001", first)
    assert not store.commit("clip-001", second)
    assert not store.commit("clip-001", first)
    assert everything(store) == {"annotations/clip-001.parquet": first.read_bytes()}
    assert store.done_ids() == {"clip-001"}
    assert store.is_done("clip-001")
    assert store.read_clip("clip-001").equals(pq.ParquetFile(first).read())
    assert store.read_clip_metadata("clip-001")["clip"]["seconds"] == 1.5


def test_a_clip_that_is_not_done_cannot_be_read(store: RunStore):
    with pytest.raises(FileNotFoundError):
        store.read_clip("clip-001")
    with pytest.raises(FileNotFoundError):
        store.read_clip_metadata("clip-001")
    assert store.done_ids() == set()


@pytest.mark.parametrize("clip_id", ["../../x", "a/b", "", "..", ".hidden", "a" * 201, "a\n", "ä", "_x"])
def test_what_is_no_clip_id_never_becomes_a_path(local_store: RunStore, tmp_path, clip_id: str):
    file, _ = write_clip(tmp_path, "x")
    for call in (
        lambda: local_store.commit(clip_id, file),
        lambda: local_store.publish_video(clip_id, file),
        lambda: local_store.record_failure(Failure(clip_id, Reason.CRASHED, "")),
        lambda: local_store.read_clip(clip_id),
    ):
        with pytest.raises(ValueError, match="not a clip id"):
            call()
    assert not os.path.exists(local_store.output)


def test_files_of_others_are_not_finished_clips(local_store: RunStore, tmp_path):
    file, _ = write_clip(tmp_path, "a")
    local_store.commit("a", file)
    for name in (".b.parquet", "c.parquet.tmp", "d.txt", "_e.parquet"):
        (tmp_path / "run" / "annotations" / name).write_bytes(b"")
    assert local_store.done_ids() == {"a"}


def test_a_store_can_be_sent_to_another_process(store: RunStore, tmp_path):
    file, _ = write_clip(tmp_path, "a")
    store.done_ids()  # has connections open
    assert pickle.loads(pickle.dumps(store)).commit("a", file)  # noqa: S301
    assert store.done_ids() == {"a"}


def test_a_store_survives_a_fork(store: RunStore, tmp_path):
    if store.output.startswith("memory:"):
        pytest.skip("memory is not shared between processes")
    file, _ = write_clip(tmp_path, "a")
    assert store.done_ids() == set()
    child = os.fork()
    if child == 0:
        os._exit(0 if store.commit("a", file) else 1)
    signal.alarm(60)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        signal.alarm(0)
    assert store.done_ids() == {"a"}


def test_videos_are_created_once_unless_replaced(store: RunStore, tmp_path):
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_bytes(b"one")
    two.write_bytes(b"two")
    assert store.publish_video("a", one)
    assert not store.publish_video("a", two)
    assert everything(store) == {"videos/a.mp4": b"one"}
    assert store.publish_video("a", two, overwrite=True)
    assert everything(store) == {"videos/a.mp4": b"two"}
    assert store.rendered_ids() == {"a"}


def test_no_temporary_files_stay_behind(store: RunStore, tmp_path):
    store.create_or_open(FINGERPRINT, CONFIG, clips(2))
    file, _ = write_clip(tmp_path, "clip-000")
    for _ in range(2):
        store.commit("clip-000", file)
        store.publish_video("clip-000", file, overwrite=True)
        store.write_clips_table({})
        with store.lease():
            pass
    assert {path.partition("/")[0] for path in everything(store)} == {
        "run.json", "manifest.parquet", "annotations", "videos", "clips.parquet"
    }  # fmt: skip
    if "://" not in store.output:
        assert sorted(os.listdir(store.output)) == [
            "annotations", "clips.parquet", "manifest.parquet", "run.json", "videos"
        ]  # fmt: skip


# ---- failures


def test_failure_records_are_numbered_and_kept(store: RunStore):
    failure = Failure(
        "a", Reason.CRASHED, "worker died", "frame 3", "Traceback ...", 2.5, {"torch": "2.15"}, final=True
    )
    assert store.record_failure(Failure("a", Reason.TIMED_OUT, "first")) == 1
    assert store.record_failure(failure) == 2
    assert store.record_failure(Failure("b", Reason.NOT_FOUND, "gone", final=True)) == 1
    first, second, third = store.failures()
    assert (first.clip_id, first.attempt, first.final) == ("a", 1, False)
    assert (second.reason, second.where, second.versions, second.attempt) == (
        Reason.CRASHED, "frame 3", {"torch": "2.15"}, 2
    )  # fmt: skip
    assert third.clip_id == "b"
    assert Counter(each.clip_id for each in store.failures()) == {"a": 2, "b": 1}


def test_records_of_racing_workers_do_not_overwrite_each_other(store: RunStore):
    copies = [RunStore(store.output, store.storage.options, QUICK) for _ in range(6)]

    def fail(i: int) -> int:
        return copies[i].record_failure(Failure("a", Reason.CRASHED, f"worker {i}"))

    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(fail, range(6)))
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]
    assert {record.message for record in store.failures()} == {f"worker {i}" for i in range(6)}


def test_failures_are_cleared_by_their_last_reason(store: RunStore):
    for clip_id, reasons in {"a": ["crashed", "not_found"], "b": ["crashed"], "c": ["timed_out"]}.items():
        for reason in reasons:
            store.record_failure(Failure(clip_id, Reason(reason), ""))
    assert store.clear_failures(["crashed"]) == 1
    assert Counter(each.clip_id for each in store.failures()) == {"a": 2, "c": 1}
    assert store.clear_failures([Reason.NOT_FOUND, Reason.OVER_LIMITS]) == 1
    assert store.clear_failures() == 1
    assert Counter(each.clip_id for each in store.failures()) == {}
    assert store.clear_failures() == 0
    with pytest.raises(ValueError):
        store.clear_failures(["bad_luck"])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"reason": "bad luck", "message": ""}', b"\xff\xfe"])
def test_a_damaged_record_counts_as_an_attempt_and_settles_nothing(local_store: RunStore, content: bytes):
    local_store.create_or_open(FINGERPRINT, CONFIG, clips(1))
    local_store.storage.create_bytes(content, "failures/clip-000/1.json")
    (record,) = local_store.failures()
    assert record.reason is Reason.INTERNAL
    assert "damaged" in record.message
    assert local_store.summaries()["clip-000"].status == "left"
    assert local_store.record_failure(Failure("clip-000", Reason.CRASHED, "next")) == 2


# ---- the table of clips


def test_summaries_come_from_storage_alone(store: RunStore, tmp_path):
    store.create_or_open(FINGERPRINT, CONFIG, clips(6))
    for i in (0, 1):
        file, facts = write_clip(tmp_path, f"clip-00{i}", seed=i)
        store.commit(f"clip-00{i}", file)
    store.record_failure(Failure("clip-001", Reason.CRASHED, "once"))
    store.record_failure(Failure("clip-002", Reason.UNREADABLE_VIDEO, "not a video", final=True))
    store.record_failure(Failure("clip-003", Reason.CRASHED, "once"))
    store.record_failure(Failure("clip-004", Reason.STORAGE, "down", final=True))
    found = store.summaries()
    assert [found[c.clip_id].status for c in clips(6)] == ["done", "done", "failed", "left", "left", "left"]
    one = found["clip-001"]
    assert (one.frames, one.objects, one.rows, one.attempts) == (facts.frames, facts.objects, facts.rows, 2)
    assert (one.seconds, one.timings) == (1.5, {"decode": 0.5, "model": 1.0})
    assert one.finished_at is not None
    assert (found["clip-002"].reason, found["clip-002"].message) == ("unreadable_video", "not a video")
    assert found["clip-003"].attempts == 1

    store.write_clips_table(found)
    assert store.summaries() == found  # now from the table

    file, _ = write_clip(tmp_path, "clip-003")
    store.commit("clip-003", file)  # newer than the table
    store.storage.delete("annotations/clip-000.parquet")  # older than the table
    found = store.summaries()
    assert [found[c.clip_id].status for c in clips(6)] == ["left", "done", "failed", "done", "left", "left"]


def test_the_table_carries_the_manifests_columns_untouched(local_store: RunStore, tmp_path):
    carried = pa.table(
        {
            "site": pa.array(["a", None]),
            "n": pa.array([1, 2], pa.int16()),
            "price": pa.array([Decimal("1.10"), None], pa.decimal128(9, 2)),
            "at": pa.array([datetime.datetime(2026, 1, 1), None], pa.timestamp("ns")),
            "tags": pa.array([["x"], []], pa.list_(pa.string())),
            "status": pa.array(["mine", "yours"]),
            "decode_s": pa.array([7.0, 8.0], pa.float32()),
        }
    )
    local_store.create_or_open(FINGERPRINT, CONFIG, [Clip(f"c{i}", f"/{i}.mp4", ("x",)) for i in range(2)], carried)
    local_store.write_clips_table({"c0": ClipSummary("c0", "done", frames=5, timings={"decode": 0.25})})
    table = pq.read_table(tmp_path / "run" / "clips.parquet")
    for name in ("site", "n", "price", "at", "tags"):
        assert table.column(name).equals(carried.column(name)), name
    assert table.column("status").to_pylist() == ["done", "left"]
    assert table.column("manifest.status").to_pylist() == ["mine", "yours"]
    assert table.column("decode_s").to_pylist() == [0.25, None]
    assert table.column("manifest.decode_s").to_pylist() == [7.0, 8.0]
    assert local_store.summaries(done_ids={"c0"})["c0"].timings == {"decode": 0.25}


def test_a_damaged_table_is_made_again(local_store: RunStore, tmp_path):
    local_store.create_or_open(FINGERPRINT, CONFIG, clips(1))
    file, _ = write_clip(tmp_path, "clip-000")
    local_store.commit("clip-000", file)
    (tmp_path / "run" / "clips.parquet").write_bytes(b"PAR1 no more")
    assert local_store.summaries()["clip-000"].status == "done"


# ---- causes


def test_a_store_that_refuses_stops_the_job_at_once(tmp_path):
    store = RunStore(str(tmp_path / "folder" / "run"))  # patient by default: a retry would show as a slow test
    (tmp_path / "folder").write_bytes(b"")
    file, _ = write_clip(tmp_path, "a")
    with pytest.raises(JobStopped) as caught:
        store.commit("a", file)
    assert "Not a directory (part of this path is a file: choose another folder)" in str(caught.value)
    assert "Errno" not in str(caught.value)


@pytest.mark.parametrize(
    ("below", "said"),
    [("", "/file is a file; allowed"), ("run", "cannot be a folder, because /.*/file is a f")],
)
def test_a_file_in_place_of_a_folder_is_the_users_error(below: str, said: str, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=said):
        RunStore(str(tmp_path / "file" / below))


def test_a_missing_bucket_stops_the_job(s3_server: str, tmp_path):
    store = RunStore("s3://no-such-bucket-here/run", {"endpoint_url": s3_server})
    file, _ = write_clip(tmp_path, "a")
    with pytest.raises(JobStopped, match="no such folder or bucket"):
        store.commit("a", file)


def test_unknown_storage_is_the_users_error():
    with pytest.raises(UserError, match="nowhere://"):
        RunStore("nowhere://x/y").done_ids()


def test_who_enforces_the_condition(store: RunStore):
    expected = {"memory": Guarantee.PROCESS, "s3": Guarantee.SERVER, "az": Guarantee.SERVER}
    kind = store.output.partition("://")[0] if "://" in store.output else ""
    assert store.probe() is expected.get(kind, Guarantee.LOCAL)
    assert everything(store) == {}


def test_metadata_is_json_without_surprises(local_store: RunStore, tmp_path):
    file, _ = write_clip(tmp_path, "a", rung=2, dropped_objects=3)
    raw = pq.read_metadata(file).metadata
    assert raw[b"sam3ray.schema_version"] == b"1"
    clip = json.loads(raw[b"sam3ray.clip"])
    assert (clip["rung"], clip["dropped_objects"], clip["height"], clip["width"]) == (2, 3, 48, 64)
