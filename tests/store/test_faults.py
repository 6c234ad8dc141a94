"""A store that misbehaves: throttling, resets, half-written uploads, lost answers, many writers at once."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from sam3ray.annotations import read_annotations
from sam3ray.failures import ClipError, Failure, JobStopped, Reason
from sam3ray.store import Guarantee, RetryPolicy, RunStore, creating, verify_run
from tests import servers
from tests.servers import Place
from tests.store.conftest import QUICK, everything
from tests.store.proxy import Fault, FaultyProxy, Request, faulty_proxy
from tests.store.store_files import CONFIG, FINGERPRINT, clips, write_clip

# The client's own retries off: what is left is ours.
ONE_TRY = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_server) as found:
        yield found


@pytest.fixture
def faulty_store(s3_place: Place, proxy: FaultyProxy) -> RunStore:
    """A run on S3, seen through the proxy."""
    return RunStore(s3_place.uri, {"endpoint_url": proxy.url, **ONE_TRY}, QUICK)


@pytest.fixture
def direct(s3_place: Place) -> RunStore:
    """The same run, seen without the proxy."""
    return RunStore(s3_place.uri, s3_place.options, QUICK)


def multipart_uploads(place: Place) -> list[object]:
    import boto3

    client = boto3.client("s3", endpoint_url=place.options["endpoint_url"])
    return client.list_multipart_uploads(Bucket=place.uri.split("/")[2]).get("Uploads", [])


def first(n: int, fault: Fault, method: str = "PUT"):
    """The fault for the first n requests of a method that concern annotations."""
    left = [n]

    def decide(request: Request) -> Fault:
        if request.method == method and "/annotations/" in request.path and left[0]:
            left[0] -= 1
            return fault
        return Fault.NONE

    return decide


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.BROKEN, Fault.RESET, Fault.HALF, Fault.LOST, Fault.SLOW])
def test_a_commit_survives(fault, faulty_store, direct, proxy, s3_place, tmp_path):
    file, _ = write_clip(tmp_path, "a", n=60)
    proxy.decide = first(2, fault)
    assert faulty_store.commit("a", file)
    assert proxy.count(fault) >= 1
    assert everything(direct) == {"annotations/a.parquet": file.read_bytes()}
    assert multipart_uploads(s3_place) == []
    assert not faulty_store.commit("a", file)


def test_a_lost_answer_is_not_taken_for_another_writer(s3_place, proxy, tmp_path):
    """With the client's own retries, which hide that there was a first try."""
    file, _ = write_clip(tmp_path, "a")
    store = RunStore(s3_place.uri, {"endpoint_url": proxy.url}, QUICK)
    proxy.decide = first(1, Fault.LOST)
    assert store.commit("a", file)
    puts = [request for request, _ in proxy.log if request.method == "PUT" and "/annotations/" in request.path]
    assert len(puts) == 2


def test_another_writer_is_not_taken_for_a_lost_answer(faulty_store, direct, proxy, tmp_path):
    """Same bytes, other writer: our request fails half-way, meanwhile the other one creates the file."""
    file, _ = write_clip(tmp_path, "a")

    def decide(request: Request) -> Fault:
        if request.method == "PUT" and "/annotations/" in request.path and not direct.is_done("a"):
            assert direct.commit("a", file)
            return Fault.HALF
        return Fault.NONE

    proxy.decide = decide
    assert not faulty_store.commit("a", file)
    assert proxy.count(Fault.HALF) == 1


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.RESET, Fault.CUT, Fault.SLOW])
def test_reading_survives(fault, s3_place, direct, proxy, tmp_path):
    direct.create_or_open(FINGERPRINT, CONFIG, clips(2))
    file, _ = write_clip(tmp_path, "clip-000", n=60)
    direct.commit("clip-000", file)
    direct.record_failure(Failure("clip-001", Reason.CRASHED, "x", final=True))
    store = RunStore(s3_place.uri, {"endpoint_url": proxy.url, **ONE_TRY}, RetryPolicy(50, 0.01, 0.02))
    rng = random.Random(3)
    proxy.decide = lambda _: fault if rng.random() < 0.5 else Fault.NONE
    assert store.summaries() == direct.summaries()
    assert store.read_clip("clip-000").equals(pq.ParquetFile(file).read())
    assert store.manifest() == clips(2)
    assert proxy.count(fault) > 3


def test_a_store_that_stays_away_is_a_storage_failure_of_the_clip(s3_place, proxy, tmp_path):
    file, _ = write_clip(tmp_path, "a")
    store = RunStore(s3_place.uri, {"endpoint_url": proxy.url, **ONE_TRY}, RetryPolicy(3, 0.01, 0.02))
    proxy.decide = lambda _: Fault.BROKEN
    with pytest.raises(ClipError) as caught:
        store.commit("a", file)
    assert caught.value.reason is Reason.STORAGE
    assert "after 3 tries" in str(caught.value)


