"""A short one of `python -m tests.e2e.clip_kills`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_a_clip_whose_worker_is_killed_at_random_moments_has_the_same_rows() -> None:
    """In a process of its own: a process that has run torch must not fork."""
    told = subprocess.run(
        [sys.executable, "-m", "tests.e2e.clip_kills", "--frames=40", "--kills=2", "--seconds=0.1", "--json"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    story = json.loads(told.stdout)
    assert story["same"]
    assert len(story["killed_at"]) == 2
    assert all(0 <= again <= at for again, at in zip(story["again"], story["killed_at"], strict=True))
    assert story["again"][-1] < story["killed_at"][-1], "the last worker did not start over"
