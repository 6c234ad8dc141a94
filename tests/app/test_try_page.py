"""Trying prompts in a real browser on real files."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import random
import re
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

import sam3ray
from sam3ray.app import AppOptions
from sam3ray.app._library import Library
from sam3ray.app._static import PAGES, scripts_of, static_files, version
from sam3ray.app._uploads import Uploads
from sam3ray.config import config_from_text
from sam3ray.failures import UserError
from sam3ray.masks import encode_masks
from sam3ray.values.prompt_reading import parse_visual_prompts
from tests.app.conftest import COUNT, SPEC, tap, until

from playwright.sync_api import expect  # isort: skip

ON_EVERY_PAGE = ("main", "api", "dom", "colours", "keys")
_CLIPS = ("clip_view", "player", "stage", "masks", "prompts", "pointer", "timeline")
OF_PAGES = {"try": ("try", *_CLIPS), "review": ("review", *_CLIPS), "live": ("live", "stage", "masks", "pointer")}


def choose(page: Any, name: str) -> None:
    page.locator(".clips button").filter(has_text=name).first.click()
    expect(page.locator(".clips button.chosen")).to_contain_text(name)
    expect(page.locator(".picture")).to_have_attribute("data-frame", "0")


def go_to(page: Any, frame: int) -> None:
    page.get_by_label("Frame number").fill(str(frame))
    page.get_by_label("Frame number").press("Enter")
    page.evaluate("document.activeElement.blur()")
    expect(page.locator(".player .picture")).to_have_attribute("data-frame", str(frame))


def shown_number(page: Any) -> int:
    """The number on the frame that the canvas shows."""
    return page.evaluate(
        """() => { const canvas = document.querySelector(".picture"), context = canvas.getContext("2d");
        let number = 0;
        for (let bit = 0; bit < 8; bit++)
          if (context.getImageData(20 * bit + 10, 48, 1, 1).data[1] > 128) number |= 1 << bit;
        return number; }"""
    )


def point_at(page: Any, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the video is in the window."""
    box = page.locator(".over").bounding_box()
    width, height = page.evaluate("() => { const c = document.querySelector('.picture'); return [c.width, c.height]; }")
    return box["x"] + x / width * box["width"], box["y"] + y / height * box["height"]


def orders(page: Any, preview: bool) -> list[dict[str, Any]]:
    return [each for each in page.sent if each.get("do") == "run" and bool(each.get("preview")) is preview]


def wait_for_model(page: Any) -> None:
    expect(page.locator(".model")).to_have_attribute("data-state", "ready")


def status(page: Any) -> Any:
    return page.locator(".status").first


def rows_of(page: Any, server: Any) -> list[dict[str, Any]]:
    """The Parquet that the page offers."""
    with page.expect_download() as waited:
        page.get_by_role("button", name="Parquet", exact=True).click()
    return pq.read_table(waited.value.path()).to_pylist()


def plain(frames: Any) -> list[tuple[Any, ...]]:
    return [(f.frame_index, o.object_id, o.prompt, o.rle) for f in frames for o in f.objects]


def plain_rows(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(r["frame_index"], r["object_id"], r["prompt"], r["segmentation"]["counts"]) for r in rows]


@pytest.fixture(scope="module")
def model() -> sam3ray.Model:
    return sam3ray.load("embedded", device="cpu")


def test_every_frame_is_the_one_asked_for(server, open_page):
    page = open_page(server.address)
    chosen = random.Random(7)
    for name in ("ntsc", "b-frames", "uneven", "hevc", "rotated"):
        choose(page, name)
        assert page.evaluate("() => document.querySelector('.picture').width") == 160
        for frame in chosen.sample(range(COUNT), 6):
            go_to(page, frame)
            assert shown_number(page) == frame, (name, frame)
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        expect(page.locator(".picture")).to_have_attribute("data-frame", str(max(0, frame - 2)))


def test_a_drag_over_the_bar_shows_frames_on_its_way(server, open_page):
    page = open_page(server.address)
    choose(page, "b-frames")
    shown = page.evaluate(
        """(last) => new Promise((done) => {
      const picture = document.querySelector(".picture"), bar = document.querySelector(".scrub"), shown = [];
      new MutationObserver(() => {
        if (picture.dataset.frame === (shown.at(-1) ?? "0")) return; // drawn once more
        shown.push(picture.dataset.frame);
        if (picture.dataset.frame === String(last)) done(shown);
      }).observe(picture, { attributeFilter: ["data-frame"] });
      for (let n = 1; n <= last; n++) {
        bar.value = n;
        bar.dispatchEvent(new Event("input", { bubbles: true }));
      }
    })""",
        COUNT - 1,
    )
    assert shown == ["1", str(COUNT - 1)]  # the first, and what is wanted when it is there


