"""Live video for an hour: does anything grow?

    python -m tests.app.soak --minutes 60

A camera on RTSP changes its scene every ten seconds and once its picture size, and breaks off every 45 seconds. It is
watched, recorded, and shown on a page in Chromium; a second page shows a webcam. Both go at the model's full rate.
Phrases change, objects are clicked on and dropped. Memory, threads, files and sockets of the server, of the model's
process and of both pages are sampled, and a line is printed each minute. Ctrl-C (or SIGTERM) ends it at any time with
the figures so far.

The verdict goes by slopes after a warm-up, with their 95% confidence intervals. The memory that a process has written
to (`resident`) swings with what allocators have freed but cannot return, so an hour cannot show that it grows by less
than 5 MB an hour. What the process holds can: what is allocated in the C heap, torch's tensors included (`in use`), by
Python for its objects (`python`), and by Arrow (`arrow`). All are taken between two frames. Any of them fails the soak
if it surely grows. All but `resident` must also be shown not to grow. In less than half an hour, memory that grows may
be caches that fill: then nothing is said.

Exit code: 0, nothing grows; 1, something does or is broken; 2, too short to tell.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from playwright.sync_api import Page, sync_playwright

from sam3ray.shapes import ClipSpec, draw_clip
from sam3ray.store import verify_run
from tests.app.conftest import FLAGS, live_picture, write_y4m
from tests.cameras.rtsp_camera import RtspCamera, encoded

ALLOWED_MB_PER_HOUR = 5.0
ALLOWED_MORE = 3  # threads, files, sockets above the first sample after the warm-up
UNDECIDED = " resident"  # ends the name of what needs more than an hour
WARM_UP = 15.0  # minutes, or half of a shorter time: caches fill, allocators settle
ANSWER_S = 120.0
BLOCKS = 12  # of samples after the warm-up, whose means are compared: samples next to each other are much alike
PROBE = Path(__file__).parent / "soak_probe"
SPEC = ClipSpec(seed=6, frames=60, width=640, height=360, objects=(2, 4))
PHRASES = (("red circle",), ("red circle", "star"), ("square",), ("circle", "square", "triangle"))


@dataclasses.dataclass(frozen=True)
class Sample:
    """`mb`: memory in use, by what uses it; `counts`: threads, files, sockets."""

    minutes: float
    mb: dict[str, float]
    counts: dict[str, int]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--to", type=Path, help="add the samples to this file, as JSON lines")
    parser.add_argument(
        "--leak-mb-per-hour", type=float, default=0.0, help="both processes leak so much: a soak that must fail"
    )
    parser.add_argument("--camera", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.camera:
        return _be_the_camera()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the processes that are started: Ctrl-C is for this one alone
    with tempfile.TemporaryDirectory(prefix="sam3ray-soak-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        url = stack.enter_context(_camera())
        server, address = stack.enter_context(_server(url, folder, arguments.leak_mb_per_hour))
        pages = stack.enter_context(_pages(address, folder))
        stop: list[int] = []
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, lambda number, _: stop.append(number))
        print(f"Ctrl-C, or kill {os.getpid()}, ends it with the figures so far", flush=True)
        try:
            samples = list(_kept(_soak(server, folder, pages, arguments.minutes, stop), arguments.to))
        except psutil.NoSuchProcess:
            print("".join((folder / "log").read_text().splitlines(keepends=True)[-30:]))
            print("verdict: NOT shown to be flat: a process has ended, or does not answer")
            return 1
        drawn = [int(page.locator(".picture").get_attribute("data-ticket") or 0) for page in pages]
        stack.close()
        reconnects = (folder / "log").read_text().count("arrive again")
        problems = verify_run(str(folder / "run"))
    print(f"\n{samples[-1].minutes:.1f} minutes, {drawn[0]} frames of the camera, {drawn[1]} of the webcam, ", end="")
    print(f"{reconnects} reconnections, {len(problems)} problems in the recording")
    for problem in problems:
        print(f"  {problem}")
    fits, is_shown = _judged(samples)
    is_good = fits and not problems and all(drawn)
    word = "nothing grows" if is_shown else "nothing is seen to grow, but this was too short to tell"
    print(f"verdict: {word if is_good else 'NOT shown to be flat'}")
    return 1 if not is_good else 0 if is_shown else 2


def _kept(samples: Iterator[Sample], to: Path | None) -> Iterator[Sample]:
    """Each is written as it comes: an hour is not lost with what goes wrong at its end."""
    shown: list[Sample] = []
    for sample in samples:
        if not shown:
            print("minute" + "".join(f"{name:>17}" for name in (*sample.mb, *sample.counts)) + "   (MB; counts)")
        if not shown or sample.minutes - shown[-1].minutes >= 1:
            shown.append(sample)
            figures = [*(f"{mb:17.1f}" for mb in sample.mb.values()), *(f"{n:17}" for n in sample.counts.values())]
            print(f"{sample.minutes:6.1f}" + "".join(figures), flush=True)
        if to is not None:
            with open(to, "a") as file:
                file.write(json.dumps(dataclasses.asdict(sample)) + "\n")
        yield sample


def _judged(samples: list[Sample]) -> tuple[bool, bool]:
    """Prints the figures. Whether nothing grows by more than is allowed, as far as can be told; and whether it can."""
    warm = min(samples[-1].minutes / 2, WARM_UP)
    late = [each for each in samples if each.minutes >= warm]
    hours = np.array([each.minutes / 60 for each in late])
    is_good = is_shown = True
    print(f"after {warm:.1f} minutes of warm-up:")
    print(f"{'':18}{'begun with':>11}{'warm':>10}{'last':>10}{'MB an hour':>14}{'± (95%)':>12}")
    for name in late[0].mb:
        values = np.array([each.mb[name] for each in late])
        slope, error = _slope(hours, values)
        fits = slope - error <= ALLOWED_MB_PER_HOUR or warm < WARM_UP
        proven = slope + error <= ALLOWED_MB_PER_HOUR and warm >= WARM_UP
        is_good &= fits
        is_shown &= proven or name.endswith(UNDECIDED)
        word = "" if proven else "  too short to tell" if fits else "  GROWS"
        print(
            f"{name:18}{samples[0].mb[name]:11.1f}{values[0]:10.1f}{values[-1]:10.1f}{slope:14.1f}{error:12.1f}{word}"
        )
    for name in late[0].counts:
        before, values = samples[0].counts[name], [each.counts[name] for each in late]
        fits = values[-1] <= values[0] + ALLOWED_MORE
        is_good &= fits
        print(f"{name:18}{before:11}{values[0]:10}{values[-1]:10}{'' if fits else '  GROWS'}")
    return is_good, is_shown


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least squares over the means of blocks: the slope, and half the width of its 95% confidence interval."""
    count = min(BLOCKS, len(x) // 3)
    if count < 4:
        return 0.0, float("inf")
    x, y = (np.array([part.mean() for part in np.array_split(each, count)]) for each in (x, y))
    (slope, _), covariance = np.polyfit(x, y, 1, cov="unscaled")
    rest = y - np.polyval(np.polyfit(x, y, 1), x)
    error = np.sqrt(covariance[0, 0] * (rest @ rest) / (count - 2))
    z, free = statistics.NormalDist().inv_cdf(0.975), count - 2
    student = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return float(slope), float(student * error)


def _soak(server: psutil.Process, folder: Path, pages: list[Page], minutes: float, stop: list[int]) -> Iterator[Sample]:
    sessions = [page.context.new_cdp_session(page) for page in pages]
    began, turn = time.monotonic(), 0
    while not stop and ((passed := (time.monotonic() - began) / 60) < minutes or turn == 0):
        yield _sample(passed, server, folder, sessions)
        page = pages[turn % 2]
        if turn % 3 == 0:
            _look_for(page, PHRASES[turn // 3 % len(PHRASES)])
        box = page.locator(".over").bounding_box()
        if box is not None:
            page.mouse.click(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.5)
        pages[0].wait_for_timeout(5_000)
        drops = page.get_by_label("Drop object")
        if drops.count() > 3:
            drops.first.click()
        pages[0].wait_for_timeout(5_000)
        turn += 1
    yield _sample((time.monotonic() - began) / 60, server, folder, sessions)


def _look_for(page: Page, phrases: tuple[str, ...]) -> None:
    remove = page.locator(".chips button")
    for _ in range(remove.count()):
        remove.first.click()
    page.get_by_label("Phrase to look for").fill(", ".join(phrases))
    page.get_by_label("Phrase to look for").press("Enter")


def _sample(minutes: float, server: psutil.Process, folder: Path, sessions: list[Any]) -> Sample:
    family = [server, *server.children(recursive=True)]
    model = max(family[1:], key=lambda each: each.memory_info().rss)
    mb = {}
    for name, session in zip(("page: camera", "page: webcam"), sessions, strict=True):
        session.send("HeapProfiler.collectGarbage")
        mb[name] = session.send("Runtime.getHeapUsage")["usedSize"] / 2**20
    used = _used((server, model), folder)
    for name, each in (("server", server), ("model", model)):
        mb[f"{name} resident"] = used[each.pid]["resident"]
        mb[f"{name} in use"] = used[each.pid]["heap"]
        mb[f"{name} python"] = used[each.pid]["python"]
        mb[f"{name} arrow"] = used[each.pid]["arrow"]
    counts = {
        "threads": sum(each.num_threads() for each in (server, model)),
        "files": sum(each.num_fds() for each in (server, model)),
        "sockets": len(server.net_connections()),
        "processes": len(family),
    }
    return Sample(minutes, mb, counts)


def _used(processes: tuple[psutil.Process, ...], folder: Path) -> dict[int, dict[str, float]]:
    """What the processes say of their memory, see `soak_probe/sitecustomize.py`."""
    until = time.monotonic() + ANSWER_S
    for each in processes:
        each.send_signal(signal.SIGUSR1)
    while not all((folder / str(each.pid)).exists() for each in processes):
        if time.monotonic() > until or not all(each.is_running() for each in processes):
            raise psutil.NoSuchProcess(processes[-1].pid, msg="a process does not answer")
        time.sleep(0.02)
    answers = {}
    for each in processes:
        answers[each.pid] = json.loads((folder / str(each.pid)).read_text())
        (folder / str(each.pid)).unlink()
    return answers


@contextmanager
def _camera() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.app.soak", "--camera"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def _be_the_camera() -> int:
    units = []
    for seed, width in ((6, 640), (11, 640), (12, 480), (13, 640)):
        images = [each.image for each in draw_clip(dataclasses.replace(SPEC, seed=seed, width=width))]
        units += encoded([images[n // 5] for n in range(300)])  # ten seconds
    with RtspCamera(units, cut_after=1350) as camera:
        print(camera.url, flush=True)
        sys.stdin.read()  # until the parent ends
    return 0


@contextmanager
def _server(url: str, folder: Path, leak_mb_per_hour: float) -> Iterator[tuple[psutil.Process, str]]:
    command = [sys.executable, "-m", "sam3ray", "live", url, "--prompt", "red circle", "--display", "--no-browser"]
    command += ["--checkpoint", "embedded", "--output", str(folder / "run"), "--set", "live.segment_s=60"]
    path = os.pathsep.join((str(PROBE), os.environ.get("PYTHONPATH", "")))
    probe = {"PYTHONPATH": path, "SOAK_PROBE": str(folder), "SOAK_LEAK_MB_PER_HOUR": str(leak_mb_per_hour)}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **probe}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield psutil.Process(process.pid), process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(600)


@contextmanager
def _pages(address: str, folder: Path) -> Iterator[list[Page]]:
    images = [live_picture(each.index, each.image) for each in draw_clip(dataclasses.replace(SPEC, frames=24))]
    webcam = write_y4m(folder / "webcam.y4m", images)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        flags = [*FLAGS, f"--use-file-for-fake-video-capture={webcam}"]
        browser = playwright.chromium.launch(
            executable_path=chromium, headless=True, args=flags, handle_sigint=False, handle_sigterm=False
        )
        pages = []
        for source in ("camera", "webcam"):
            page = browser.new_context(permissions=["camera"]).new_page()
            page.goto(address)
            page.goto(address.partition("/?")[0] + "/#live")
            page.locator('.model[data-state="ready"]').wait_for(timeout=900_000)
            if source == "webcam":
                page.get_by_role("button", name="Stop").click()
                page.get_by_role("button", name="Start the webcam").click()
            page.locator(".picture[data-ticket]").wait_for(timeout=900_000)
            pages.append(page)
        yield pages
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
