"""The live view: a real webcam stream in a real browser, and what is asked for on a picture."""

from __future__ import annotations

import asyncio
import io
import queue
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sam3ray
from sam3ray.app._library import Library
from sam3ray.app._live import DeskView, Show, decode_picture
from sam3ray.app._messages import Look, Seen
from sam3ray.app._model_process import _Worker
from sam3ray.app._options import AppOptions
from sam3ray.app._server import Service, make_app
from sam3ray.config import TrackingConfig
from sam3ray.failures import NotNow, UserError
from sam3ray.shapes import draw_clip, write_clip
from sam3ray.values.annotations import FrameAnnotations
from tests.app.conftest import SPEC, Served, until
from tests.app.test_try_page import wait_for_model
from tests.cameras.rtsp_camera import RtspCamera, encoded

from playwright.sync_api import expect  # isort: skip

TWO = re.compile(r"^\d+ \d+$")  # objects, whichever ids they get: which frames are seen depends on the machine
READ = """() => { const canvas = document.querySelector(".picture"), context = canvas.getContext("2d");
  const y = canvas.height - 12; let number = 0;
  for (let bit = 0; bit < 8; bit++)
    if (context.getImageData(canvas.width * (bit + 0.5) / 8, y, 1, 1).data[1] > 128) number |= 1 << bit;
  return [Number(canvas.dataset.ticket ?? 0), number]; }"""


@pytest.fixture(scope="module")
def model() -> sam3ray.Model:
    return sam3ray.load("embedded", device="cpu")


def number_of(jpeg: bytes) -> int:
    image = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    height, width = image.shape[:2]
    return sum((image[height - 12, int(width * (bit + 0.5) / 8), 1] > 128) << bit for bit in range(8))


def test_what_is_found_is_drawn_on_the_picture_it_was_found_on(server, open_page):
    page = open_page(server.address, permissions=["camera"])
    wait_for_model(page)
    page.goto(f"{server.origin}/#live")
    phrase = page.locator(".live").get_by_label("Phrase to look for")  # the other page has one, too
    phrase.fill("red circle")
    phrase.press("Enter")
    page.get_by_role("button", name="Start the webcam").click()
    expect(page.locator(".live .over")).to_have_attribute("data-objects", TWO)
    seen: dict[int, int] = {}

    def look() -> bool:
        ticket, number = page.evaluate(READ)
        if ticket:
            seen[ticket] = number
        return len(seen) >= 4

    until(page, look)
    assert seen == {ticket: number_of(page.pictures[ticket]) for ticket in seen}
    assert len(set(seen.values())) > 1
    box = page.locator(".over").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.5)
    point = until(page, lambda: [each for each in page.sent if each["do"] == "point"])[0]
    assert point["ticket"] in page.pictures  # the picture that was clicked on, not the newest
    assert all(abs(a - b) <= 1 for a, b in zip(point["item"]["points"][0], (384, 180), strict=True))
    page.get_by_text("Thresholds", exact=True).click()
    page.get_by_label("Detection from score").fill("1")  # nothing is so sure
    sent = until(page, lambda: [each for each in page.sent if each["do"] == "thresholds"][1:])
    assert sent[0]["change"] == {"score_threshold_detection": 1}

    def shown() -> list[str]:
        return page.locator(".over").get_attribute("data-objects").split()

    until(page, lambda: not shown())
    page.get_by_label("Detection from score").fill("0.5")
    one, two = until(page, lambda: [ids for ids in [shown()] if len(ids) == 2])[0]  # found again
    page.get_by_role("button", name=f"Drop object {one}").click()
    until(page, lambda: one not in shown())
    phrase.fill("star")
    phrase.press("Enter")
    page.get_by_role("button", name="Remove red circle").click()
    phrases = [each for each in page.sent if each["do"] == "phrases"]
    assert phrases[-2:] == [
        {"do": "phrases", "add": ["star"], "remove": []},
        {"do": "phrases", "add": [], "remove": ["red circle"]},
    ]
    until(page, lambda: two not in shown())
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Start the webcam")).to_be_visible()


