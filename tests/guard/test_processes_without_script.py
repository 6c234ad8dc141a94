"""Processes that share work do not run the caller's script again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
from sam3ray.guard.processes import in_processes
print("script")
print(list(in_processes(len, ["a", "bb", "ccc"], workers=2)))
"""


@pytest.mark.parametrize("how", ["file", "stdin", "module"])
def test_a_script_without_a_guard_runs_once(how: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    words = {"file": ["script.py"], "stdin": ["-"], "module": ["-m", "script"]}[how]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [sys.executable, *words],
        input=SCRIPT,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "script\n[1, 2, 3]\n", done.stderr


def test_processes_of_others_start_as_ever(tmp_path: Path) -> None:
    code = (
        "import multiprocessing as mp\n"
        "import sam3ray.guard.processes\n"
        "def told(): print('from the script')\n"
        "if __name__ == '__main__':\n"
        "    child = mp.get_context('spawn').Process(target=told)\n"
        "    child.start(); child.join()\n"
    )
    (tmp_path / "script.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout == "from the script\n", done.stderr
