"""Orders of several people: whose runs give way."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from typing import Any

import fsspec
import pytest

from sam3ray.app import AppOptions, _open_clips
from sam3ray.app import _tries as tries_module
from sam3ray.app._library import Library
from sam3ray.app._messages import Ended
from sam3ray.app._tries import Page, Tries
from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, UserError
from sam3ray.values.clip import Clip


class FakeDesk:
    """Runs nothing, and keeps what is cancelled."""

    state, message, info = "ready", "", {}

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.called = threading.Event()
        self.listeners: dict[str, Any] = {}

    def submit(self, order: Any, listener: Any) -> None:
        if "too much" in order.phrases:
            raise UserError("100 runs are waiting")
        self.listeners[order.id] = listener

    def cancel(self, order_id: str) -> None:
        self.cancelled.append(order_id)
        self.called.set()

    def close(self) -> None:
        pass


@pytest.fixture
def tries(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(tries_module, "_AWAY_S", 0.0)
    library = Library(tmp_path / "work", AppOptions())
    library.add_source(str(videos / "shapes.mp4"))
    made = Tries(library, AppOptions())
    made.desk = FakeDesk()
    yield made
    library.close()


def enter(tries: Tries, owner: str) -> Page:
    page = Page(asyncio.new_event_loop())
    page._loop.close()  # nobody reads what it is told
    page.owner = owner
    tries.enter(page)
    return page


def test_a_run_that_finds_no_place_leaves_nothing_and_one_is_stopped_by_its_ticket_before_its_id_is_known(tries):
    with pytest.raises(UserError, match="100 runs"):
        tries.submit("ann-owner", {"key": "c1", "phrases": ["too much"], "ticket": "run 1"})
    assert not tries.results_of("ann-owner", "c1")
    assert not tries._owners
    asked = {"key": "c1", "phrases": ["red circle"], "ticket": "run 2"}
    first, second = tries.submit("ann-owner", asked), tries.submit("bob-owner", asked)
    tries.cancel("ann-owner", None, "run 1")
    tries.cancel("ann-owner", second, None)  # it is bob's
    tries.cancel("ann-owner", ["?"], {})
    assert not tries.desk.cancelled
    tries.cancel("ann-owner", None, "run 2")
    assert tries.desk.cancelled == [first]


def test_a_run_whose_page_is_closed_gives_way_to_somebody_who_waits(tries):
    ann, bob = enter(tries, "ann-owner"), enter(tries, "bob-owner")
    asked = {"key": "c1", "phrases": ["red circle"]}
    first = tries.submit("ann-owner", {**asked, "ticket": "run 1"})
    assert tries.submit("ann-owner", {**asked, "ticket": "run 1"}) == first  # the same, asked again
    tries.leave(ann)
    end = time.monotonic() + 60
    while "ann-owner" not in tries._away and time.monotonic() < end:
        time.sleep(0.01)
    assert not tries.desk.cancelled  # nobody waits: what was begun goes on
    second = tries.submit("bob-owner", {**asked, "ticket": "run 1"})
    assert second != first
    assert tries.desk.called.wait(60)
    assert tries.desk.cancelled == [first]
    again = enter(tries, "bob-owner")
    tries.leave(bob)  # one of two pages of bob's
    tries.submit("cid-owner", asked)
    assert second not in tries.desk.cancelled
    tries.leave(again)


def test_who_has_closed_a_page_is_remembered_only_for_the_runs_that_are_left(tries):
    page, end = enter(tries, "ann-owner"), time.monotonic() + 30
    order = tries.submit("ann-owner", {"key": "c1", "phrases": ["red circle"]})
    for n in range(20):
        tries.leave(enter(tries, f"visitor-{n}"))
    tries.leave(page)
    while tries._away != {"ann-owner"} and time.monotonic() < end:
        time.sleep(0.01)
    tries.desk.listeners[order](Ended(order, "done"))
    tries.submit("bob-owner", {"key": "c1", "phrases": ["red circle"]})
    while not (away := set(tries._away)) <= {"bob-owner"} and time.monotonic() < end:
        time.sleep(0.01)
    assert away <= {"bob-owner"}


def test_the_page_of_a_run_may_be_closed_before_it_is_in_the_queue(tries):
    enter(tries, "bob-owner")
    first = tries.submit("ann-owner", {"key": "c1", "phrases": ["red circle"]})  # ann has left
    end = time.monotonic() + 60
    while "ann-owner" not in tries._away and time.monotonic() < end:
        time.sleep(0.01)
    tries.submit("bob-owner", {"key": "c1", "phrases": ["red circle"]})
    assert tries.desk.called.wait(60)
    assert set(tries.desk.cancelled) == {first}


def test_the_video_of_a_run_stays_in_the_cache_until_the_run_ends(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a cache of our own
    monkeypatch.setattr(_open_clips, "_ROOM_S", 0.3)
    data, store = (videos / "shapes.mp4").read_bytes(), fsspec.filesystem("memory")
    store.pipe({f"/tried/{n}.mp4": data for n in range(2)})
    (tmp_path / "page").mkdir()
    options = AppOptions(video=VideoConfig(cache_bytes=len(data)))
    library = Library(tmp_path / "page", options)
    library.add([Clip(str(n), f"memory://tried/{n}.mp4") for n in range(2)])
    tries = Tries(library, options)
    tries.desk = FakeDesk()
    for phrases in (["too much"], []):
        with pytest.raises(UserError):
            tries.submit("ann-owner", {"key": "c2", "phrases": phrases})
    run = tries.submit("ann-owner", {"key": "c1", "phrases": ["red circle"]})  # those refused hold no video
    preview = tries.submit("ann-owner", {"key": "c1", "phrases": ["red circle"], "preview": True})
    for order in (run, preview):
        with pytest.raises(ClipError, match="in use"):
            tries.submit("ann-owner", {"key": "c2", "phrases": ["red circle"]})
        tries.desk.listeners[order](Ended(order, "cancelled"))
    tries.submit("ann-owner", {"key": "c2", "phrases": ["red circle"]})
    tries.close()
    library.close()
    store.rm("/tried", recursive=True)
    assert not list(tmp_path.glob("sam3ray-videos-*"))
