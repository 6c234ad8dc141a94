"""How many requests the store's work costs on S3, counted between client and server."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sam3ray.failures import Failure, Reason
from sam3ray.store import RunStore, compact_run, compacted, s3
from tests.servers import Place
from tests.store.conftest import QUICK
from tests.store.proxy import FaultyProxy, faulty_proxy
from tests.store.store_files import CONFIG, FINGERPRINT, clips, write_clip


@pytest.fixture
def proxy(s3_server: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_server) as found:
        yield found


@pytest.fixture
def run(s3_place: Place, proxy: FaultyProxy) -> RunStore:
    store = RunStore(s3_place.uri, {"endpoint_url": proxy.url}, QUICK)
    store.create_or_open(FINGERPRINT, CONFIG, clips(5))
    return store


class Counted:
    methods: Counter[str]
    bytes: int
    paths: list[str]


@contextmanager
def counted(proxy: FaultyProxy) -> Iterator[Counted]:
    found = Counted()
    first, sent = len(proxy.log), proxy.sent
    yield found
    requests = [request for request, _ in proxy.log[first:]]
    found.methods = Counter("LIST" if "list-type" in r.path else r.method for r in requests)
    found.paths = [r.path for r in requests]
    found.bytes = proxy.sent - sent


def test_a_commit_is_two_requests(run: RunStore, proxy: FaultyProxy, tmp_path: Path) -> None:
    files = [write_clip(tmp_path, f"clip-00{i}")[0] for i in range(2)]
    with counted(proxy) as first:
        assert run.commit("clip-000", files[0])
    assert first.methods == {"LIST": 1, "PUT": 1}
    with counted(proxy) as again:
        assert not run.commit("clip-000", files[1])
    assert again.methods == {"LIST": 1, "PUT": 1, "HEAD": 1}  # whose file it is


def test_a_store_that_has_not_been_tried_is_asked_first(s3_place: Place, proxy: FaultyProxy, tmp_path: Path) -> None:
    """Whether the server enforces the condition is not known: what is there is looked at."""
    store = RunStore(s3_place.uri, {"endpoint_url": proxy.url}, QUICK)
    with counted(proxy) as found:
        assert store.commit("clip-000", write_clip(tmp_path, "clip-000")[0])
    assert found.methods == {"LIST": 1, "HEAD": 1, "PUT": 1}


def test_a_first_failure_is_one_request_and_lists_nothing(run: RunStore, proxy: FaultyProxy) -> None:
    for i in range(3):
        run.record_failure(Failure(f"clip-00{i}", Reason.CRASHED, ""))
    with counted(proxy) as first:
        assert run.record_failure(Failure("clip-004", Reason.CRASHED, "")) == 1
    assert first.methods == {"PUT": 1}
    with counted(proxy) as second:
        assert run.record_failure(Failure("clip-004", Reason.CRASHED, "")) == 2
    assert second.methods == {"PUT": 2, "HEAD": 1, "LIST": 1}
    assert all("clip-004" in path for path in second.paths)  # this clip's folder alone is listed


def test_one_look_at_one_clip_is_one_request(run: RunStore, proxy: FaultyProxy, tmp_path: Path) -> None:
    run.commit("clip-000", write_clip(tmp_path, "clip-000")[0])
    with counted(proxy) as done:
        assert run.is_done("clip-000")
    assert done.methods == {"HEAD": 1}
    with counted(proxy) as missing:
        assert not run.is_done("clip-001")
    assert missing.methods == {"HEAD": 1, "LIST": 1}  # its file, and merged ones
    with counted(proxy) as footer:
        assert run.read_clip_metadata("clip-000")["clip"]["frames"] == 6
    assert footer.methods == {"GET": 1}


def test_what_is_done_is_listed_page_by_page(run: RunStore, proxy: FaultyProxy, s3_place: Place, monkeypatch) -> None:
    monkeypatch.setattr(s3, "PAGE", 10)
    fs = RunStore(s3_place.uri, s3_place.options).storage.fs
    fs.pipe({f"{run.storage.root}/annotations/clip-{i:04}.parquet": b"x" for i in range(21)})
    told: list[int] = []
    with counted(proxy) as found:
        assert len(run.done_ids(told.append)) == 21
    assert found.methods == {"LIST": 4}  # three for the clips, one for merged files
    assert told == [10, 20, 21]


def test_a_commit_after_a_compaction_reads_little_of_the_index(
    run: RunStore, proxy: FaultyProxy, tmp_path: Path
) -> None:
    held = [
        compacted.CompactedClip(f"old-{i:05}", "part-a.parquet", i, hashlib.sha512(b"%d" % i).hexdigest() * 2)
        for i in range(20_000)
    ]
    assert compacted.create_index(run.storage, 1, held)
    size = run.storage.size(compacted.index_path(1)) or 0
    files = [write_clip(tmp_path, f"clip-00{i}")[0] for i in range(2)]
    with counted(proxy) as first:
        assert run.commit("clip-000", files[0])
        assert not run.commit("old-10000", files[0])
    assert first.methods["GET"] <= 4
    assert first.bytes < size / 4
    with counted(proxy) as second:
        assert run.commit("clip-001", files[1])
    assert second.methods["LIST"] == second.methods["PUT"] == 1
    assert second.methods["GET"] <= 1


def test_a_resume_and_a_status_do_not_ask_about_each_clip(
    run: RunStore, proxy: FaultyProxy, tmp_path: Path, s3_place: Place
) -> None:
    from sam3ray.config import RetryConfig
    from sam3ray.job.tables import Ledger
    from sam3ray.store import read_status

    for i in range(4):
        run.commit(f"clip-00{i}", write_clip(tmp_path, f"clip-00{i}")[0])
    run.record_failure(Failure("clip-004", Reason.CRASHED, "", final=True))
    run.write_clips_table(run.summaries())
    options = {"endpoint_url": proxy.url}
    with counted(proxy) as status:
        assert read_status(s3_place.uri, options).done == 4
    assert status.methods == {
        "GET": 5,
        "LIST": 5,
    }  # run.json, manifest, table, one record, driver; four folders, index
    with counted(proxy) as resume:
        Ledger(run, clips(5), RetryConfig()).close()
    assert resume.methods == {"GET": 2, "LIST": 4, "PUT": 1}
    compact_run(s3_place.uri, options, remove_originals=True)
    with counted(proxy) as status:
        assert read_status(s3_place.uri, options).done == 4
    assert status.methods["GET"] <= 6
