"""One server and one browser for all tests of the page."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sam3ray.shapes import ClipSpec, draw_clip, write_clip
from tests.video.media import MATRICES, set_display_matrix, write_video

sync_api = pytest.importorskip("playwright.sync_api")

SECONDS = 180_000  # milliseconds that anything may take on a busy machine
sync_api.expect.set_options(timeout=SECONDS)

SPEC = ClipSpec(seed=6, frames=24, width=320, height=180, objects=(2, 3))
WIDTH, HEIGHT, COUNT = 160, 96, 48
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    # The last of its kind holds: three of ours, then those that Playwright turns off. Without ours each window has
    # three processes more, for the address bar that nobody sees and for a page to come: .6 CPU s.
    "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup,SpareRendererForSitePerProcess,"
    "AvoidUnnecessaryBeforeUnloadCheckSync,DestroyProfileOnBrowserClose,HttpsUpgrades,HttpsFirstBalancedModeAutoEnable,"
    "LensOverlay,MediaRouter,PaintHolding,ThirdPartyStoragePartitioning,AvoidCorsURLLoaderRestartOnRedirect,"
    "OptimizationHints,NetworkTimeServiceQuerying,AimEnabled,PreconnectToSearch",
]


def numbered(index: int) -> np.ndarray:
    """The frame's number as bits: eight blocks across the middle, the lowest on the left."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for bit in range(8):
        image[24:72, 20 * bit : 20 * bit + 20] = 235 if index >> bit & 1 else 20
    return image


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of numbered videos of every awkward kind, and one clip with objects."""
    folder = tmp_path_factory.mktemp("page") / "videos"
    folder.mkdir()
    images = [numbered(n) for n in range(COUNT)]
    turned = [np.ascontiguousarray(np.rot90(image)) for image in images]  # a player turns them back, clockwise
    ntsc = [round(n * 1001 * 3) for n in range(COUNT)]
    uneven = [sum(20 + 37 * (k * k % 5) for k in range(n)) for n in range(COUNT)]
    write_video(folder / "ntsc.mp4", COUNT, (WIDTH, HEIGHT), images=images, pts=ntsc, time_base=_fraction(1, 90_000))
    write_video(folder / "b-frames.mp4", COUNT, (WIDTH, HEIGHT), images=images, options={"bf": "4"})
    write_video(folder / "uneven.mp4", COUNT, (WIDTH, HEIGHT), images=images, pts=uneven)
    write_video(folder / "hevc.mp4", COUNT, (WIDTH, HEIGHT), images=images, codec="libx265")
    rotated = write_video(folder / "rotated.mp4", COUNT, (HEIGHT, WIDTH), images=turned)
    assert "clockwise" in MATRICES
    set_display_matrix(rotated, "clockwise")
    write_clip(SPEC, folder / "shapes.mp4")
    (folder / "shapes.mp4.truth").unlink(missing_ok=True)
    return folder


def _fraction(a: int, b: int) -> Any:
    from fractions import Fraction

    return Fraction(a, b)


class Served:
    """A `sam3ray app` (or `live --display`) of our own. Attributes: address (with the token), origin, process."""

    def __init__(self, *arguments: str, verb: str = "app") -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sam3ray", verb, *arguments, "--no-browser"],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert "token=" in self.address, "the server did not start"
        self.origin = self.address.partition("/?")[0]
        self.token = self.address.partition("token=")[2]

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def server(videos: Path) -> Iterator[Served]:
    served = Served(str(videos), "--checkpoint", "embedded")
    yield served
    served.close()


def live_picture(number: int, image: np.ndarray) -> np.ndarray:
    """A picture with its number as bits along its lower edge."""
    height, width = image.shape[:2]
    image = image.copy()
    for bit in range(8):
        image[height - 24 :, width * bit // 8 : width * (bit + 1) // 8] = 235 if number >> bit & 1 else 20
    return image


def write_y4m(path: Path, images: list[np.ndarray]) -> Path:
    """What Chromium's fake webcam shows, in a loop."""
    height, width = images[0].shape[:2]
    with open(path, "wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F12:1 Ip A1:1 C420mpeg2\n".encode())
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format="yuv420p")
            file.write(b"FRAME\n")
            for plane in frame.planes:
                rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
                file.write(rows[:, : plane.width].tobytes())
    return path


