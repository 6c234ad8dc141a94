from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.clips import write_clips


@pytest.fixture(scope="session")
def six_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of six small clips, the first the longest."""
    return write_clips(tmp_path_factory.mktemp("clips"), 6, frames=[30, 12, 14, 16, 18, 20])
