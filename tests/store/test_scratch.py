"""Local files without names."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from sam3ray.store.scratch import unnamed_file


def test_a_killed_process_could_leave_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with unnamed_file(b"first words") as path:
        assert list(tmp_path.iterdir()) == []
        for _ in range(2):
            assert Path(path).read_bytes() == b"first words"
        Path(path).write_bytes(b"others")
        assert Path(path).read_bytes() == b"others"
    assert list(tmp_path.iterdir()) == []
