"""What gcsfs is asked to do, against a stand-in for the server: the condition, the token, lost answers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sam3ray.failures import Failure, Reason
from sam3ray.store import Guarantee, RunStore, verify_run
from tests.store.conftest import QUICK, everything
from tests.store.gcs_server import gcs_server
from tests.store.proxy import Fault, FaultyProxy, Request, faulty_proxy
from tests.store.store_files import CONFIG, FINGERPRINT, clips, write_clip


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    # Zonal and hierarchical buckets are asked about over gRPC, which the stand-in does not speak.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    pytest.importorskip("gcsfs")
    with gcs_server() as url, faulty_proxy(url) as found:
        yield found


@pytest.fixture
def gcs(proxy: FaultyProxy) -> RunStore:
    return RunStore("gs://bucket/labels/run", {"endpoint_url": proxy.url, "token": "anon"}, QUICK)


def test_a_run_on_gcs(gcs: RunStore, tmp_path):
    assert gcs.create_or_open(FINGERPRINT, CONFIG, clips(3))
    assert not gcs.create_or_open(FINGERPRINT, CONFIG, clips(3))
    files = [write_clip(tmp_path, "clip-000", seed=i)[0] for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda path: gcs.commit("clip-000", path), files))
    assert won.count(True) == 1
    assert everything(gcs)["annotations/clip-000.parquet"] == files[won.index(True)].read_bytes()
    assert not gcs.commit("clip-000", files[won.index(True)])
    gcs.commit("clip-001", write_clip(tmp_path, "clip-001")[0])
    gcs.record_failure(Failure("clip-002", Reason.NOT_FOUND, "gone", final=True))
    gcs.write_clips_table(gcs.summaries())
    with gcs.lease():
        pass
    assert verify_run(gcs.output, gcs.storage.options) == []
    assert gcs.probe() is Guarantee.SERVER


def test_a_large_file_goes_up_in_pieces(gcs: RunStore, tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(bytes(range(256)) * 30_000)
    assert gcs.publish_video("a", path)
    assert not gcs.publish_video("a", path)
    assert everything(gcs) == {"videos/a.mp4": path.read_bytes()}


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.HALF, Fault.LOST])
def test_a_commit_survives(fault: Fault, gcs: RunStore, proxy: FaultyProxy, tmp_path):
    file, _ = write_clip(tmp_path, "a", n=60)
    hit = []

    def decide(request: Request) -> Fault:
        if request.method == "POST" and not hit:
            hit.append(request)
            return fault
        return Fault.NONE

    proxy.decide = decide
    assert gcs.commit("a", file)
    assert hit
    assert not gcs.commit("a", file)
    assert everything(gcs) == {"annotations/a.parquet": file.read_bytes()}
