from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sam3ray.files import workdir
from sam3ray.files.workdir import WorkDir


def test_gone_after_close(tmp_path: Path) -> None:
    with WorkDir(tmp_path) as work:
        (work.path / "a").write_text("x")
        assert work.path.is_dir()
    assert list(tmp_path.iterdir()) == []
    work.close()


def test_what_the_dead_left_is_swept_and_what_the_living_use_is_not(tmp_path: Path) -> None:
    code = "import os, sys; from sam3ray.files.workdir import WorkDir; w = WorkDir(sys.argv[1]); print(w.path); {}"
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


@pytest.mark.parametrize("when", ["before the lock", "during it"])
def test_a_folder_swept_away_before_it_is_locked_is_made_again(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            (made,) = tmp_path.iterdir()
            if when == "during it":  # the sweeper holds the lock, and removes the folder then
                shutil.rmtree(made)
                raise BlockingIOError
            workdir.sweep(tmp_path)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with WorkDir(tmp_path) as ours:
        monkeypatch.undo()
        (ours.path / "file").write_text("kept")
        workdir.sweep(tmp_path)
        assert (ours.path / "file").is_file()
    assert list(tmp_path.iterdir()) == []


def test_the_pages_model_process_leaves_no_states_when_it_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, types\n"
        "from sam3ray.app import _model_process as process\n"
        "process.Model = lambda *settings: types.SimpleNamespace(model_info=None)\n"
        "process.main(types.SimpleNamespace(send=print, recv=lambda: os._exit(9)), None, None)\n"
    )
    dead = subprocess.run([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}, check=False)
    assert dead.returncode == 9
    (left,) = tmp_path.glob("sam3ray-*")
    with WorkDir(tmp_path):
        assert not left.exists()
