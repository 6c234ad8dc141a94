from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clips import write_clips
from tests.e2e.nodes import Nodes


@pytest.fixture(scope="session")
def six_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of six small clips, the first the longest."""
    return write_clips(tmp_path_factory.mktemp("clips"), 6, frames=[30, 12, 14, 16, 18, 20])


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """A Ray cluster of several nodes, which ends with the test."""
    cluster = Nodes(tmp_path)
    yield cluster
    cluster.stop()