def test_masks_painted_coarsely_are_where_the_fine_ones_are(server, open_page):
    page = open_page(server.address)
    mask = np.zeros((1, 300, 500), bool)
    mask[0, 41:130, 77:201] = True
    found = encode_masks(mask)[0]
    thing = {"rle": found.rle, "box": [float(v) for v in found.bbox], "colour": [9, 9, 9], "fill": 1, "edge": 1}
    covered = [
        page.evaluate(
            """(asked) => new Promise((done) => {
          const near = document.querySelector("[rel=modulepreload]").href;
          const worker = new Worker(new URL("mask_worker.js", near), { type: "module" });
          worker.onmessage = (event) => {
            const { bitmap, place } = event.data.painted;
            const context = new OffscreenCanvas(500, 300).getContext("2d");
            context.imageSmoothingEnabled = false;
            context.drawImage(bitmap, ...place);
            const { data } = context.getImageData(0, 0, 500, 300), painted = [];
            for (let n = 0; n < 150_000; n++) if (data[4 * n + 3]) painted.push(n);
            done(painted);
          };
          worker.postMessage(asked);
        })""",
            {"id": 1, "width": 500, "height": 300, "grain": grain, "objects": [thing]},
        )
        for grain in (1, 4)
    ]
    fine, coarse = (np.unravel_index(each, (300, 500)) for each in covered)
    assert sorted(covered[0]) == np.flatnonzero(mask).tolist()
    for a, b in zip(fine, coarse, strict=True):
        assert abs(int(a.min()) - int(b.min())) <= 2
        assert abs(int(a.max()) - int(b.max())) <= 2


@pytest.mark.parametrize("size", [(1280, 720), (1900, 1000), (900, 640)])
def test_a_click_is_on_the_pixel_that_it_is_on(server, open_page, size):
    page = open_page(server.address, size)
    choose(page, "shapes")
    page.mouse.click(*point_at(page, 115.25, 33.5))
    page.mouse.click(*point_at(page, 300, 170), button="right")
    clicked = until(page, lambda: [o for o in orders(page, True) if len(o["visual"][0]["points"]) == 2])[-1]["visual"][
        0
    ]
    for (x, y), wanted in zip(clicked["points"], ((115.25, 33.5), (300, 170)), strict=True):
        assert abs(x - wanted[0]) <= 0.5
        assert abs(y - wanted[1]) <= 0.5
    assert clicked["labels"] == [1, 0]


def test_keys_include_exclude_finish_and_clear(server, open_page):
    page = open_page(server.address)
    choose(page, "shapes")
    objects = page.locator(".objects li:not(.empty)")
    page.mouse.move(*point_at(page, 115, 33))
    page.keyboard.press("q")
    page.mouse.move(*point_at(page, 200, 150))
    page.keyboard.press("e")
    assert until(page, lambda: orders(page, True))[-1]["visual"][0]["labels"] in ([1], [1, 0])
    expect(objects).to_have_count(1)
    page.keyboard.press("f")
    page.mouse.click(*point_at(page, 60, 120))
    expect(objects).to_have_count(2)  # finished: another object
    page.get_by_role("button", name="Select object 1").press("Enter")
    expect(objects.first).to_have_class("chosen")
    page.get_by_role("button", name="Select object 2").press("Space")
    expect(objects.last).to_have_class("chosen")
    start, end = point_at(page, 100, 20), point_at(page, 140, 60)
    page.keyboard.press("f")
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()
    expect(objects).to_have_count(3)
    box = until(page, lambda: [v for o in orders(page, True) for v in o["visual"] if "box" in v])[-1]["box"]
    assert all(abs(a - b) <= 1 for a, b in zip(box, (100, 20, 140, 60), strict=True))
    page.keyboard.press("b")
    expect(objects).to_have_count(2)
    page.get_by_label("Name of object 2").fill('<img src=x onerror="alert(1)">‮')
    page.get_by_label("Name of object 2").press("Enter")
    assert page.locator("main img[src=x]").count() == 0  # a dialog or an error would fail `open_page`


