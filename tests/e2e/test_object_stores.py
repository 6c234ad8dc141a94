"""The whole job on an object store over HTTP: manifest, videos and output there, two actors, a killed driver, resume.

On Azure: `test_chaos.py` does the same, and more, on S3.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import fsspec

from sam3ray.annotations import read_annotations
from sam3ray.store import RunStore, compact_run, read_status, verify_run
from tests.e2e.runs import annotate_alone, config_for, start_driver
from tests.servers import Place


def rows_of(output: str, options: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    rows = read_annotations(output, options).to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["clip_id"], row["frame_index"], row["object_id"]))


def upload(manifest: Path, place: Place) -> str:
    """The videos and a manifest that names them there."""
    fs, root = fsspec.core.url_to_fs(place.uri, **place.options, skip_instance_cache=True)
    lines = ["clip_id,uri"]
    for path in sorted(manifest.parent.glob("*.mp4")):
        fs.put_file(str(path), f"{root}/videos/{path.name}")
        lines.append(f"{path.stem},{place.uri}/videos/{path.name}")
    fs.pipe_file(f"{root}/clips.csv", "\n".join(lines).encode())
    return f"{place.uri}/clips.csv"


def test_a_killed_job_on_an_object_store_is_resumed(azure_place: Place, six_clips: Path, tmp_path: Path) -> None:
    place = azure_place
    local = tmp_path / "local"
    annotate_alone(config_for(six_clips, local))

    output = f"{place.uri}/run"
    config = config_for(upload(six_clips, place), output, storage=place.options)
    store = RunStore(output, place.options)
    driver = start_driver(config, tmp_path, faults={}, frame_s=0.05)
    try:
        deadline = time.monotonic() + 120
        while len(store.done_ids()) < 2:
            alive = driver.poll() is None and time.monotonic() < deadline
            assert alive, (tmp_path / "driver.log").read_text()[-3000:]
            time.sleep(0.1)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    done_before = len(store.done_ids())
    assert 2 <= done_before < 6
    driver = start_driver(config, tmp_path, faults={})
    assert driver.wait(180) == 0, (tmp_path / "driver.log").read_text()[-3000:]
    assert rows_of(output, place.options) == rows_of(str(local))
    assert verify_run(output, place.options) == []
    status = read_status(output, place.options)
    assert (status.done, status.left, status.failed, status.driver) == (6, 0, {}, None)
    compact_run(output, place.options, remove_originals=True)
    assert rows_of(output, place.options) == rows_of(str(local))
    assert verify_run(output, place.options) == []