def test_live_video_goes_on_when_the_connection_is_back(server, open_page):
    sockets: list[Any] = []

    def connect(socket: Any) -> None:
        sockets.append(socket)
        if len(sockets) == 2:
            socket.close()  # it is not back at once
        else:
            socket.connect_to_server()

    page = open_page(
        f"{server.address}#live",
        permissions=["camera"],
        prepare=lambda page: page.route_web_socket("**/live", connect),
    )
    phrase = page.locator(".live").get_by_label("Phrase to look for")
    phrase.fill("red circle")
    phrase.press("Enter")
    page.get_by_role("button", name="Start the webcam").click()
    objects, said = page.locator(".live .over"), page.locator(".live .status")
    expect(objects).to_have_attribute("data-objects", TWO)
    page.evaluate("document.querySelector('.live .over').dataset.objects = ''")
    sockets[0].close()
    until(page, lambda: len(sockets) == 3)
    expect(objects).to_have_attribute("data-objects", TWO)
    expect(said).to_have_text("Live: webcam")
    sockets[2].close()
    expect(said).to_have_text("Connection lost.")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Start the webcam")).to_be_visible()
    page.wait_for_timeout(2000)
    assert len(sockets) == 3  # whoever stops it does not want it back


def test_a_webcam_that_is_unplugged_is_not_shown_for_ever(server, open_page):
    keep = """const media = navigator.mediaDevices, open = media.getUserMedia.bind(media);
      media.getUserMedia = async (how) => (window.webcam = await open(how));"""
    page = open_page(
        f"{server.address}#live", permissions=["camera"], prepare=lambda page: page.add_init_script(script=keep)
    )
    page.get_by_role("button", name="Start the webcam").click()
    said = page.locator(".live .status")
    expect(said).to_have_text("Live: webcam")
    page.evaluate("window.webcam.getTracks()[0].dispatchEvent(new Event('ended'))")
    expect(said).to_have_text("The webcam has ended.")
    expect(page.get_by_role("button", name="Start the webcam")).to_be_visible()


def test_two_pages_ask_one_camera_and_neither_undoes_what_the_other_asks(open_page):
    images = [frame.image for frame in draw_clip(SPEC)]
    with RtspCamera(encoded(images, 12), 12) as camera:
        shown = Served(camera.url, "--prompt", "red circle", "--checkpoint", "embedded", "--display", verb="live")
        try:
            pages = [open_page(shown.address) for _ in range(2)]
            chips = [page.locator(".live .chips") for page in pages]
            for page in pages:
                expect(page.locator(".live .over")).to_have_attribute("data-objects", TWO)
                expect(page.locator(".live dt", has_text="dropped")).to_have_count(1)
                expect(page.locator(".live dt", has_text="recording")).to_have_count(0)  # nothing is recorded
            for page, text in zip(pages, ("star", "square"), strict=True):
                phrase = page.locator(".live").get_by_label("Phrase to look for")
                phrase.fill(text)
                phrase.press("Enter")
            for each in chips:
                for text in ("red circle", "star", "square"):
                    expect(each).to_contain_text(text)
            pages[0].get_by_role("button", name="Remove red circle").click()
            expect(chips[1]).not_to_contain_text("red circle")
            for page, name, value in zip(
                pages, ("Detection from score", "New object from score"), ("0.4", "0.9"), strict=True
            ):
                page.get_by_text("Thresholds", exact=True).click()
                page.get_by_label(name).fill(value)
            for page in pages:
                expect(page.get_by_label("Detection from score")).to_have_value("0.4")
                expect(page.get_by_label("New object from score")).to_have_value("0.9")
        finally:
            shown.close()


class FakeDesk:
    """Sees nothing, and keeps what it was asked."""

    def __init__(self) -> None:
        self.info: dict[str, Any] = {"thresholds": {"hotstart_delay": 15}}
        self.asked: list[Look] = []

    def look(self, asked: Look) -> Seen:
        self.asked.append(asked)
        height, width = asked.image.shape[:2]
        return Seen(asked.view, FrameAnnotations(0, 0, 0.0, height, width), frozenset(), frozenset(), 7, 0.1)

    def leave(self, view: str) -> None:
        pass


