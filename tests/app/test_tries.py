"""Orders of several people: whose runs give way."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from sam3ray.app import AppOptions
from sam3ray.app import _tries as tries_module
from sam3ray.app._library import Library
from sam3ray.app._tries import Page, Tries
from sam3ray.failures import UserError


class FakeDesk:
    """Runs nothing, and keeps what is cancelled."""

    state, message, info = "ready", "", {}

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.called = threading.Event()

    def submit(self, order: Any, listener: Any) -> None:
        if "too much" in order.phrases:
            raise UserError("100 runs are waiting")

    def cancel(self, order_id: str) -> None:
        self.cancelled.append(order_id)
        self.called.set()


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
