"""Where a video's frames are, kept for later attempts: replaced if it is of no use, and never fatal."""

from __future__ import annotations

from pathlib import Path

import pytest

from sam3ray.files.sighting import of_size
from sam3ray.store import RunStore
from sam3ray.store.kept_index import KeptIndex

SEEN = of_size(7)


@pytest.fixture
def kept(tmp_path: Path) -> KeptIndex:
    return KeptIndex(RunStore(str(tmp_path)).storage, "long")


def test_the_latest_is_kept_of_the_same_video(kept: KeptIndex) -> None:
    assert kept.read(SEEN) is None
    kept.keep(SEEN, "up to 3 s")
    kept.keep(SEEN, "all")
    assert kept.read(SEEN) == "all"
    assert kept.read(of_size(8)) is None


@pytest.mark.parametrize("damage", ["", "{", '{"source":"","frames":7}', '{"source":"","frames":"","format":2}'])
def test_one_that_is_damaged_is_not_used_and_is_replaced(
    kept: KeptIndex, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept.keep(SEEN, "all")
    (tmp_path / "windows/long/frames.json").write_text(damage)
    assert kept.read(SEEN) is None
    assert "clip long: frames.json is not used" in caplog.text
    kept.keep(SEEN, "all")
    assert kept.read(SEEN) == "all"
