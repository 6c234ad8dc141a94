"""What a preview costs: a frame that somebody rests on is decoded ahead, and a click after a click decodes nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sam3ray
from sam3ray.app import AppOptions
from sam3ray.app._glances import Glances
from sam3ray.app._library import Library
from sam3ray.app._messages import Ended, Update
from sam3ray.app._order import Order, parse_order
from sam3ray.app._tries import Tries
from sam3ray.config import VideoConfig
from sam3ray.engine.vision import TrackerNeck
from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.shapes import ClipSpec, write_clip
from sam3ray.values.clip import Clip
from sam3ray.video import ClipFrames
from tests.app.conftest import until
from tests.app.test_model_memory import Ends, carried_out
from tests.app.test_try_page import choose, go_to, wait_for_model

SPEC = ClipSpec(seed=6, frames=6, width=160, height=90, objects=(2, 3))


@pytest.fixture(scope="module")
def model() -> sam3ray.Model:
    return sam3ray.load("embedded", device="cpu")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(SPEC, tmp_path / "clip.mp4")
    return tmp_path / "clip.mp4"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was decoded, and what went through the vision backbone."""
    done: list[str] = []
    read, see = ClipFrames.read, TrackerNeck.see

    def reading(self: ClipFrames, *span: int) -> Iterator[Any]:
        done.append(f"read {span[0]}")
        return read(self, *span)

    def seeing(self: TrackerNeck, pixels: Any) -> Any:
        done.append("see")
        return see(self, pixels)

    monkeypatch.setattr(ClipFrames, "read", reading)
    monkeypatch.setattr(TrackerNeck, "see", seeing)
    return done


def preview(path: Path, name: str, frame: int, at: tuple[float, float] | None = (40.0, 40.0), **more: Any) -> Order:
    """A click on a frame; None: a glance at it."""
    click = {"object_id": 1, "frame": frame, "units": "pixels", "points": [at], "labels": [1]}
    asked = {"preview": True, "start": frame, "glance": at is None, "visual": [click] if at else [], **more}
    tracking = AppOptions().tracking
    return parse_order(
        asked, name, path=str(path), clip=Clip("c", str(path)), frames=6, limits=VideoConfig(), tracking=tracking
    )


def rows(sent: list[Any]) -> dict[str, Any]:
    return {each.order_id: each.found.frames for each in sent if isinstance(each, Update)}


def test_a_click_after_a_click_costs_the_models_head_alone(model, clip, work):
    asked = [preview(clip, "a", 3), preview(clip, "b", 3, (100.0, 50.0)), preview(clip, "c", 4), preview(clip, "d", 3)]
    found = rows(carried_out(model, Ends(*asked)))
    assert work == ["read 3", "see", "read 4", "see"]
    assert found["a"] == found["d"] != found["b"]
    for each in asked:
        assert rows(carried_out(model, Ends(each)))[each.id] == found[each.id]  # what a new process says


def test_other_thresholds_and_phrases_are_tried_on_what_was_seen(model, clip, work):
    loose = {
        "phrases": ["red circle", "star", "square"],
        "thresholds": {"score_threshold_detection": 0.01, "new_det_thresh": 0.02},
    }
    found = rows(carried_out(model, Ends(preview(clip, "a", 2), preview(clip, "b", 2, **loose))))
    assert work == ["read 2", "see"]
    assert len(found["b"][0].objects) > len(found["a"][0].objects)


def test_a_video_that_is_written_anew_is_read_again(model, clip, work):
    def meanwhile(count: int) -> list[Any]:
        if count == 2:  # the first preview is over
            write_clip(ClipSpec(seed=11, frames=6, width=160, height=90, objects=(3, 3)), clip)
        return [preview(clip, "b", 3)] if count == 2 else []

    found = rows(carried_out(model, Ends(preview(clip, "a", 3), meanwhile=meanwhile)))
    assert work == ["read 3", "see"] * 2
    assert found["a"] != found["b"]


class InTurn(Ends):
    """A parent that sends its next message once the one before has been answered."""

    def __init__(self, *messages: Any) -> None:
        super().__init__(*messages)
        self._answered = threading.Semaphore(1)

    def send(self, message: Any) -> None:
        super().send(message)
        if isinstance(message, Ended):
            self._answered.release()

    def recv(self) -> Any:
        self._answered.acquire()
        return super().recv()


def test_a_frame_that_somebody_rests_on_is_decoded_ahead(model, clip, work):
    sent = carried_out(model, InTurn(preview(clip, "rest", 3, None), preview(clip, "click", 3)))
    assert [each.order_id for each in sent] == ["rest", "click", "click"]
    assert work == ["read 3", "see"]
    assert rows(sent)["click"][0].objects