def test_a_refusal_is_not_retried(faulty_store, proxy, tmp_path):
    file, _ = write_clip(tmp_path, "a")
    proxy.decide = first(100, Fault.FORBIDDEN)
    with pytest.raises(JobStopped, match="check the credentials"):
        faulty_store.commit("a", file)
    assert proxy.count(Fault.FORBIDDEN) == 1


def test_a_storm(faulty_store, direct, proxy, s3_place, tmp_path):
    """A third of all requests fail in every way there is, with two writers for each clip. Nothing partial is ever
    visible, each clip has one winner, and the run is sound in the end."""
    rng = random.Random(7)
    faults = [Fault.BUSY, Fault.BROKEN, Fault.RESET, Fault.HALF, Fault.LOST, Fault.CUT, Fault.SLOW]
    proxy.decide = lambda _: rng.choice(faults) if rng.random() < 0.33 else Fault.NONE
    ids = [clip.clip_id for clip in clips(8)]
    store = RunStore(s3_place.uri, faulty_store.storage.options, RetryPolicy(40, 0.01, 0.03))
    assert store.create_or_open(FINGERPRINT, CONFIG, clips(9))
    over = threading.Event()
    seen: set[str] = set()
    partial: list[str] = []

    def observe() -> None:
        while not over.is_set():
            for clip_id in direct.done_ids() - seen:
                seen.add(clip_id)
                try:
                    direct.read_clip(clip_id)
                except (pa.ArrowException, OSError, ValueError) as error:
                    partial.append(f"{clip_id}: {error}")

    def work(task: tuple[str, int]) -> tuple[str, bool]:
        clip_id, seed = task
        return clip_id, store.commit(clip_id, write_clip(tmp_path, clip_id, seed=seed, n=30)[0])

    observer = threading.Thread(target=observe)
    observer.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(work, [(clip_id, seed) for clip_id in ids for seed in (1, 2)]))
            list(pool.map(lambda i: store.record_failure(Failure("clip-008", Reason.CRASHED, f"{i}")), range(6)))
        store.write_clips_table(store.summaries())
    finally:
        over.set()
        observer.join()
    assert partial == []
    assert sorted(clip_id for clip_id, mine in won if mine) == ids
    assert {record.message for record in direct.failures()} == set("012345")
    assert Counter(each.clip_id for each in direct.failures()) == {"clip-008": 6}
    assert verify_run(s3_place.uri, s3_place.options) == []
    assert multipart_uploads(s3_place) == []
    assert all(proxy.count(fault) for fault in faults)


def test_azure_survives_faults(azure_server: str, azure_place: Place, tmp_path):
    endpoint = f"http://{azure_server.partition('BlobEndpoint=http://')[2].partition('/')[0]}"
    file, _ = write_clip(tmp_path, "a", n=60)
    for fault in (Fault.HALF, Fault.LOST):
        with faulty_proxy(endpoint) as proxy:
            connection = azure_server.replace(endpoint, proxy.url)
            store = RunStore(f"{azure_place.uri}-{fault.value}", {"connection_string": connection}, QUICK)
            # The client retries by itself, after a second or more: one fault is enough.
            proxy.decide = first(1, fault)
            assert store.commit("a", file), fault
            assert not store.commit("a", file)
            proxy.decide = lambda _: Fault.NONE
            assert everything(store) == {"annotations/a.parquet": file.read_bytes()}
            assert proxy.count(fault) == 1


# ---- many writers at once


def race(store: RunStore, files: list[Path], start: float) -> list[str]:
    """Commit each file from a thread of its own, all at the same moment; the files that were told they won."""

    def commit(path: Path) -> bool:
        time.sleep(max(0.0, start - time.time()))
        return store.commit("contested", path)

    store.done_ids()  # connects
    with ThreadPoolExecutor(len(files)) as pool:
        return [str(path) for path, won in zip(files, pool.map(commit, files), strict=True) if won]


@pytest.mark.parametrize("same_file", [False, True])
@pytest.mark.parametrize("kind", ["local", "s3", "azure"])
def test_of_32_racing_writers_one_wins(request, tmp_path: Path, kind: str, same_file: bool):
    """Four processes of eight threads."""
    place = Place(str(tmp_path / "run")) if kind == "local" else request.getfixturevalue(f"{kind}_place")
    files = [write_clip(tmp_path, "contested", seed=i, n=30)[0] for i in range(1 if same_file else 32)]
    files = files * 32 if same_file else files
    start = time.time() + 1.5
    children = []
    for i in range(4):
        out = tmp_path / f"won-{i}"
        child = os.fork()
        if child == 0:
            try:
                out.write_text("\n".join(race(RunStore(place.uri, place.options), files[i::4], start)))
            finally:
                os._exit(0)
        children.append((child, out))
    for child, _ in children:
        os.waitpid(child, 0)
    won = [line for _, out in children for line in out.read_text().split()]
    assert len(won) == 1
    run = RunStore(place.uri, place.options)
    assert everything(run) == {"annotations/contested.parquet": Path(won[0]).read_bytes()}


