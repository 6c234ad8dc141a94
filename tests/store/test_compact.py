"""Merging files: readers right at every moment, whatever step the process dies at."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sam3ray.annotations import read_annotations
from sam3ray.failures import JobStopped, UserError
from sam3ray.store import RunStore, compact, compact_run, compacted, read_status, verify_run
from sam3ray.store.lease import DriverLease
from sam3ray.store.storage import Storage
from tests.servers import Place
from tests.store.conftest import QUICK
from tests.store.store_files import CONFIG, FINGERPRINT, clips, write_clip


def rows_of(output: str, options=None) -> list[tuple]:
    """All rows as readers see them, in a fixed order: a clip seen twice or not at all shows."""
    table = read_annotations(output, options).to_table()
    return sorted(
        (r["clip_id"], r["frame_index"], r["object_id"], r["area"], r["segmentation"]["counts"])
        for r in table.to_pylist()
    )


def commit(store: RunStore, folder: Path, first: int, last: int) -> None:
    for i in range(first, last):
        store.commit(f"clip-{i:03}", write_clip(folder, f"clip-{i:03}", seed=i, n=0 if i == 2 else 12)[0])


def parts(store: RunStore) -> list[str]:
    return sorted(name for name in store.storage.names("compacted") if name.endswith(".parquet"))


def test_merged_files_hold_the_same_rows(place: Place, tmp_path: Path):
    store = RunStore(place.uri, place.options, QUICK)
    store.create_or_open(FINGERPRINT, CONFIG, clips(6))
    commit(store, tmp_path, 0, 6)
    before, figures = rows_of(place.uri, place.options), store.summaries()
    clip = store.read_clip("clip-003")

    result = compact_run(place.uri, place.options)
    assert (result.clips, result.parts, result.removed) == (6, 1, 0)
    assert rows_of(place.uri, place.options) == before
    assert verify_run(place.uri, place.options) == []

    result = compact_run(place.uri, place.options, remove_originals=True)
    assert (result.clips, result.parts, result.removed) == (0, 0, 6)
    assert store.storage.names("annotations") == []
    assert rows_of(place.uri, place.options) == before
    assert verify_run(place.uri, place.options) == []
    assert store.done_ids() == {c.clip_id for c in clips(6)}
    assert store.summaries() == figures
    assert read_status(place.uri, place.options).done == 6
    assert store.read_clip("clip-003").to_pylist() == clip.to_pylist()
    assert store.read_clip("clip-002").num_rows == 0
    assert store.read_clip_metadata("clip-003")["clip"]["frames"] == 12
    assert not store.commit("clip-003", write_clip(tmp_path, "clip-003")[0])
    with store.storage.fetched(f"compacted/{parts(store)[0]}") as local:
        assert pq.read_table(local).num_rows == len(before)


def test_parts_have_the_size_asked_for_and_small_ones_are_merged_again(tmp_path: Path):
    store = RunStore(str(tmp_path / "run"))
    store.create_or_open(FINGERPRINT, CONFIG, clips(30))
    for first, last in ((0, 14), (14, 20), (20, 30)):
        commit(store, tmp_path, first, last)
        before = rows_of(store.output)
        compact_run(store.output, target_bytes=7_000)
        assert rows_of(store.output) == before
        assert [p for p in verify_run(store.output) if "not done" not in p] == []
        assert compact_run(store.output, target_bytes=7_000).clips == 0  # nothing new
    sizes = [os.path.getsize(f"{store.output}/compacted/{name}") for name in parts(store)]
    assert len(sizes) > 1
    assert sum(size < 3_500 for size in sizes) <= 1


def _dying(method, counter: list[int], at: int):
    def call(self, *args, **kwargs):
        if counter[0] == at:
            os._exit(9)
        counter[0] += 1
        result = method(self, *args, **kwargs)
        if counter[0] == at:
            os._exit(9)
        counter[0] += 1
        return result

    return call


def _compact_and_die(output: str, at: int, remove: bool) -> bool:
    """Compact in a child process that is gone at its n-th moment before or after a write. Whether it died."""
    child = os.fork()
    if child == 0:
        try:
            counter = [0]
            for name in ("create", "replace", "delete"):
                setattr(Storage, name, _dying(getattr(Storage, name), counter, at))
            compact_run(output, target_bytes=15_000, remove_originals=remove)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.parametrize("remove", [False, True])
def test_death_at_any_step_changes_nothing_for_readers(tmp_path: Path, remove: bool):
    made = RunStore(str(tmp_path / "made"))
    made.create_or_open(FINGERPRINT, CONFIG, clips(6))
    commit(made, tmp_path, 0, 3)
    compact_run(made.output, target_bytes=15_000)
    commit(made, tmp_path, 3, 6)
    before = rows_of(made.output)
    deaths = at = 0
    while True:
        store = RunStore(str(shutil.copytree(made.output, tmp_path / f"run-{at}")))
        died = _compact_and_die(store.output, at, remove)
        assert rows_of(store.output) == before
        assert store.done_ids() == {f"clip-{i:03}" for i in range(6)}
        if not remove:
            naive = sum(pq.read_metadata(path).num_rows for path in Path(store.output, "annotations").glob("*.parquet"))
            assert naive == len(before)
        left = [p for p in verify_run(store.output) if "left by an interrupted compaction" not in p]
        assert left == []
        compact_run(store.output, target_bytes=15_000, remove_originals=remove)  # at once: the dead one holds no lease
        assert rows_of(store.output) == before
        assert verify_run(store.output) == []
        if remove:
            folders = (Path(store.output, folder).glob("*.parquet") for folder in ("annotations", "compacted"))
            assert sum(pq.read_metadata(path).num_rows for folder in folders for path in folder) == len(before)
        if not died:
            break
        deaths += 1
        at += 1
    assert deaths >= 10


def test_readers_are_right_while_originals_go(tmp_path: Path, monkeypatch):
    store = RunStore(str(tmp_path / "run"))
    store.create_or_open(FINGERPRINT, CONFIG, clips(5))
    commit(store, tmp_path, 0, 5)
    before = rows_of(store.output)
    looked = []
    for name in ("create", "replace", "delete"):
        method = getattr(Storage, name)

        def watched(self, *args, method=method):
            looked.append(rows_of(store.output) == before)
            result = method(self, *args)
            looked.append(rows_of(store.output) == before)
            return result

        monkeypatch.setattr(Storage, name, watched)
    compact_run(store.output, target_bytes=8_000, remove_originals=True)
    assert len(looked) > 15
    assert all(looked)


def test_a_reader_between_the_two_looks_misses_nothing(tmp_path: Path, monkeypatch):
    """The whole compaction happens after the reader listed files and before it read the index."""
    store = RunStore(str(tmp_path / "run"))
    store.create_or_open(FINGERPRINT, CONFIG, clips(5))
    commit(store, tmp_path, 0, 5)
    before = rows_of(store.output)
    names = Storage.names

    def names_then_compact(self, folder):
        found = names(self, folder)
        monkeypatch.setattr(Storage, "names", names)
        compact_run(store.output, remove_originals=True)
        return found

    monkeypatch.setattr(Storage, "names", names_then_compact)
    assert rows_of(store.output) == before


def test_an_active_driver_is_respected(tmp_path: Path):
    store = RunStore(str(tmp_path / "run"))
    store.create_or_open(FINGERPRINT, CONFIG, clips(1))
    with store.lease(), pytest.raises(JobStopped, match="another driver is active"):
        compact_run(store.output)


def test_a_damaged_clip_is_not_merged(tmp_path: Path):
    store = RunStore(str(tmp_path / "run"))
    store.create_or_open(FINGERPRINT, CONFIG, clips(3))
    commit(store, tmp_path, 0, 3)
    Path(store.output, "annotations/clip-001.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"clip-001\.parquet cannot be merged"):
        compact_run(store.output, remove_originals=True)
    assert len(store.storage.names("annotations")) == 3
    assert parts(store) == []


def test_no_run_is_the_users_error(tmp_path: Path):
    with pytest.raises(UserError, match="there is no run"):
        compact_run(str(tmp_path))
    assert os.listdir(tmp_path) == []


# ---- two compactions at once, whatever became of their leases


class _Sleeper:
    """Lets a compaction run up to its n-th step on storage, where `then` happens, before or after the step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, then) -> None:
        self.count = 0
        self.woke = False
        for name in ("create", "delete"):
            monkeypatch.setattr(Storage, name, self._sleeping(getattr(Storage, name), at, then))

    def _sleeping(self, method, at: int, then):
        def call(storage, *args, **kwargs):
            path = args[-1]
            if self.woke or path.startswith((".tmp", "active_driver")):
                return method(storage, *args, **kwargs)
            self._tick(at, then)
            result = method(storage, *args, **kwargs)
            self._tick(at, then)
            return result

        return call

    def _tick(self, at: int, then) -> None:
        if self.count == at and not self.woke:
            self.woke = True
            then()
        self.count += 1


