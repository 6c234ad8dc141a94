"""Running jobs in tests: in this process on a shared local Ray, or as a process that can be killed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sam3ray.config import JobConfig
from sam3ray.job.worker import ClipWorker
from sam3ray.manifest import read_manifest
from sam3ray.store import RunStore
from tests.job.fakes import DrawnSegmenter

PROMPTS = ("red", "green")


def config_for(
    manifest: Path | str, output: Path | str, *, actors: int = 2, cpus: float = 0.5, **sections: Any
) -> JobConfig:
    cluster = {"gpus_per_actor": 0, "cpus_per_actor": cpus, "actors": {"min": 1, "max": actors}}
    cluster |= sections.pop("cluster", {})
    return JobConfig(manifest=str(manifest), output=str(output), prompts=PROMPTS, cluster=cluster, **sections)


def annotations_of(output: Path | str) -> dict[str, pa.Table]:
    """clip id -> rows, read as a user would: file by file."""
    return {p.stem: pq.read_table(p) for p in sorted(Path(output, "annotations").glob("*.parquet"))}


def assert_same_annotations(left: Path | str, right: Path | str) -> None:
    ours, theirs = annotations_of(left), annotations_of(right)
    assert ours.keys() == theirs.keys()
    for clip_id, table in ours.items():
        assert table.equals(theirs[clip_id]), f"{clip_id} differs"


def annotate_alone(config: JobConfig) -> None:
    """The same job by one worker in this process, without Ray."""
    store = RunStore(config.output, config.storage)
    worker = ClipWorker(config, store, {}, DrawnSegmenter)
    for clip in read_manifest(config.manifest, config):
        worker.process(clip)
    worker.close()


def start_driver(config: JobConfig, folder: Path, **model: Any) -> subprocess.Popen[bytes]:
    """`run_job` in a process of its own, with its own Ray. `model`: arguments of `faults.FaultyModel`."""
    path = folder / f"config-{hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:8]}.json"
    path.write_text(config.model_dump_json())
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "tests.e2e.drive", str(path), str(folder), repr(model)]
    log = (folder / "driver.log").open("ab")
    return subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[2], start_new_session=True
    )
