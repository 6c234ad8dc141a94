"""Installs the wheel into an empty environment, as the image does: it starts, and the demo runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

from tools.interop._place import Place, ToolFailed
from tools.interop._result import Outcome

REQUIREMENTS: tuple[str, ...] = ()  # the check makes its own environment, of some 6 GB
ROOT = Path(__file__).parents[2]


def check(place: Place) -> list[Outcome]:
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(place.folder), str(ROOT)]
    _run(build)
    (wheel,) = place.folder.glob("*.whl")
    folder = place.folder / "environment"
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "pip"), "install", "-q", "-c", str(ROOT / "constraints.txt")]
    _run([*pip, f"{wheel}[s3,gcs,azure]"])  # the extras of configs/deploy/Dockerfile
    command = str(folder / "bin" / "sam3ray")
    said = json.loads(_run([command, "demo", "--output", str(place.folder / "demo"), "--json"]))
    ok = said["done"] == said["clips"] > 0 and not said["failed"]
    what = f"the wheel in an empty environment, Python {sys.version_info.major}.{sys.version_info.minor}"
    text = f"`sam3ray demo`: {said['done']} of {said['clips']} clips done"
    return [Outcome(what, "run", f"sam3ray {wheel.name.split('-')[1]}", ok, text)]


def _run(command: list[str]) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ToolFailed(f"{' '.join(command[:3])}: {done.stderr.strip()[-1500:]}")
    return done.stdout