@pytest.mark.parametrize(("knows", "other_bytes"), [(True, 3_000), (False, 3_000), (False, 10**9)])
def test_a_compaction_that_slept_through_another_one_harms_nothing(
    tmp_path, monkeypatch, knows: bool, other_bytes: int
):
    """It sleeps at each of its steps in turn. `knows`: it notices, by its lease; else it fell asleep between asking for
    its lease and the step itself, and the index alone must hold."""
    files = {i: write_clip(tmp_path, f"clip-{i:03}", seed=i, n=12)[0] for i in range(4)}
    leases: list[DriverLease] = []
    take = DriverLease._take
    monkeypatch.setattr(DriverLease, "_take", lambda lease: (leases.append(lease), take(lease))[1])
    at = stopped = 0
    while True:
        store = RunStore(str(tmp_path / f"run-{at}"))
        store.create_or_open(FINGERPRINT, CONFIG, clips(4))
        for i in range(2):
            store.commit(f"clip-{i:03}", files[i])
        compact_run(store.output, target_bytes=10**9)  # a part that the next one merges again
        for i in range(2, 4):
            store.commit(f"clip-{i:03}", files[i])
        before = rows_of(store.output)

        def meanwhile(store: RunStore = store, before: list = before) -> None:
            sleeping = leases[-1]
            store.storage.delete("active_driver.json")  # as if it had expired
            compact_run(store.output, target_bytes=other_bytes, remove_originals=True)
            assert rows_of(store.output) == before
            if knows:
                sleeping._held_at = (-1e9, -1e9)

        with monkeypatch.context() as patch:
            sleeper = _Sleeper(patch, at, meanwhile)
            try:
                compact_run(store.output, target_bytes=10_000, remove_originals=True)
            except JobStopped:
                stopped += 1
        if not sleeper.woke:
            break
        assert rows_of(store.output) == before, at
        assert store.done_ids() == {f"clip-{i:03}" for i in range(4)}
        assert [p for p in verify_run(store.output) if "left by an interrupted" not in p] == []
        compact_run(store.output, target_bytes=10_000, remove_originals=True)
        assert rows_of(store.output) == before
        assert verify_run(store.output) == []
        at += 1
    assert at >= 10
    assert stopped >= (4 if knows else 3)


