"""What runs is what was asked for: on a device, with a checkpoint and with software that the run names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sam3ray.store import verify_run
from sam3ray.values.versions import ENGINE_VERSION
from tests.e2e.clips import write_clips


@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="there is a GPU")
def test_a_gpu_that_torch_cannot_use_is_no_cpu_and_the_job_begins_anew_without_it(tmp_path: Path) -> None:
    manifest, output = write_clips(tmp_path / "clips", 1, frames=3), tmp_path / "run"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.promised_gpu", str(manifest), str(output)],
        env=environment, capture_output=True, text=True, timeout=400, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with_gpu, without = map(json.loads, done.stdout.splitlines())

    assert (with_gpu["summary"]["exit_code"], with_gpu["summary"]["done"]) == (3, 0)
    message = with_gpu["summary"]["message"]
    assert "cluster.gpus_per_actor is above 0, but this worker has no usable GPU" in message
    assert "Error" not in message
    assert with_gpu["run"]["fingerprint"]["model.dtype"] == "bfloat16"

    assert (without["summary"]["exit_code"], without["summary"]["done"]) == (0, 1)
    run = without["run"]
    assert run["fingerprint"]["model.dtype"] == "float32"
    assert run["fingerprint"]["engine_version"] == ENGINE_VERSION
    assert run["device"] == "cpu"
    assert run["versions"]["transformers"] == version("transformers")
    assert run["checkpoint"]["sha256"] == run["fingerprint"]["checkpoint.sha256"]
    metadata = pq.read_metadata(output / "annotations/clip-000.parquet").metadata
    model = json.loads(metadata[b"sam3ray.model"])
    assert (model["dtype"], model["device_kind"]) == ("float32", "cpu")
    assert verify_run(str(output)) == []
