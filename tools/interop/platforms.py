"""Checks that every dependency has a wheel for each platform and Python version. Resolves only; runs nothing."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.interop._place import Place
from tools.interop._result import Outcome

REQUIREMENTS = ("uv",)
ROOT = Path(__file__).parents[2]
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
EXTRAS = ("s3", "gcs", "azure", "app", "datasets", "eval", "lora", "cvat")  # all except those for developers
_MACOS = "14.0"  # torch and av have no wheels for older ones


_AT_ONCE = 4  # uv waits for the index most of the time
_LIMIT_S = 300.0


def check(place: Place) -> list[Outcome]:
    uv = place.python.parent / "uv"
    version = subprocess.run([uv, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    cases = list(itertools.product(PLATFORMS, (True, False), PYTHONS))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        lacking = dict(zip(cases, pool.map(lambda case: _lacking(uv, *case), cases), strict=True))
    results = []
    for platform, pinned in itertools.product(PLATFORMS, (True, False)):
        found = {python: lacking[platform, pinned, python] for python in PYTHONS}
        missing = "; ".join(f"{python}: {why}" for python, why in found.items() if why)
        versions = "pinned versions" if pinned else "newest versions"
        what = f"wheels for {platform}, Python {PYTHONS[0]}-{PYTHONS[-1]}, {versions}"
        said = f"every package has one, with the extras {', '.join(EXTRAS)}"
        results.append(Outcome(what, "resolved", f"uv {version}", not missing, missing or said))
    return results


def _lacking(uv: Path, platform: str, pinned: bool, python: str) -> str:
    """Why dependencies do not resolve; empty if they do."""
    command = [uv, "pip", "compile", "-q", "--python-platform", platform, "--python-version", python]
    command += ["--only-binary", ":all:", *(word for extra in EXTRAS for word in ("--extra", extra)), "pyproject.toml"]
    command += ["-c", "constraints.txt"] if pinned else []
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": _MACOS}
    words = list(map(str, command))
    try:
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_LIMIT_S)
        why = "" if done.returncode == 0 else " ".join(done.stderr.split())[:200]
    except subprocess.TimeoutExpired:
        why = f"not resolved within {_LIMIT_S:.0f} s"
    print(f"platforms: {platform} {python}, {'pinned' if pinned else 'newest'}: {why or 'ok'}", file=sys.stderr)
    return why
