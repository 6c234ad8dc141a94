"""A virtual environment per tool. It is kept between runs, and made again only when its requirements change."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

READY = "ready"  # contains the digest of the requirements; written last


def cache() -> Path:
    """The folder for environments and other downloads: $SAM3RAY_INTEROP, else ~/.cache/sam3ray-interop."""
    return Path(os.environ.get("SAM3RAY_INTEROP") or Path.home() / ".cache" / "sam3ray-interop")


def environment(requirements: Sequence[str]) -> Path:
    """The interpreter of an environment with these requirements; without any, the current interpreter.

    The environment is named after the first requirement, so that checks of one tool share it.

    A requirement that begins with `--` is an option for pip. With `--with-project`, the environment also sees the
    packages of the project's environment: tools that need torch then share one copy.
    """
    if not requirements:
        return Path(sys.executable)
    wanted = [each for each in requirements if each != "--with-project"]
    name = re.split(r"[^A-Za-z0-9._-]", next(each for each in wanted if not each.startswith("-")).partition("==")[0])[0]
    folder = cache() / name
    python = folder / "bin" / "python"
    digest = hashlib.sha256("\n".join([sys.version, *requirements]).encode()).hexdigest()
    with _alone(folder.with_suffix(".lock")):
        ready = folder / READY
        if ready.exists() and ready.read_text() == digest:
            return python
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        if len(wanted) < len(requirements):
            _show_project(python)
        print(f"{name}: installing {', '.join(wanted)}", file=sys.stderr, flush=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True, capture_output=True)
        ready.write_text(digest)
    return python


def _show_project(python: Path) -> None:
    import sysconfig

    there = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True
    )
    Path(there.stdout.decode().strip(), "project.pth").write_text(sysconfig.get_path("purelib") + "\n")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
