from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sam3ray.job.workdir import WorkDir


def test_gone_after_close(tmp_path: Path) -> None:
    with WorkDir(tmp_path) as work:
        (work.path / "a").write_text("x")
        assert work.path.is_dir()
    assert list(tmp_path.iterdir()) == []
    work.close()


def test_what_the_dead_left_is_swept_and_what_the_living_use_is_not(tmp_path: Path) -> None:
    code = "import os, sys; from sam3ray.job.workdir import WorkDir; w = WorkDir(sys.argv[1]); print(w.path); {}"
    dead = subprocess.run(
        [sys.executable, "-c", code.format("os._exit(9)"), tmp_path], capture_output=True, text=True, check=False
    )
    assert dead.returncode == 9
    alive = subprocess.Popen(
        [sys.executable, "-c", code.format("sys.stdout.flush(); sys.stdin.read()"), tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert alive.stdout is not None
        used = Path(alive.stdout.readline().strip())
        left = [p for p in tmp_path.iterdir() if p != used]
        assert left == []  # the second process swept what the first one left
        with WorkDir(tmp_path) as ours:
            assert used.is_dir()
            assert ours.path != used
    finally:
        alive.communicate("")


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    link = tmp_path / "sam3ray-work-link"
    target = tmp_path / "precious"
    target.mkdir()
    (target / "lock").write_text("")
    link.symlink_to(target)
    (tmp_path / "sam3ray-work-new").mkdir()  # made a moment ago, not locked yet
    with WorkDir(tmp_path):
        pass
    assert target.is_dir()
    assert (tmp_path / "sam3ray-work-new").is_dir()
