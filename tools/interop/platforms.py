"""Whether every dependency has a wheel, for each platform and Python version: resolved, nothing is run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tools.interop._place import Place
from tools.interop._result import Outcome

REQUIREMENTS = ("uv",)
ROOT = Path(__file__).parents[2]
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
EXTRAS = ("s3", "gcs", "azure", "app", "datasets", "eval", "lora", "cvat")  # all but those for developers
_MACOS = "14.0"  # torch and av have no wheels for older ones


def check(place: Place) -> list[Outcome]:
    uv = place.python.parent / "uv"
    version = subprocess.run([uv, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    results = []
    for platform in PLATFORMS:
        for pinned in (True, False):
            lacking = {python: _lacking(uv, platform, python, pinned) for python in PYTHONS}
            missing = "; ".join(f"{python}: {why}" for python, why in lacking.items() if why)
            versions = "pinned versions" if pinned else "newest versions"
            what = f"wheels for {platform}, Python {PYTHONS[0]}-{PYTHONS[-1]}, {versions}"
            results.append(Outcome(what, "resolved", f"uv {version}", not missing, missing or "every package has one"))
    return results


def _lacking(uv: Path, platform: str, python: str, pinned: bool) -> str:
    """Why it does not resolve; empty where it does."""
    command = [uv, "pip", "compile", "-q", "--python-platform", platform, "--python-version", python]
    command += ["--only-binary", ":all:", *(word for extra in EXTRAS for word in ("--extra", extra)), "pyproject.toml"]
    command += ["-c", "constraints.txt"] if pinned else []
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": _MACOS}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True)
    return "" if done.returncode == 0 else " ".join(done.stderr.split())[:200]