def test_a_server_that_ends_says_nothing_of_live_views(tmp_path):
    """uvicorn prints a traceback of each task that it has to cancel, unless the task ends by itself."""
    service = Service(Library(tmp_path / "work", AppOptions()), AppOptions())
    live = next(each.endpoint for each in make_app(service).routes if each.path == "/live")  # type: ignore[attr-defined]

    class Socket:
        async def accept(self) -> None: ...

        async def receive(self) -> None:
            await asyncio.sleep(60)

    async def end() -> None:
        view = asyncio.create_task(live(Socket()))
        await asyncio.sleep(0)
        view.cancel()
        await view

    with ThreadPoolExecutor() as pool:  # this thread may have the browser's event loop
        assert pool.submit(asyncio.run, end()).result() is None
    service.close()


def test_a_click_goes_with_the_picture_that_was_clicked_on():
    desk = FakeDesk()
    view = DeskView(desk, TrackingConfig())  # type: ignore[arg-type]
    pictures = [np.full((8, 8, 3), n, np.uint8) for n in range(40)]
    for ticket, picture in enumerate(pictures):
        view.keep(ticket, picture)
        if ticket == 30:
            view.ask({"do": "point", "ticket": 28, "item": {"points": [[1, 2]], "labels": [1], "units": "pixels"}})
            view.ask({"do": "drop", "object": 3})
            view.look(picture, 0.0)
    (asked,) = desk.asked
    assert asked.at is pictures[28]
    assert [(each.object_id, each.points) for each in asked.pointed] == [(0, ((1.0, 2.0),))]  # 0: a new object
    assert asked.drop == (3,)
    view.look(pictures[-1], 1.0)
    assert (desk.asked[-1].pointed, desk.asked[-1].drop) == ((), ())  # each is asked for once
    assert view.next_id == 7
    with pytest.raises(UserError, match="no longer kept"):
        view.ask({"do": "point", "ticket": 2, "item": {"points": [[1, 2]], "labels": [1], "units": "pixels"}})


def test_a_click_that_the_model_has_not_seen_is_asked_again():
    desk = FakeDesk()
    view = DeskView(desk, TrackingConfig())  # type: ignore[arg-type]
    picture = np.zeros((8, 8, 3), np.uint8)
    view.keep(1, picture)
    for object_id in (None, 4):
        item = {"points": [[1, 2]], "labels": [1], "units": "pixels"} | ({"object_id": object_id} if object_id else {})
        view.ask({"do": "point", "ticket": 1, "item": item})
    view.look(picture, 0.0)
    assert len(desk.asked[0].pointed) == 2

    def ended(asked: Look) -> Seen:
        raise NotNow("the model's process ended")

    view.ask({"do": "point", "ticket": 1, "item": item})
    view.ask({"do": "point", "ticket": 1, "item": {"points": [[1, 2]], "labels": [1], "units": "pixels"}})
    desk.look, look = ended, desk.look  # type: ignore[method-assign]
    with pytest.raises(NotNow):
        view.look(picture, 0.0)
    desk.look = look  # type: ignore[method-assign]
    view.look(picture, 0.0)
    assert [each.object_id for each in desk.asked[-1].pointed] == [0]  # object 4 has gone with the process
    assert desk.asked[-1].at is picture


def test_a_cameras_picture_is_there_before_its_objects_and_a_page_gets_the_newest(tmp_path):
    write_clip(SPEC, tmp_path / "clip.mp4")
    desk, turns, looks = FakeDesk(), queue.SimpleQueue(), queue.SimpleQueue()

    def look(asked: Look, look: Any = desk.look) -> Seen:
        turns.put(asked.image)
        if looks.get(timeout=30) == "fails":
            raise NotNow("the model's process ended")
        return look(asked)

    desk.look, desk.is_loading = look, False  # type: ignore[method-assign, attr-defined]
    show = Show(desk, AppOptions(phrases=("star",)), str(tmp_path / "clip.mp4"))  # type: ignore[arg-type]
    show.start()
    try:
        turns.get(timeout=30)
        ticket, jpeg = show.picture(0, 30)
        assert (ticket, jpeg[:2]) == (1, b"\xff\xd8")
        with pytest.raises(TimeoutError):
            show.found(1, 0.01)  # the model has not answered yet
        looks.put("sees")
        about = show.found(1, 30)
        assert (about["ticket"], about["frame"]["o"]) == (1, [])
        assert about["age"] >= 0
        turns.get(timeout=30)
        assert show.picture(1, 30)[0] == 2
        assert show.picture(0, 30)[0] == 1  # a page that is late gets what is known
        looks.put("fails")
        assert show.found(2, 30) is None
        assert "process ended" in show.problem
        turns.get(timeout=30)  # it goes on with a newer frame
        assert show.picture(2, 30)[0] == 3
    finally:
        show._over.set()
        looks.put("sees")
        show.close()


