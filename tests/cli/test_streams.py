"""Standard streams that are closed, whose reader has gone, or whose disk is full: the exit code is that of the work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SAM3RAY = f"{sys.executable} -m sam3ray"
# A verb whose work is on storage, one whose result is what it prints, and one that complains.
CODE = """
import sys
from sam3ray.cli import _app as cli
@cli._verb
def run():
    print("x" * 100_000)
    print("y" * 100_000, file=sys.stderr)
    return 1
@cli._verb
def status():
    print("x" * 100_000)
    return 0
cli.hold_standard_streams()
try:
    {"run": run, "status": status}[sys.argv[1]]()
except BaseException as error:
    sys.exit(error.exit_code)
"""


def shell(command: str, verb: str) -> tuple[int, str]:
    script = command.replace("JOB", f'{sys.executable} -c "$CODE" {verb}')
    done = subprocess.run(["bash", "-c", script], env={"CODE": CODE, "PATH": "/usr/bin:/bin"}, capture_output=True)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    "streams", ["2>&-", ">&-", ">&- 2>&- <&-", "2>/dev/full", ">/dev/full", ">/dev/full 2>/dev/full"]
)
def test_streams_that_take_nothing_leave_the_exit_code_alone(streams: str) -> None:
    assert shell(f"JOB {streams}", "run")[0] == 1


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    code, said = shell("set -o pipefail; JOB 2>/dev/null | head -c 10 >/dev/null; exit ${PIPESTATUS[0]}", "status")
    assert (code, said) == (0, "")
    assert shell("JOB 2>&1 | head -c 10 >/dev/null; exit ${PIPESTATUS[0]}", "run") == (1, "")


def test_a_result_that_could_not_be_printed_is_told() -> None:
    code, said = shell("JOB >/dev/full", "status")
    assert (code, said) == (3, "sam3ray: the result could not be printed: No space left on device\n")
    assert "could not be printed" in shell("JOB >/dev/full", "run")[1]


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    code = (
        "import os, sys; from sam3ray.cli._streams import hold_standard_streams; hold_standard_streams();"
        f"file = open({str(tmp_path / 'data')!r}, 'wb'); os.write(2, b'a library speaks'); sys.exit(file.fileno() < 3)"
    )
    script = f'{sys.executable} -c "$CODE" <&- >&- 2>&-'
    done = subprocess.run(["bash", "-c", script], env={"CODE": code, "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0
    assert (tmp_path / "data").read_bytes() == b""