# ---- stores that promise less


def test_a_server_that_ignores_the_condition_is_found_out(faulty_store, proxy, caplog, tmp_path):
    assert faulty_store.probe() is Guarantee.SERVER
    proxy.drops = {"if-none-match"}
    assert faulty_store.probe() is Guarantee.CHECKED
    faulty_store.create_or_open(FINGERPRINT, CONFIG, clips(1))
    assert "does not enforce create-if-absent" in caplog.text
    one, two = (write_clip(tmp_path, "a", seed=i)[0] for i in range(2))
    assert faulty_store.commit("a", one)
    assert not faulty_store.commit("a", two)
    assert faulty_store.read_clip("a").equals(pq.ParquetFile(one).read())


def test_a_filesystem_without_the_condition_still_shows_whole_files_only(tmp_path, monkeypatch):
    store = RunStore(str(tmp_path / "run"))
    plain = DirFileSystem(str(tmp_path), LocalFileSystem(auto_mkdir=True))
    monkeypatch.setattr(store.storage, "_open", lambda: (plain, "run"))
    assert store.probe() is Guarantee.CHECKED
    one, two = (write_clip(tmp_path, "a", seed=i)[0] for i in range(2))
    assert store.commit("a", one)
    assert not store.commit("a", two)
    assert store.publish_video("a", two, overwrite=True)
    assert everything(store) == {"annotations/a.parquet": one.read_bytes(), "videos/a.mp4": two.read_bytes()}


@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize("links", [True, False])
def test_local_disks_without_links_or_unnamed_files(tmp_path, monkeypatch, unnamed: bool, links: bool):
    if not unnamed:
        monkeypatch.delattr(creating.os, "O_TMPFILE")
    if not links:

        def refuse(*_args, **_kwargs):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(creating.os, "link", refuse)
    store = RunStore(str(tmp_path / "run"))
    one, two = (write_clip(tmp_path, "a", seed=i)[0] for i in range(2))
    assert store.commit("a", one)
    assert not store.commit("a", two)
    assert Path(store.output, "annotations/a.parquet").read_bytes() == one.read_bytes()
    assert os.listdir(store.output) == ["annotations"]
    assert os.listdir(f"{store.output}/annotations") == ["a.parquet"]


# ---- credentials


def test_credentials_are_nowhere(s3_place: Place, proxy, tmp_path, monkeypatch, caplog):
    """Not in any file of the run, not in any message, however they were given."""
    caplog.set_level("DEBUG", "sam3ray")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "session+token/of+the/tests")
    secrets = [servers.AWS_SECRET, "session+token/of+the/tests", "option-secret/99"]
    options = {"endpoint_url": proxy.url, "key": servers.AWS_ACCESS_KEY, "secret": "option-secret/99", **ONE_TRY}
    store = RunStore(s3_place.uri, options, QUICK)
    store.create_or_open(
        {**FINGERPRINT, "storage": {"secret": "option-secret/99"}},
        {**CONFIG, "storage": {"secret": "option-secret/99", "client_kwargs": {"aws_session_token": secrets[1]}}},
        clips(1),
    )
    store.record_failure(
        Failure("clip-000", Reason.STORAGE, f"bad {secrets[0]}", f"s3://{secrets[2]}@b/x", f"Traceback {secrets[1]}")
    )
    writer_file, _ = write_clip(tmp_path, "clip-000", uri=f"https://h/v.mp4?X-Amz-Signature={secrets[2]}")
    store.commit("clip-000", writer_file)
    store.write_clips_table(store.summaries())
    messages = [repr(store), repr(store.storage)]
    with store.lease():
        files = everything(store)
    for fault, kind in ((Fault.FORBIDDEN, JobStopped), (Fault.BROKEN, ClipError)):
        proxy.decide = lambda _, fault=fault: fault
        with pytest.raises(kind) as caught:
            store.commit("clip-000", writer_file)
        messages += [str(caught.value), repr(caught.value), str(caught.value.__cause__)]
    assert set(files) >= {"run.json", "active_driver.json", "failures/clip-000/1.json", "annotations/clip-000.parquet"}
    for secret in secrets:
        assert [path for path, data in files.items() if secret.encode() in data] == []
        assert [message for message in messages if secret in message] == []
        assert secret not in caplog.text
    assert read_annotations(s3_place.uri, s3_place.options).to_table().num_rows > 0