def test_the_keys_of_the_page_are_listed(server, open_page):
    page = open_page(server.address)
    page.locator(".picture[data-frame='0']").wait_for()
    page.keyboard.press("?")
    listed = page.get_by_role("dialog").get_by_role("row")
    expect(listed.filter(has_text="Stop, keep what is done")).to_have_text(re.compile("^Esc"))
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_a_phrase_gives_the_rows_of_the_job(server, open_page, videos, model):
    page = open_page(server.address)
    wait_for_model(page)
    choose(page, "shapes")
    page.keyboard.press("/")
    page.keyboard.type("red circle")
    page.keyboard.press("Enter")
    expect(page.locator(".chip").first).to_contain_text("red circle")
    page.get_by_label("Phrase to look for").press("Escape")
    expect(page.locator(".over")).not_to_have_attribute("data-objects", "")  # at once, on this frame
    page.get_by_role("button", name="Run", exact=True).click()
    expect(status(page)).to_have_text(f"Done: {SPEC.frames} frames.")
    expected = list(sam3ray.segment_video(videos / "shapes.mp4", ["red circle"], model=model))
    assert plain_rows(rows_of(page, server)) == plain(expected)
    page.keyboard.press("Space")
    expect(page.locator(".picture")).to_have_attribute("data-frame", str(SPEC.frames - 1))
    page.reload()
    expect(status(page)).to_be_attached()
    choose(page, "shapes")
    expect(page.locator(".timeline .name")).to_have_count(len({o for _, o, *_ in plain(expected)}))


def test_several_objects_both_ways_and_a_job_of_them(server, open_page, videos, model):
    page = open_page(server.address)
    wait_for_model(page)
    choose(page, "shapes")
    for each in page.get_by_role("button", name="Remove").all():
        each.click()
    go_to(page, 12)
    page.mouse.click(*point_at(page, 115, 33))
    page.keyboard.press("f")
    page.mouse.click(*point_at(page, 115, 34))
    page.get_by_role("radio", name="Both ways").click()
    page.get_by_role("button", name="Run", exact=True).click()
    expect(status(page)).to_have_text(f"Done: {SPEC.frames} frames.")
    sent = orders(page, False)[-1]
    prompts, problems = parse_visual_prompts(sent["visual"])
    assert not problems
    expected = sam3ray.track_video(
        videos / "shapes.mp4", prompts, prompts=sent["phrases"], direction="both", model=model
    )
    rows = plain_rows(rows_of(page, server))
    assert {o for _, o, *_ in rows} >= {1, 2}
    own = {row for row in plain(expected) if row[1] in (1, 2)}
    assert {row for row in rows if row[1] in (1, 2)} == own
    downloads: dict[str, str] = {}
    page.on("download", lambda each: downloads.setdefault(each.suggested_filename, each.path().read_text()))
    page.get_by_label("Phrase to look for").fill("red circle")
    page.get_by_label("Phrase to look for").press("Enter")
    page.get_by_label("New object from score").evaluate(  # what no run has had yet is in the job, too
        "(input) => { input.value = 0.8; input.dispatchEvent(new Event('input', { bubbles: true })); }"
    )
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("f")
    page.mouse.click(*point_at(page, 60, 120))
    page.get_by_role("button", name="Save as job").click()
    until(page, lambda: len(downloads) == 2)
    config = config_from_text(downloads["job.yaml"], "job.yaml")
    assert (config.prompts, config.tracking.new_det_thresh) == (("red circle",), 0.8)
    assert config.tracking.direction == "both"
    rows_of_job = [json.loads(line) for line in downloads["clips.jsonl"].splitlines()]
    (prompted,) = (json.loads(row["visual_prompts"]) for row in rows_of_job if "visual_prompts" in row)
    assert {each["object_id"] for each in prompted} == {1, 2, 3}
    assert len(rows_of_job) >= 6
    notes = page.locator(".toast", has_text="Saved job.yaml")
    expect(notes).to_contain_text("those of the clip that is open")
    expect(notes).to_contain_text("phrases from the first frame")


def test_a_box_finds_everything_like_it(server, open_page):
    page = open_page(server.address)
    wait_for_model(page)
    choose(page, "b-frames")
    page.keyboard.press("w")
    start, end = point_at(page, 20, 24), point_at(page, 40, 72)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=4)
    page.mouse.up()
    asked = until(page, lambda: orders(page, True))[-1]["exemplars"]
    assert [(each["frame"], each["labels"]) for each in asked] == [(0, [1])]
    assert all(abs(a - b) <= 1 for a, b in zip(asked[0]["boxes"][0], (20, 24, 40, 72), strict=True))
    page.get_by_label("Last frame of the range").fill("1")
    page.get_by_label("Last frame of the range").press("Enter")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(status(page)).to_have_text("Done: 2 frames.")
    assert orders(page, False)[-1]["exemplars"] == asked
    page.get_by_role("button", name="Remove the boxes of frame 0").click()
    expect(page.locator(".chip", has_text="like the box")).to_have_count(0)