def test_a_slow_video_holds_up_nobody_else(model, clip, tmp_path, monkeypatch):
    """One frame at most is decoded ahead, beside the model's own work."""
    slow, read, goes_on = tmp_path / "slow.mp4", ClipFrames.read, threading.Event()
    write_clip(SPEC, slow)

    def reading(self: ClipFrames, *span: int) -> Iterator[Any]:
        assert self._path != str(slow) or goes_on.wait(60)
        return read(self, *span)

    monkeypatch.setattr(ClipFrames, "read", reading)

    class Parent(InTurn):
        def recv(self) -> Any:
            if self.sent and self.sent[-1].order_id == "click" and not goes_on.is_set():
                goes_on.set()
                self._answered.acquire()  # of "slow"
            return super().recv()

    asked = preview(slow, "slow", 3, None), preview(clip, "other", 1, None), preview(clip, "click", 2)
    parent = Parent(*asked)
    parent._answered.release()  # nothing waits for "slow"
    sent = carried_out(model, parent)
    assert [each.order_id for each in sent if isinstance(each, Ended)] == ["other", "click", "slow"]


def test_what_is_wrong_with_a_video_is_said_when_something_is_asked(model, tmp_path):
    broken, gone = tmp_path / "broken.mp4", tmp_path / "gone.mp4"
    broken.write_bytes(b"no video" * 100)
    asked = preview(broken, "rest", 0, None), preview(broken, "click", 0), preview(gone, "late", 0, None)
    sent = carried_out(model, InTurn(*asked, preview(gone, "later", 0)))
    assert [each.how for each in sent] == ["done", "failed", "done", "failed"]
    assert "broken.mp4" in sent[1].message or "video" in sent[1].message
    assert "internal error" not in sent[3].message


def test_few_frames_are_kept(clip, work):
    glances = Glances()
    video = glances.video(preview(clip, "a", 3))
    kept = glances.glance(video, 3)
    for n in (0, 1, 2):
        glances.glance(video, n)
        assert glances.glance(video, 3) is kept  # it is the latest again
    for n in (4, 0, 1, 2):
        glances.glance(video, n)
    assert glances.glance(video, 3) is not kept
    assert work == [f"read {n}" for n in (3, 0, 1, 2, 4, 0, 1, 2, 3)]


def test_two_threads_that_want_one_frame_decode_it_once(clip, work):
    glances, asked = Glances(), preview(clip, "a", 3)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(glances.glance(glances.video(asked), 3))) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 8
    assert len({id(each) for each in found}) == 1
    assert work == ["read 3"]


def test_a_frame_that_cannot_be_read_is_tried_again(clip, monkeypatch):
    glances, read = Glances(), ClipFrames.read
    video = glances.video(preview(clip, "a", 3))
    with monkeypatch.context() as patch:
        patch.setattr(
            ClipFrames, "read", lambda *_: (_ for _ in ()).throw(ClipError(Reason.UNREADABLE_VIDEO, "a bad frame"))
        )
        with pytest.raises(ClipError, match="a bad frame"):
            glances.glance(video, 3)
    assert ClipFrames.read is read
    assert glances.glance(video, 3).frame.index == 3


def test_only_a_glance_may_ask_for_nothing(clip):
    assert preview(clip, "a", 3, None).is_glance
    assert not preview(clip, "a", 3).is_glance
    for more in ({"glance": False}, {"preview": False}):
        with pytest.raises(UserError, match="nothing to look for"):
            preview(clip, "a", 3, None, **more)


def test_glances_do_not_wait_for_the_model_to_be_loaded(videos, tmp_path):
    library = Library(tmp_path, AppOptions())
    library.add_source(str(videos / "shapes.mp4"))
    tries = Tries(library, AppOptions())  # its model is never started
    try:
        tries.glance("ann-owner", "c1", 3)
        assert not tries._videos
        assert not tries.desk._previews
        with pytest.raises(UserError, match="start is 99; allowed"):
            tries.glance("ann-owner", "c1", 99)
    finally:
        tries.close()
        library.close()


def test_the_page_says_on_which_frame_one_rests(server, open_page):
    page = open_page(server.address)
    wait_for_model(page)
    choose(page, "shapes")

    def rests() -> list[int]:
        return [each["start"] for each in page.sent if each["do"] == "glance"]

    until(page, lambda: rests() == [0])
    page.keyboard.press("Space")  # playing is no resting
    page.wait_for_timeout(700)
    assert rests() == [0]
    page.keyboard.press("Space")
    go_to(page, 7)
    until(page, lambda: rests()[-1] == 7)
