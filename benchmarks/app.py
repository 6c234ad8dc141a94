"""Measures how fast the page is in a real Chromium: medians, and ratios to the model's own step on the same frame.

    python -m benchmarks.app                                # every row, 40 times
    python -m benchmarks.app --only scrub --repeats 10
    python -m benchmarks.app --json rows.jsonl              # keep the rows, and measure only those it lacks
    python -m benchmarks.app --json rows.jsonl --write      # and put the table into docs/app.md

Each row is a function of `Bench` listed in `ROWS`. The page itself measures times, from the event to the canvas.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from playwright.sync_api import Page, sync_playwright

import sam3ray
from benchmarks.pages import put
from sam3ray.app._static import static_files
from sam3ray.masks import encode_masks
from sam3ray.prompts import PointPrompt
from sam3ray.shapes import ClipSpec, draw_clip, write_clip
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import AnnotationWriter
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.values.clip import Clip
from sam3ray.video import Frame, VideoWriter

SHAPES = ClipSpec(seed=6, frames=24, width=320, height=180, objects=(2, 3))
POINT = (115.0, 33.0)  # on an object of it
LIVE_RATES = (2, 12, 30, 120)  # frames a second; the model is slower than most
WIDTH, HEIGHT, FRAMES, OBJECTS = 1920, 1080, 60, 20
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]

# From a click in the page to the mask on the canvas; then the prompt is cleared again.
CLICK = """([x, y]) => new Promise((done) => {
  const over = document.querySelector(".player .over"), box = over.getBoundingClientRect();
  const at = { bubbles: true, pointerId: 1, clientX: box.left + x * box.width, clientY: box.top + y * box.height };
  over.setPointerCapture = () => {};
  const began = performance.now();
  const seen = new MutationObserver(() => {
    if (!over.dataset.objects) return;
    seen.disconnect();
    const took = performance.now() - began;
    document.querySelector("[data-do=clear]").click();
    done(took);
  });
  seen.observe(over, { attributeFilter: ["data-objects"] });
  for (const name of ["pointerdown", "pointerup"]) over.dispatchEvent(new PointerEvent(name, at));
})"""

# From the scrub bar's event to the frame on the canvas, with its masks.
SCRUB = """(frame) => new Promise((done) => {
  const picture = document.querySelector(".player .picture"), bar = document.querySelector(".scrub");
  const began = performance.now();
  const seen = new MutationObserver(() => {
    if (picture.dataset.frame !== String(frame)) return;
    seen.disconnect();
    done([performance.now() - began, document.querySelector(".player .over").dataset.objects.split(" ").length]);
  });
  seen.observe(picture, { attributeFilter: ["data-frame"] });
  bar.value = frame;
  bar.dispatchEvent(new Event("input", { bubbles: true }));
})"""


# What the live view says of each picture that it draws: its age then, and the model's step, in milliseconds.
LIVE = """(count) => new Promise((done) => {
  const picture = document.querySelector(".live .picture"), rows = [];
  const figure = (name) => parseFloat([...document.querySelectorAll(".live .figures dt")]
    .find((each) => each.textContent === name)?.nextSibling.textContent);
  const end = () => { seen.disconnect(); done(rows); };
  const seen = new MutationObserver(() => setTimeout(() => {
    rows.push([figure("age of the frame"), figure("model's step")]);
    if (rows.length >= count) end();
  }));
  seen.observe(picture, { attributeFilter: ["data-ticket"] });
  setTimeout(end, 60000);
})"""

# When each page is ready.
READY = {
    "try": ".picture[data-frame='0']",
    "review": ".over[data-objects~='1']",
    "live": ".live",
}

# What the browser has loaded, from the network (`sent`) or not.
ENTRIES = """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
  .map(({ name, transferSize: sent, decodedBodySize: size }) => ({ name, sent, size }))"""


@dataclass(frozen=True)
class Row:
    """One line of the table. `figure` is compared with `target`; `more` says what else was measured."""

    row: str
    figure: str
    target: str
    more: str = ""


@dataclass(frozen=True)
class Load:
    """Bytes of one page until it is ready: of its scripts as they are, then of what goes over the network."""

    scripts: int
    sent: int
    again: int
    sent_scripts: int
    sent_pictures: int


class Bench:
    """A server with drawn clips, one browser, and a separately loaded model to compare with."""

    def __init__(self, folder: Path, stack: ExitStack, repeats: int) -> None:
        self.repeats = repeats
        self.folder, self._stack = folder, stack
        self.browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=shutil.which("chromium"), headless=True, args=_FLAGS
        )
        write_clip(SHAPES, folder / "shapes.mp4")
        (folder / "shapes.mp4.truth").unlink(missing_ok=True)

    def page_ready(self) -> Row:
        """From a browser with an empty cache opening the address until the first clip's first frame is drawn."""
        with served(self.folder / "shapes.mp4") as address:
            self._wait_for_model(address)
            times = [self._open(address) for _ in range(self.repeats)]
        return Row("page ready", f"{statistics.median(times):.2f} s", "1 s", "model loaded, browser's cache empty")

    def ready_before_the_model(self) -> Row:
        """The same while the model is still loading, and how long the command takes to print the address."""
        waits, times = [], []
        for _ in range(max(1, self.repeats // 10)):
            began = time.perf_counter()
            with served(self.folder / "shapes.mp4") as address:
                waits.append(time.perf_counter() - began)
                times.append(self._open(address))
        said = f"the command prints its address after {statistics.median(waits):.1f} s; the model comes later"
        return Row("page ready while the model loads", f"{statistics.median(times):.2f} s", "", said)

    def click_to_mask(self) -> Row:
        """From a click on an object until its mask is drawn, against the model's own time for the same click and
        frame: the first click on a frame, and another one.
        """
        model = sam3ray.load("embedded", device="cpu")
        images = [np.ascontiguousarray(each.image) for each in draw_clip(SHAPES)]
        first, more, steps = [], [], []
        with served(self.folder / "shapes.mp4") as address:
            page = self._wait_for_model(address)
            for n in range(self.repeats + 2):
                frame = 1 + n % (SHAPES.frames - 1)
                page.evaluate(SCRUB, frame)
                for times in (first, more):
                    times.append(page.evaluate(CLICK, [POINT[0] / SHAPES.width, POINT[1] / SHAPES.height]) / 1000)
                    page.wait_for_selector(".objects .empty")
                began = time.perf_counter()
                with model.session(SHAPES.height, SHAPES.width, "live") as session:
                    session.add(PointPrompt((POINT,), (True,), frame, 1))
                    session.step(Frame(frame, frame, 0.0, images[frame]))
                steps.append(time.perf_counter() - began)
                if n == 1:
                    first, more, steps = [], [], []  # all warm by now
        one, other, step = (statistics.median(each) for each in (first, more, steps))
        said = f"first click on a frame, another one: {1000 * one:.0f}, {1000 * other:.0f} ms against {1000 * step:.0f}"
        return Row("click to mask / model's step", f"{one / step:.2f}, {other / step:.2f}", "2", said)

    def scrub(self) -> Row:
        """From a jump to a random frame of a 1080p clip with 20 objects until it is drawn with its masks."""
        run = make_run(self.folder)
        chosen = random.Random(3)
        with served(run) as address:
            page = self._page(address)
            page.wait_for_selector(".picture[data-frame='0']")
            page.wait_for_timeout(5000)  # until its stills are made
            frames = [n % FRAMES for n in chosen.sample(range(1, 10 * FRAMES), self.repeats)]
            seen = [page.evaluate(SCRUB, n) for n in dict.fromkeys(each for each in frames if each)]
        assert all(count == OBJECTS for _, count in seen)
        first = statistics.median(each for each, _ in seen)
        return Row("scrub to a drawn frame, 1080p, 20 objects", f"{first:.0f} ms", "100 ms", "frames not shown before")

    def live(self) -> Row:
        """How old the live view's picture is when drawn, for sources slower and faster than the model."""
        found = {}
        images = [each.image for each in draw_clip(SHAPES)]
        for rate in LIVE_RATES:
            path = self.folder / f"live-{rate}.mp4"
            with VideoWriter(path, SHAPES.width, SHAPES.height, Fraction(1, rate), Fraction(rate)) as video:
                for n in range(rate * 60):
                    video.write(images[n * 12 // rate % len(images)], n)
            with served(path, "live", "--display", "--prompt", "red circle") as address:
                page = self.browser.new_context().new_page()
                page.goto(address)
                page.locator(".live .picture[data-ticket]").wait_for(timeout=180_000)
                times = page.evaluate(LIVE, self.repeats)
                page.context.close()
            age, step = (statistics.median(each) for each in zip(*times, strict=True))
            found[rate] = age / step, age, step
        figures = ", ".join(f"{ratio:.2f}" for ratio, _, _ in found.values())
        rates = ", ".join(map(str, LIVE_RATES))
        more = ", ".join(f"{age:.0f} ms of {step:.0f}" for _, age, step in found.values())
        return Row("age of the live picture", f"{figures} steps", "2 steps", f"sources of {rates} frames/s: {more}")

    def javascript(self) -> Row:
        """The size of the scripts that each page loads until it is ready, and of all."""
        scripts = {name: data for name, data in static_files().items() if name.endswith(".js")}
        source = resources.files("sam3ray.app").joinpath("static")
        written = sum(len(source.joinpath(name).read_bytes()) for name in scripts)
        sent, packed = (sum(map(len, each)) for each in (scripts.values(), map(gzip.compress, scripts.values())))
        said = (
            f"Try, Review, Live, as they are sent; all of it: {sent / 1000:.1f} kB, {packed / 1000:.1f} kB gzipped; "
            f"{written / 1000:.1f} kB as written; no library"
        )
        sizes = ", ".join(f"{each.scripts / 1000:.1f}" for each in self._loads().values())
        return Row("JavaScript that a page loads until it is ready", f"{sizes} kB", "60 kB", said)

    def transfer(self) -> Row:
        """What goes over the network until each page is ready, headers included, and what on the next visit."""
        loads = self._loads().values()
        first, again, scripts, pictures = (
            ", ".join(f"{getattr(each, name) / 1000:.1f}" for each in loads)
            for name in ("sent", "again", "sent_scripts", "sent_pictures")
        )
        said = f"Try, Review, Live; scripts {scripts} kB, pictures {pictures} kB; on the next visit {again} kB"
        return Row("sent until a page is ready", f"{first} kB", "", said)

    @cache  # noqa: B019 - there is one of it
    def _loads(self) -> dict[str, Load]:
        with served(make_run(self.folder), "app", str(self.folder / "shapes.mp4")) as address:
            self._wait_for_model(f"{address}#try")
            return {page: self._load(address, page, ready) for page, ready in READY.items()}

    def _load(self, address: str, page_name: str, ready: str) -> Load:
        with self.browser.new_context(viewport={"width": 1280, "height": 720}) as context:
            page, found = context.new_page(), []
            for where in (f"{address}#{page_name}", "about:blank", f"{address}#{page_name}"):
                page.goto(where)
                if where != "about:blank":
                    page.wait_for_selector(ready, timeout=240_000)
                    page.wait_for_timeout(1000)  # for the pictures of the list
                    found.append(page.evaluate(ENTRIES))
        first, again = found

        def sent(entries: list[dict[str, Any]], *kinds: str) -> int:
            return sum(each["sent"] for each in entries if each["name"].endswith(kinds))

        scripts = sum(each["size"] for each in first if each["name"].endswith(".js"))
        return Load(scripts, sent(first, ""), sent(again, ""), sent(first, ".js"), sent(first, "/thumb", "/0"))

    def _page(self, address: str) -> Page:
        context = self.browser.new_context(viewport={"width": 1280, "height": 720})
        self._stack.callback(context.close)
        page = context.new_page()
        page.set_default_timeout(240_000)
        page.goto(address)
        return page

    def _open(self, address: str) -> float:
        with self.browser.new_context(viewport={"width": 1280, "height": 720}) as context:
            page = context.new_page()
            began = time.perf_counter()
            page.goto(address, wait_until="commit")
            page.wait_for_selector(".picture[data-frame='0']", timeout=240_000)
            return time.perf_counter() - began

    def _wait_for_model(self, address: str) -> Page:
        page = self._page(address)
        page.wait_for_selector(".model[data-state=ready]")
        page.wait_for_selector(".picture[data-frame='0']")
        return page


ROWS: dict[str, Callable[[Bench], Row]] = {
    "ready": Bench.page_ready,
    "loading": Bench.ready_before_the_model,
    "click": Bench.click_to_mask,
    "scrub": Bench.scrub,
    "live": Bench.live,
    "javascript": Bench.javascript,
    "transfer": Bench.transfer,
}


@contextmanager
def served(source: Path, verb: str = "app", *options: str) -> Iterator[str]:
    """Runs `sam3ray app` or `sam3ray live` with a source; yields its address."""
    command = [sys.executable, "-m", "sam3ray", verb, str(source), "--checkpoint", "embedded", "--no-browser", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(30)


def make_run(folder: Path) -> Path:
    """Makes a run with one 1080p clip, in which 20 large ellipses move."""
    chosen = np.random.default_rng(5)
    centres = chosen.uniform((150, 150), (WIDTH - 150, HEIGHT - 150), (OBJECTS, 2))
    ways, axes = chosen.uniform(-4, 4, (OBJECTS, 2)), chosen.integers(40, 140, (OBJECTS, 2))
    ground = cv2.GaussianBlur(chosen.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 9)
    path, rows = folder / "wide.mp4", []
    with VideoWriter(path, WIDTH, HEIGHT, Fraction(1, 30), Fraction(30)) as video:
        for n in range(FRAMES):
            image, objects = ground.copy(), []
            for k in range(OBJECTS):
                mask = np.zeros((HEIGHT, WIDTH), np.uint8)
                x, y = (centres[k] + n * ways[k]).astype(int).tolist()
                cv2.ellipse(mask, (x, y), tuple(axes[k].tolist()), 20 * k, 0, 360, 1, -1)
                image[mask > 0] = (37 * k % 255, 91 * k % 255, 200)
                found = encode_masks(mask[None].astype(bool))[0]
                box = tuple(float(v) for v in found.bbox)
                objects.append(ObjectAnnotation(k + 1, "ellipse", 0.9, 0.9, box, found.area, found.rle))
            video.write(image, n)
            rows.append(FrameAnnotations(n, n, n / 30, HEIGHT, WIDTH, tuple(objects)))
    store = RunStore(str(folder / "wide"))
    store.create_or_open({"benchmark": 1}, {}, [Clip("wide", str(path), ("ellipse",))])
    facts = {"uri": str(path), "source_fps": 30.0, "time_base": "1/30", "height": HEIGHT, "width": WIDTH}
    with AnnotationWriter(folder / "rows.parquet", "wide", {"clip": facts}) as writer:
        for row in rows:
            writer.write(row)
        writer.finish()
    store.commit("wide", folder / "rows.parquet")
    return folder / "wide"


def table(rows: list[Row]) -> str:
    lines = ["| what | median | at most | |", "| --- | --- | --- | --- |"]
    return "\n".join(lines + [f"| {each.row} | {each.figure} | {each.target} | {each.more} |" for each in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--only", action="append", choices=ROWS, help="repeatable")
    parser.add_argument("--json", type=Path, help="file of rows, added to")
    parser.add_argument("--write", action="store_true", help="put the table into docs/app.md")
    options = parser.parse_args()
    kept = [json.loads(line) for line in options.json.read_text().splitlines()] if _exists(options.json) else []
    done: dict[str, dict[str, Any]] = {each.pop("name"): each for each in kept}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bench = Bench(Path(folder), stack, options.repeats)
        for name in options.only or ROWS:
            if name in done:
                continue
            done[name] = vars(ROWS[name](bench))
            print(json.dumps({"name": name, **done[name]}), file=sys.stderr, flush=True)
            if options.json:
                with options.json.open("a") as file:
                    file.write(json.dumps({"name": name, **done[name]}) + "\n")
    text = table([Row(**done[name]) for name in ROWS if name in done])
    print(text)
    if options.write:
        put("app.md", "benchmarks/app.py", text)


def _exists(path: Path | None) -> bool:
    return path is not None and path.exists()


if __name__ == "__main__":
    main()