def model_process(server: Any) -> psutil.Process:
    children = psutil.Process(server.process.pid).children(recursive=True)
    return max(children, key=lambda each: each.memory_info().rss)


@contextlib.contextmanager
def paused(server: Any) -> Iterator[None]:
    """The model stands still: what the page does meanwhile does not race with it."""
    model = model_process(server)
    model.suspend()
    try:
        yield
    finally:
        model.resume()


def test_stopping_keeps_what_is_done_and_others_wait_their_turn(server, open_page):
    first, second = open_page(server.address), open_page(server.address)
    for page in (first, second):
        wait_for_model(page)
        choose(page, "ntsc")
        page.get_by_label("Phrase to look for").fill("circle, square, star, triangle, cross, ring")
        page.get_by_label("Phrase to look for").press("Enter")
    first.get_by_role("button", name="Run", exact=True).click()
    expect(status(first)).to_contain_text("steps")
    with paused(server):
        second.get_by_role("button", name="Run", exact=True).click()
        expect(status(second)).to_contain_text("place 1 in the queue")
        first.get_by_role("button", name="Stop, keep what is done").click()
        until(first, lambda: first.sent[-1]["do"] == "cancel")
    expect(status(first)).to_contain_text("frames are kept")
    kept = int(status(first).inner_text().split()[1])
    assert 0 < kept < COUNT
    expect(status(second)).to_contain_text("steps")
    with paused(server):
        second.keyboard.press("Escape")
        until(second, lambda: second.sent[-1]["do"] == "cancel")
    expect(status(second)).to_contain_text("Stopped")


def test_a_crash_of_the_model_loses_nothing_and_says_so(server, open_page):
    page = open_page(server.address)
    wait_for_model(page)
    choose(page, "ntsc")
    page.get_by_label("Phrase to look for").fill("circle, square, star, triangle, cross")
    page.get_by_label("Phrase to look for").press("Enter")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(status(page)).to_contain_text("steps")
    model_process(server).kill()
    expect(status(page)).to_contain_text("What was found is kept")
    wait_for_model(page)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(status(page)).to_contain_text("steps")
    with paused(server):
        page.keyboard.press("Escape")
        until(page, lambda: page.sent[-1]["do"] == "cancel")
    expect(status(page)).to_contain_text("Stopped")


def test_what_the_model_does_is_a_field_of_its_message_and_no_word_in_it(server, open_page):
    sockets: list[Any] = []
    page = open_page(server.address, prepare=lambda page: sockets.append(tap(page)))
    wait_for_model(page)
    for state, message in (("loading", "it ended up on a slow node"), ("restarting", "its node is gone")):
        sockets[0][0].send(json.dumps({"event": "model", "state": state, "message": message, "info": {}}))
        expect(page.locator(".model")).to_have_attribute("title", message)
        expect(page.locator(".model")).to_have_text("embedded: loading")
    expect(page.locator(".toast")).to_have_text("its node is gone×")
    for _ in range(2):
        page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".toast").last).to_contain_text("First type a phrase")
    expect(page.locator(".toast")).to_have_count(2)  # what is said twice is shown once


def test_a_run_can_be_stopped_before_the_server_has_named_it(server, open_page):
    sockets: list[Any] = []
    page = open_page(server.address, prepare=lambda page: sockets.append(tap(page, lambda text: '"place"' not in text)))
    wait_for_model(page)
    choose(page, "shapes")
    page.get_by_label("Phrase to look for").fill("circle, square, star, triangle, cross")
    page.get_by_label("Phrase to look for").press("Enter")
    with paused(server):
        page.get_by_role("button", name="Run", exact=True).click()
        page.keyboard.press("Escape")
        until(page, lambda: sockets[0][0].asked[-1]["do"] == "cancel")
    expect(status(page)).to_contain_text("Stopped")


CUT_OFF = r"""const real = fetch;
const cut = () => new ReadableStream({ start: (body) => body.error(new TypeError("network error")) });
window.fetch = async (path, ...more) => /clips\/c\d+(\?|$)/.test(path) ? new Response(cut()) : real(path, ...more);"""