@pytest.mark.parametrize(
    "message",
    [
        {"do": "phrases", "phrases": "person"},
        {"do": "phrases", "phrases": ["x" * 10_000]},
        {"do": "point", "ticket": 1, "item": {"points": [[1]], "labels": [1], "units": "pixels"}},
        {"do": "point", "ticket": 1, "item": {"mask": {"png": "/etc/passwd"}}},
        {"do": "point", "ticket": 1},
        {"do": "drop", "object": "1"},
        {"do": "thresholds"},
        {"do": "thresholds", "thresholds": {"new_det_thresh": 7}},
        {"do": "thresholds", "thresholds": {"rules": "transformers"}},
    ],
)
def test_what_a_page_of_ours_would_not_ask_is_refused(message):
    view = DeskView(FakeDesk(), TrackingConfig())  # type: ignore[arg-type]
    view.keep(1, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError):
        view.ask(message)


def test_thresholds_change_while_it_runs_and_are_recorded():
    desk = FakeDesk()
    view = DeskView(desk, TrackingConfig(new_det_thresh=0.6))  # type: ignore[arg-type]
    picture = np.zeros((8, 8, 3), np.uint8)
    view.look(picture, 0.0)
    view.ask({"do": "thresholds", "thresholds": {"score_threshold_detection": 0.3, "hotstart_delay": 4}})
    view.look(picture, 0.1)
    view.ask({"do": "thresholds", "thresholds": {}})
    view.look(picture, 0.2)
    asked = [(each.tracking.new_det_thresh, each.tracking.score_threshold_detection) for each in desk.asked]
    assert asked == [(0.6, None), (0.6, 0.3), (0.6, None)]
    view.ask({"do": "thresholds", "thresholds": {"hotstart_delay": 4}})
    assert view.hotstart_delay == 4  # the recording waits for so many frames
    assert view.changed_thresholds == {"hotstart_delay": 4}


CLICK = {"points": [[1, 2]], "labels": [1], "units": "pixels"}


def test_clicks_of_several_people_on_several_pictures_all_reach_the_model():
    desk = FakeDesk()
    view = DeskView(desk, TrackingConfig())  # type: ignore[arg-type]
    pictures = [np.full((8, 8, 3), n, np.uint8) for n in range(3)]
    for ticket, picture in enumerate(pictures):
        view.keep(ticket, picture)
    for ticket, object_id in ((0, 1), (1, None), (1, 2), (0, None)):
        view.ask({"do": "point", "ticket": ticket, "item": CLICK | ({"object_id": object_id} if object_id else {})})
    for n in range(4):
        view.look(pictures[2], float(n))
    ours = [(each.at, [one.object_id for one in each.pointed]) for each in desk.asked]
    assert [ids for _, ids in ours] == [[1], [0, 2], [0], []]
    assert {one.label for each in desk.asked for one in each.pointed} == {"clicked"}
    assert [at is None or int(at[0, 0, 0]) for at, _ in ours] == [0, 1, 0, True]


def test_large_pictures_are_kept_for_less_long():
    view = DeskView(FakeDesk(), TrackingConfig())  # type: ignore[arg-type]
    for ticket in range(30):
        view.keep(ticket, np.broadcast_to(np.uint8(0), (2160, 3840, 3)))
    with pytest.raises(UserError, match="no longer kept"):
        view.ask({"do": "point", "ticket": 19, "item": CLICK})
    view.ask({"do": "point", "ticket": 20, "item": CLICK})


def test_only_so_many_clicks_and_drops_wait_for_the_model():
    view = DeskView(FakeDesk(), TrackingConfig())  # type: ignore[arg-type]
    view.keep(1, np.zeros((8, 8, 3), np.uint8))
    for asked, message in (
        ([{"do": "point", "ticket": 1, "item": CLICK}] * 101, "100 clicks wait for the model already"),
        ([{"do": "drop", "object": n} for n in range(1, 102)], "100 objects are to be dropped already"),
    ):
        for each in asked[:-1]:
            view.ask(each)
        with pytest.raises(UserError, match=message):
            view.ask(asked[-1])