def test_an_index_that_was_deleted_as_too_old_is_not_made_again(tmp_path: Path, monkeypatch):
    """A compaction sleeps before it makes version 2; others make 2, 3 and 4, and delete 2."""
    store = RunStore(str(tmp_path / "run"))
    store.create_or_open(FINGERPRINT, CONFIG, clips(6))
    commit(store, tmp_path, 0, 1)
    compact_run(store.output)
    commit(store, tmp_path, 1, 2)
    create = compacted.create_index

    def late(storage, version, held):
        monkeypatch.setattr(compact, "create_index", create)
        storage.delete("active_driver.json")
        for i in (2, 3, 4):
            commit(store, tmp_path, i, i + 1)
            compact_run(store.output, target_bytes=0)
        assert sorted(compacted.versions(storage))[0] > version
        return create(storage, version, held)

    monkeypatch.setattr(compact, "create_index", late)
    with pytest.raises(JobStopped, match="another compaction"):
        compact_run(store.output, remove_originals=True)
    assert len({row[0] for row in rows_of(store.output)}) == 4  # clip-002 has no rows
    assert [p for p in verify_run(store.output) if "left by" not in p and "not done" not in p] == []
    compact_run(store.output, remove_originals=True)
    assert [p for p in verify_run(store.output) if "not done" not in p] == []


