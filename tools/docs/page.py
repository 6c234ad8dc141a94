"""Takes the pictures of the page in docs/app.md: real clips and the embedded checkpoint, in a real Chromium.

    python -m tools.docs.page docs

Each picture is a JPEG of 1280x720 pixels, as good as fits into the size that `PICTURES` allows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sam3ray.failures import Failure, Reason
from sam3ray.shapes import ClipSpec, draw_clip, write_clip
from sam3ray.store import RunStore
from sam3ray.values.clip import Clip

PICTURES = {"app-try.jpg": 78_000, "app-review.jpg": 56_000, "app-live.jpg": 36_000}  # bytes, at most
WIDTH, HEIGHT = 1280, 720
FIRST = ClipSpec(seed=6, frames=24, width=320, height=180, objects=(2, 3))
SECOND = ClipSpec(seed=11, frames=12, width=320, height=180, objects=(3, 4))
SEEN_BY_WEBCAM = ClipSpec(seed=6, frames=12, width=640, height=360, objects=(2, 3))
_PATIENCE_MS = 300_000.0
_FLAGS = ("--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    folder = parser.parse_args().folder
    expect.set_options(timeout=_PATIENCE_MS)
    with tempfile.TemporaryDirectory() as made, browser(write_webcam(Path(made) / "webcam.y4m")) as chromium:
        with served() as address:
            page = opened(chromium, address)
            take_try(page)
            save(page, folder / "app-try.jpg")
        with served(str(make_run(Path(made))), "--author", "ann") as address:
            page = opened(chromium, address)
            take_review(page)
            save(page, folder / "app-review.jpg")
            take_live(page)
            save(page, folder / "app-live.jpg")


def take_try(page: Page) -> None:
    """Two phrases, run on the first drawn clip."""
    for phrase in ("red triangle", "star"):
        page.get_by_label("Phrase to look for").fill(phrase)
        page.get_by_label("Phrase to look for").press("Enter")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".panel .status").first).to_contain_text("Done")
    expect(page.locator(".over")).to_have_attribute("data-objects", "1 2 3")


def take_review(page: Page) -> None:
    """One object renamed, on a frame in the middle."""
    page.locator(".clips button").filter(has_text="first").click()
    expect(page.locator(".clips button.chosen")).to_contain_text("first")
    page.get_by_label("Frame number").fill("9")
    page.get_by_label("Frame number").press("Enter")
    page.locator(".timeline .name").first.click()
    page.get_by_label("Label").fill("ball")
    page.get_by_label("Label").press("Enter")
    expect(page.locator(".history")).to_contain_text("ball")
    expect(page.locator(".player .picture")).to_have_attribute("data-frame", "9")


def take_live(page: Page) -> None:
    """A webcam, and two phrases."""
    page.get_by_role("link", name="Live").click()
    for phrase in ("red circle", "square"):
        page.get_by_label("Phrase to look for").fill(phrase)
        page.get_by_label("Phrase to look for").press("Enter")
    page.get_by_role("button", name="Start the webcam").click()
    expect(page.locator(".live .objects li")).to_have_count(2)
    page.wait_for_timeout(2500)  # the rate counts the last two seconds
    expect(page.locator(".live .over")).to_have_attribute("data-objects", "1 2")


def save(page: Page, path: Path) -> None:
    """With the highest quality that the size allows."""
    page.mouse.move(1, 1)  # away from what lights up
    expect(page.locator(".toast")).to_have_count(0)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for quality in range(95, 40, -1):
        data = io.BytesIO()
        image.save(data, "JPEG", quality=quality, optimize=True, progressive=True)
        if data.tell() <= PICTURES[path.name]:
            break
    path.write_bytes(data.getvalue())
    print(f"{path}: {data.tell()} bytes, quality {quality}", file=sys.stderr)


@contextlib.contextmanager
def browser(webcam: Path) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        arguments = [*_FLAGS, f"--use-file-for-fake-video-capture={webcam}"]
        chromium = playwright.chromium.launch(executable_path=program, headless=True, args=arguments)
        yield chromium
        chromium.close()


def opened(chromium: Browser, address: str) -> Page:
    """The page, once the model is there."""
    context = chromium.new_context(
        viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", permissions=["camera"]
    )
    page = context.new_page()
    page.set_default_timeout(_PATIENCE_MS)
    page.goto(address)
    expect(page.locator(".model")).to_have_attribute("data-state", "ready")
    expect(page.locator(".clips img")).not_to_have_count(0)
    return page


@contextlib.contextmanager
def served(*sources: str) -> Iterator[str]:
    """The address of `sam3ray app`; without sources it shows the demo's clips."""
    command = [sys.executable, "-m", "sam3ray", "app", *sources, "--checkpoint", "embedded", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def make_run(folder: Path) -> Path:
    """A run of three clips: two whose rows are the truth, and one that failed."""
    store = RunStore(str(folder / "run"))
    specs = {"first": FIRST, "second": SECOND}
    clips = [Clip(name, str(folder / f"{name}.mp4"), ("circle", "square", "star")) for name in (*specs, "broken")]
    settings = {"output": str(folder / "run"), "model": {"checkpoint": "embedded"}}
    store.create_or_open({"schema_version": 1}, settings, clips)
    for name, spec in specs.items():
        write_clip(spec, folder / f"{name}.mp4", folder / f"{name}.parquet")
        store.commit(name, folder / f"{name}.parquet")
    store.record_failure(Failure("broken", Reason.NOT_FOUND, "the file does not exist", final=True))
    return folder / "run"


def write_webcam(path: Path) -> Path:
    """What Chromium's webcam shows, in a loop."""
    spec = SEEN_BY_WEBCAM
    with open(path, "wb") as file:
        file.write(f"YUV4MPEG2 W{spec.width} H{spec.height} F12:1 Ip A1:1 C420mpeg2\n".encode())
        for each in draw_clip(spec):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(each.image), format="rgb24")
            file.write(b"FRAME\n")
            for plane in frame.reformat(format="yuv420p").planes:
                rows = np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, plane.line_size)
                file.write(rows[:, : plane.width].tobytes())
    return path


if __name__ == "__main__":
    main()