@pytest.fixture(scope="session")
def webcam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = dataclasses.replace(SPEC, width=640, height=360, frames=12)
    images = [live_picture(frame.index, frame.image) for frame in draw_clip(spec)]
    return write_y4m(tmp_path_factory.mktemp("webcam") / "webcam.y4m", images)


@pytest.fixture(scope="module")  # its event loop must not run on under other tests
def browser(webcam: Path) -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, headless=True, args=[*FLAGS, f"--use-file-for-fake-video-capture={webcam}"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens an address in a window of its own; fails on errors of the script, and on requests to anywhere else."""
    contexts, problems = [], []

    def watched(page: Any, origin: str) -> Any:
        page.on("pageerror", lambda error: problems.append(f"script error: {error}"))
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.partition("://")[2].startswith(f"{origin}/")
                or request.url.startswith(("blob:", "data:"))
                else problems.append(f"request to {request.url}")
            ),
        )
        page.on("popup", lambda copy: watched(copy, origin))
        page.sent = []  # what goes through its socket
        page.pictures = {}  # of a live view: ticket -> JPEG

        def sent(payload: str | bytes) -> None:
            if isinstance(payload, bytes):
                page.pictures[int.from_bytes(payload[:4], "big")] = payload[4:]
            else:
                page.sent.append(json.loads(payload))

        page.on("websocket", lambda socket: socket.on("framesent", sent))
        return page

    def open_one(
        address: str, size: tuple[int, int] = (1280, 720), prepare: Callable[[Any], None] | None = None, **options: Any
    ) -> Any:
        """`prepare` gets the page before it goes to the address."""
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        context.set_default_timeout(SECONDS)
        contexts.append(context)
        page = watched(context.new_page(), address.partition("/?")[0].partition("://")[2])
        if prepare is not None:
            prepare(page)
        page.goto(address)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def holding(server: Served, open_page: Callable[..., Any]) -> Callable[..., tuple[Any, Callable[[], None]]]:
    """Opens the page while requests that fit a pattern wait; the function that comes with it lets them go."""

    def open_one(pattern: str, hash_: str = "", **options: Any) -> tuple[Any, Callable[[], None]]:
        waiting: list[Any] = []
        free: list[bool] = []

        def arrived(route: Any) -> None:
            if free:
                route.continue_()
            else:
                waiting.append(route)

        page = open_page(server.address + hash_, prepare=lambda page: page.route(pattern, arrived), **options)

        def release() -> None:
            until(page, lambda: waiting)
            free.append(True)
            for each in waiting:
                each.continue_()

        return page, release

    return open_one


def tap(page: Any, hears: Callable[[str], bool] = lambda _: True) -> list[Any]:
    """The page's sockets as they come, with `asked`: what the page has sent. `hears` says what reaches the page."""
    sockets: list[Any] = []

    def through(socket: Any) -> None:
        server = socket.connect_to_server()
        socket.asked = []
        socket.on_message(lambda text: (socket.asked.append(json.loads(text)), server.send(text)))
        server.on_message(lambda text: hears(text) and socket.send(text))
        sockets.append(socket)

    page.route_web_socket("**/ws", through)
    return sockets


def until(page: Any, question: Callable[[], Any], seconds: float = SECONDS / 1000) -> Any:
    """What `question` says once it says something. The page's events arrive meanwhile."""
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, "it did not come to that in time"
        page.wait_for_timeout(30)
    return answer


def make_reviewed(folder: Path) -> Path:
    """A finished run whose annotations are the truth of two drawn clips; a third clip has failed."""
    from sam3ray.failures import Failure, Reason
    from sam3ray.manifest import Clip
    from sam3ray.store import RunStore

    specs = {"first": SPEC, "second": ClipSpec(seed=11, frames=12, width=320, height=180, objects=(3, 4))}
    store = RunStore(str(folder / "run"))
    clips = [Clip(name, str(folder / f"{name}.mp4"), ("circle", "square", "star")) for name in (*specs, "broken")]
    store.create_or_open(
        {"schema_version": 1}, {"output": str(folder / "run"), "model": {"checkpoint": "embedded"}}, clips
    )
    for name, spec in specs.items():
        write_clip(spec, folder / f"{name}.mp4", folder / f"{name}.parquet")
        assert store.commit(name, folder / f"{name}.parquet")
    store.record_failure(Failure("broken", Reason.NOT_FOUND, "the file does not exist", final=True))
    return folder / "run"