@pytest.mark.parametrize("target_bytes", [-1, 0, 1, 10**18])
def test_any_size_ends(tmp_path: Path, target_bytes: int):
    store = RunStore(str(tmp_path / "run"))
    store.create_or_open(FINGERPRINT, CONFIG, clips(3))
    commit(store, tmp_path, 0, 3)
    before = rows_of(store.output)
    result = compact_run(store.output, target_bytes=target_bytes)
    assert (result.clips, result.parts) == (3, 1 if target_bytes > 1 else 3)
    assert rows_of(store.output) == before
    assert compact_run(store.output, target_bytes=target_bytes).clips == 0


def test_a_part_that_nobody_names_stays_until_nobody_can(tmp_path: Path):
    store = RunStore(str(tmp_path / "run"))
    store.create_or_open(FINGERPRINT, CONFIG, clips(2))
    commit(store, tmp_path, 0, 1)
    compact_run(store.output)
    storage = store.storage
    mine = compacted.part_name(1, "clip-001")  # of a compaction that is asleep: its index will be version 2
    storage.create_bytes(b"", f"compacted/{mine}")
    old = compacted.part_name(0, "clip-001")
    storage.create_bytes(b"", f"compacted/{old}")
    storage.create_bytes(b"", "compacted/part-of-0.1.0.parquet")
    assert compact_run(store.output).clips == 0
    assert len(parts(store)) == 1
    assert not compacted.create_index(storage, 2, ())  # what it is told when it wakes up


def test_the_index_of_0_1_0_is_read_and_followed(tmp_path: Path):
    """`compacted/index.arrow`, one table without versions."""
    store = RunStore(str(tmp_path / "run"))
    store.create_or_open(FINGERPRINT, CONFIG, clips(4))
    commit(store, tmp_path, 0, 3)
    before = rows_of(store.output)
    compact_run(store.output, remove_originals=True)
    folder = tmp_path / "run" / "compacted"
    with pa.ipc.open_file(folder / "index-00000001.arrow") as reader:
        table = reader.read_all().replace_schema_metadata(None)
    (folder / "index-00000001.arrow").unlink()
    with pa.ipc.new_file(folder / "index.arrow", table.schema) as writer:
        writer.write_table(table)
    assert rows_of(store.output) == before
    assert verify_run(store.output) == ["clip clip-003: not done, and has no failure record"]
    assert store.done_ids() == {"clip-000", "clip-001", "clip-002"}
    assert store.is_done("clip-001")
    assert not store.is_done("clip-003")
    assert not store.commit("clip-001", write_clip(tmp_path, "clip-001")[0])
    assert store.read_clip("clip-001").num_rows > 0
    commit(store, tmp_path, 3, 4)
    compact_run(store.output, remove_originals=True)
    assert set(rows_of(store.output)) > set(before)
    assert verify_run(store.output) == []
    assert (folder / "index.arrow").exists()


def test_one_clip_is_found_in_a_large_index(tmp_path: Path):
    store = RunStore(str(tmp_path / "run"))
    held = [compacted.CompactedClip(f"clip-{i:06}", f"part-{i % 7}.parquet", i, "{}") for i in range(0, 4000, 2)]
    assert compacted.create_index(store.storage, 1, held[::-1])
    lookup = compacted.Lookup(store.storage)
    for i in (0, 1, 2, 511, 1022, 1023, 1024, 1025, 3998, 3999, 5000):
        found = lookup.find(f"clip-{i:06}")
        assert found == (held[i // 2] if i % 2 == 0 and i < 4000 else None)
    assert lookup.find("a") is None
    assert compacted.create_index(store.storage, 2, [*held, compacted.CompactedClip("a", "part", 1, "{}")])
    assert lookup.find("a") is not None
    Path(store.output, "compacted/index-00000003.arrow").write_bytes(b"ARROW1 no more")
    with pytest.raises(UserError, match=r"index-00000003\.arrow is damaged"):
        lookup.find("a")
    with pytest.raises(UserError, match=r"index-00000003\.arrow is damaged"):
        compacted.read_index(store.storage)