def test_pages_add_remove_and_change_without_undoing_what_others_ask():
    view = DeskView(FakeDesk(), TrackingConfig())  # type: ignore[arg-type]
    view.ask({"do": "phrases", "phrases": ["star", "circle"]})
    view.ask({"do": "phrases", "add": ["square", "star"], "remove": []})
    view.ask({"do": "phrases", "add": [], "remove": ["circle", "hexagon"]})
    view.ask({"do": "thresholds", "change": {"new_det_thresh": 0.9}})
    view.ask({"do": "thresholds", "change": {"hotstart_delay": 4}})
    assert view.asked() == {
        "phrases": ["star", "square"],
        "thresholds": {"new_det_thresh": 0.9, "hotstart_delay": 4},
    }
    for wrong in ({"add": "star"}, {"remove": [1]}, {"add": ["x" * 300]}, {"phrases": None}):
        with pytest.raises(UserError):
            view.ask({"do": "phrases", **wrong})
    assert view.phrases == ("star", "square")


def test_what_the_model_refuses_is_not_asked_again_with_each_frame(model):
    worker = _Worker(model, None)  # type: ignore[arg-type]
    desk = FakeDesk()
    desk.look = worker._look  # type: ignore[method-assign]
    view = DeskView(desk, model.tracking)  # type: ignore[arg-type]
    picture = next(iter(draw_clip(SPEC))).image
    view.ask({"do": "phrases", "phrases": ["red circle"]})
    assert len(view.look(picture, 0.0).found.objects) == 2
    view.keep(1, picture)
    view.ask({"do": "phrases", "add": ["star", "a " * 60]})
    view.ask({"do": "thresholds", "change": {"hotstart_delay": 4}})  # its counts need 8
    for object_id in (1, 99):
        view.ask({"do": "drop", "object": object_id})
    view.ask({"do": "point", "ticket": 1, "item": CLICK | {"points": [[9000, 2]]}})
    view.ask({"do": "point", "ticket": 1, "item": {"box": [10, 10, 60, 60], "units": "pixels"}})
    seen = view.look(picture, 0.1)
    assert seen.refused == {"phrases", "thresholds", "drop", "point"}, seen.problem
    assert len(seen.problem.splitlines()) == 4
    ids = {each.object_id for each in seen.found.objects}
    assert 1 not in ids  # it was dropped, and the box was followed, whatever was wrong with the rest
    assert len(ids) == 2
    assert view.phrases == ("red circle",)
    seen = view.look(picture, 0.2)
    assert (seen.problem, len(seen.found.objects)) == ("", 2)
    assert view.asked() == {"phrases": ["red circle"], "thresholds": {}}


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff", b"x" * 100])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(UserError, match="not a picture"):
        decode_picture(data)


def test_a_picture_larger_than_a_webcam_makes_is_refused():
    sink = io.BytesIO()
    Image.new("RGB", (5000, 10)).save(sink, "JPEG")
    with pytest.raises(UserError, match="5000x10"):
        decode_picture(sink.getvalue())


def test_a_file_is_shown_frame_by_frame_and_a_camera_that_is_given_up_is_said_on_stderr_too(tmp_path, caplog):
    write_clip(SPEC, tmp_path / "clip.mp4")
    desk = FakeDesk()
    desk.is_loading = False  # type: ignore[attr-defined]
    options = AppOptions(every_frame=True, record=str(tmp_path / "run"), record_video=False)
    show = Show(desk, options, str(tmp_path / "clip.mp4"))  # type: ignore[arg-type]
    show.start()
    show._thread.join(60)
    assert len(desk.asked) == SPEC.frames
    desk.info = {"thresholds": {"hotstart_delay": 3}}
    show = Show(desk, options, str(tmp_path / "clip.mp4"))  # type: ignore[arg-type]
    show.start()
    show._thread.join(60)
    said = "the camera is no longer watched: the recording in"
    assert show.problem.startswith(said)
    assert said in caplog.text
