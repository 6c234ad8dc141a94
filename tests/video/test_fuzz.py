"""Damaged videos end as frames or as one of the contract's reasons, within time and memory.

More of it, on files of one's own:

    SAM3RAY_FUZZ=5000 SAM3RAY_CLIPS=folder/of/videos python -m pytest -m slow tests/video/test_fuzz.py -s
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from sam3ray.failures import Reason
from tests.video.media import write_sound, write_video

PATIENCE_S = 60  # of processor time, for one input: many times what the slowest takes
ALLOWED = {"frames", *(reason.value for reason in (
    Reason.UNREADABLE_VIDEO, Reason.NO_VIDEO_STREAM, Reason.EMPTY_RANGE, Reason.OVER_LIMITS
))}  # fmt: skip


def run_fuzzer(folder: Path, count: int, target: Path) -> tuple[Counter[str], list[str]]:
    """Outcomes, and the seeds that ended otherwise. A process that dies or hangs is replaced after its seed."""
    outcomes: Counter[str] = Counter()
    bad: list[str] = []
    errors = target.with_suffix(".log")
    seed = 0
    while seed < count:
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.video.fuzz", str(folder), str(seed), str(count), str(target)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                cwd=Path(__file__).parents[2],
            )
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_pass_on, args=(process, lines), daemon=True).start()
        hung, busy_s, heard = False, 0.0, time.monotonic()
        while True:
            try:
                words = lines.get(timeout=2).split()
            except queue.Empty:
                used_s, silent_s = _cpu_s(process) - busy_s, time.monotonic() - heard
                if used_s > PATIENCE_S or silent_s > 20 * PATIENCE_S:
                    hung = True
                    break
                continue
            busy_s, heard = _cpu_s(process), time.monotonic()
            if not words:
                break
            if words[0] == "end":
                seed = int(words[1]) + 1
                outcomes[words[2]] += 1
                if words[2] not in ALLOWED:
                    bad.append(f"seed {words[1]}: {words[2]}")
        process.kill()
        process.wait()
        if seed < count:
            text = "hung" if hung else f"exit status {process.returncode}: {errors.read_text()[-500:]}"
            bad.append(f"seed {seed}: {text}")
            seed += 1
    return outcomes, bad


def _cpu_s(process: subprocess.Popen[str]) -> float:
    try:
        times = psutil.Process(process.pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _pass_on(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")


def small_videos(folder: Path) -> Path:
    folder.mkdir()
    write_video(folder / "a.mp4", 12)
    write_video(folder / "front.mp4", 12, sound="aac")
    write_video(folder / "b.mkv", 12, codec="libx265", options={"x265-params": "log-level=none:pools=none"})
    write_video(folder / "c.webm", 12, codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"})
    write_video(folder / "d.ts", 12)
    write_video(folder / "e.avi", 12, codec="mpeg4", options={"bf": "0"})
    write_video(folder / "f.mov", 6, codec="mjpeg", pix_fmt="yuvj420p", options={"bf": "0"}, full_range=True)
    write_sound(folder / "g.m4a")
    return folder


def test_damaged_videos_end_as_they_should(tmp_path: Path) -> None:
    outcomes, bad = run_fuzzer(small_videos(tmp_path / "originals"), 150, tmp_path / "damaged")
    assert not bad
    assert sum(outcomes.values()) == 150
    assert outcomes["frames"] > 10  # else nothing but the headers was tried
    assert outcomes["unreadable_video"] > 10


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_many_damaged_videos(tmp_path: Path) -> None:
    count = int(os.environ.get("SAM3RAY_FUZZ", "2000"))
    clips = os.environ.get("SAM3RAY_CLIPS")
    folder = Path(clips) if clips else small_videos(tmp_path / "originals")
    outcomes, bad = run_fuzzer(folder, count, tmp_path / "damaged")
    print(f"{count} damaged videos from {folder}: {dict(outcomes)}")
    assert not bad
