from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clips import write_clips


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray for all tests of the session that run the driver in this process."""
    import ray

    from sam3ray.job.cluster import start_local

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default: on a busy machine the tests would starve
    start_local(num_cpus=2, num_gpus=0, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def six_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of six small clips, the first the longest."""
    return write_clips(tmp_path_factory.mktemp("clips"), 6, frames=[30, 12, 14, 16, 18, 20])