def test_an_answer_that_is_cut_off_says_that_the_server_cannot_be_reached(server, open_page):
    page = open_page(server.address)
    expect(page.locator(".picture")).to_have_attribute("data-frame", "0")
    page.evaluate(CUT_OFF)
    page.locator(".clips button").filter(has_text="ntsc").first.click()
    expect(page.locator(".toast.error").first).to_contain_text("The server cannot be reached")


def test_an_upload_is_a_clip_like_any_other(server, open_page, videos, tmp_path):
    page = open_page(server.address)
    hostile = tmp_path / "<b onclick=alert(1)>‮.mp4"
    hostile.write_bytes((videos / "b-frames.mp4").read_bytes())
    page.set_input_files("input[type=file]", hostile)
    expect(page.locator(".clips button.chosen")).to_contain_text("<b onclick=alert(1)>")
    expect(page.locator(".player .picture")).to_have_attribute("data-frame", "0")  # it is open
    go_to(page, 17)
    assert shown_number(page) == 17
    rubbish = tmp_path / "rubbish.mp4"
    rubbish.write_bytes(b"no video at all" * 100)
    page.set_input_files("input[type=file]", rubbish)
    expect(page.locator(".toast.error")).to_contain_text("unreadable_video")


def ask(server: Any, path: str, headers: dict[str, str] | None = None, data: bytes | None = None) -> int:
    request = urllib.request.Request(server.origin + path, data, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_strangers_are_refused(server, videos):
    cookie = {"Cookie": f"sam3ray-{server.origin.rpartition(':')[2]}={server.token}"}
    own = {"Origin": server.origin}
    assert ask(server, "/api/state", cookie) == 200
    assert ask(server, "/api/state") == 403
    assert ask(server, "/api/state?token=wrong") == 403
    assert ask(server, "/api/state", {**cookie, "Host": "evil.example:80"}) == 403  # another name for this machine
    assert ask(server, "/api/state", {**cookie, "Origin": "http://evil.example"}) == 403
    job = json.dumps({"key": "c1", "keys": ["c1"], "phrases": ["red circle"]}).encode()
    assert ask(server, "/api/job", {**cookie, **own}, job) == 200
    assert ask(server, "/api/job", cookie, job) == 403  # no Origin
    assert ask(server, "/api/job", {**cookie, "Origin": "null"}, job) == 403
    local = json.dumps({"address": str(videos / "ntsc.mp4")}).encode()
    assert ask(server, "/api/clips", {**cookie, **own}, local) == 400  # a path that a client names
    for path in ("/static/..%2f_server.py", "/static/%2e%2e/_server.py", "/static/_server.py", "/etc/passwd"):
        assert ask(server, path, cookie) == 404
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    assert ask(server, "/ws", {**cookie, **upgrade, "Origin": "http://evil.example"}) == 403
    assert ask(server, "/ws", {**upgrade, **own}) == 403


def test_a_wrong_number_in_an_address_is_a_sentence(server):
    key = json.load(answer(server, "/api/state"))["first"]["key"]
    for path, said in (
        (f"/api/clips/{key}/stills/last", "position is 'last'; allowed: a number"),
        (f"/api/clips/{key}/stills/999", "frame 999 is not in the clip; allowed: 0 to"),
        ("POST /api/results/none/download/video?min_score=high", "min_score is 'high'; allowed: a number"),
        ("/api/runs/first", "number is 'first'; allowed: a number"),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            answer(server, path)
        assert caught.value.code == 400
        assert json.load(caught.value)["message"].startswith(said)


def answer(server: Any, path: str) -> Any:
    method, _, path = path.rpartition(" ")
    headers = {"Cookie": f"sam3ray-{server.origin.rpartition(':')[2]}={server.token}", "Origin": server.origin}
    request = urllib.request.Request(server.origin + path, headers=headers, method=method or "GET")
    return urllib.request.urlopen(request, timeout=30)


def test_files_come_compressed_to_who_takes_that_and_are_kept(server):
    files, address = static_files(), f"{server.origin}/static/{version(static_files())}/main.js"
    cookie = {"Cookie": f"sam3ray-{server.origin.rpartition(':')[2]}={server.token}"}
    for encoding, unpacked in (("gzip, deflate", gzip.decompress), ("identity", bytes)):
        request = urllib.request.Request(address, headers={**cookie, "Accept-Encoding": encoding})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.headers["Content-Type"].startswith("text/javascript")
            assert "immutable" in response.headers["Cache-Control"]
            assert unpacked(response.read()) == files["main.js"]
    assert ask(server, "/static/0123456789ab/main.js", cookie) == 404  # of another version


def test_scripts_are_sent_without_spaces_and_comments_alone():
    """An error names the line in the source; texts stay as they are."""
    folder, texts = resources.files("sam3ray.app").joinpath("static"), re.compile(rb'"[^"]*"|`[^`]*`')
    for name, script in static_files().items():
        if not name.endswith(".js"):
            continue
        written = folder.joinpath(name).read_bytes().split(b"\n")
        for number, (line, sent) in enumerate(zip(written, script.split(b"\n"), strict=True), 1):
            code = re.sub(rb"(^|[ ;])\s*//[^\"]*$|^\s*//.*|/\* .* \*/", rb"\1", line)
            assert b"".join(code.split()) == b"".join(sent.split()), f"{name}:{number}"
            assert texts.findall(code) == texts.findall(sent), f"{name}:{number}"
            assert line.count(b"`") % 2 == 0, f"{name}:{number}: a text ends on its line"
            assert not re.search(rb"\$\{[^}]*`", line), f"{name}:{number}: no text is within another"


def test_a_page_loads_its_own_scripts_and_no_others(server, open_page):
    files, later = static_files(), {"brush", "compare", "download", "help", "job", "mask_worker", "rle", "upload"}
    for name in PAGES:
        shared, own = set(scripts_of(files, "main.js")), set(scripts_of(files, f"{name}.js"))
        assert shared | own == {f"{each}.js" for each in (*ON_EVERY_PAGE, *OF_PAGES[name])}
        assert not {f"{each}.js" for each in later} & (shared | own)
        assert sum(len(files[each]) for each in shared | own) < 50_000
    page = open_page(server.address)
    expect(page.locator(".player .picture")).to_have_attribute("data-frame", "0")
    loaded = set(page.evaluate("performance.getEntriesByType('resource').map((each) => each.name)"))
    assert {each.rpartition("/")[2] for each in loaded if each.endswith(".js")} == {
        f"{each}.js" for each in (*ON_EVERY_PAGE, *OF_PAGES["try"])
    }


def test_an_upload_over_the_limit_leaves_nothing(videos, tmp_path):
    folder = tmp_path / "uploads"
    folder.mkdir()
    library = Library(tmp_path / "work", AppOptions())
    uploads = Uploads(library, folder, max_bytes=1000, max_total=1500)

    async def stream(size):
        for _ in range(0, size, 100):
            yield b"x" * 100

    with ThreadPoolExecutor() as pool:  # this thread has the browser's event loop
        receiving = pool.submit(asyncio.run, uploads.receive("../../x.mp4", stream(5000)))
        with pytest.raises(UserError, match="more than 1000 bytes"):
            receiving.result()
    assert list(folder.iterdir()) == []
    library.close()


def test_downloads_open(server, open_page, videos, tmp_path):
    page = open_page(server.address)
    wait_for_model(page)
    choose(page, "shapes")
    page.mouse.click(*point_at(page, 115, 33))
    page.get_by_label("Last frame of the range").fill("3")
    page.get_by_label("Last frame of the range").press("Enter")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(status(page)).to_have_text("Done: 4 frames.")
    gone = f"{server.origin}/api/results/old/download/parquet"
    page.route("**/download/parquet*", lambda route: route.continue_(url=gone))
    page.get_by_role("button", name="Parquet", exact=True).click()
    expect(page.locator(".toast.error")).to_contain_text("this result is no longer kept: run again")
    with page.expect_download() as waited:
        page.get_by_role("button", name="Export", exact=True).click()
    names = zipfile.ZipFile(io.BytesIO(waited.value.path().read_bytes())).namelist()
    assert any(name.startswith("annotations/") for name in names)
    page.get_by_label("Format of the export").select_option("mots png")
    with page.expect_download() as waited:
        page.get_by_role("button", name="Export", exact=True).click()
    assert waited.value.suggested_filename.endswith("-mots-png.zip")
    names = zipfile.ZipFile(io.BytesIO(waited.value.path().read_bytes())).namelist()
    assert sum(name.endswith(".png") for name in names) == 4
    expect(page.locator(".toast").last).to_contain_text("detection scores dropped")
    with page.expect_download() as waited:
        page.get_by_role("button", name="Video", exact=True).click()
    assert len(list(sam3ray.video.VideoReader(waited.value.path()))) == SPEC.frames
