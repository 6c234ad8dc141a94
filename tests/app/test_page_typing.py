"""What a person types or does is not lost when something arrives at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.app.conftest import until
from tests.app.test_try_page import choose, go_to, orders, point_at, status, wait_for_model

from playwright.sync_api import expect  # isort: skip


@pytest.fixture
def held(holding) -> tuple[Any, Callable[[], None]]:
    """A page whose clip still loads: its picture is shown, earlier results are not. The function lets them come."""
    page, release = holding("**/api/clips/*?owner=*")
    choose(page, "shapes")

    def let_come() -> None:
        release()
        expect(page.locator(".try.busy")).to_have_count(0)

    return page, let_come


def test_a_number_being_typed_is_not_overwritten(held):
    page, release = held
    last, frame = page.get_by_label("Last frame of the range"), page.get_by_label("Frame number")
    frame.press_sequentially("1")
    last.fill("3")
    release()
    expect(last).to_have_value("3")
    last.press("Enter")
    page.get_by_label("Phrase to look for").fill("red circle")
    wait_for_model(page)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(status(page)).to_have_text("Done: 4 frames.")
    last.fill("9999")
    last.press("Enter")
    expect(last).to_have_value("23")  # what it can be, once it is entered


def test_an_object_keeps_the_name_that_is_typed_while_results_arrive(server, open_page):
    page = open_page(server.address)
    wait_for_model(page)
    choose(page, "shapes")
    page.mouse.click(*point_at(page, 115, 33))
    page.get_by_role("button", name="Run", exact=True).click()
    name = page.get_by_label("Name of object 1")
    name.fill("my b")
    expect(status(page)).to_have_text("Done: 24 frames.")
    name.press("End")
    page.keyboard.type("all")
    page.keyboard.press("Enter")
    expect(name).to_have_value("my ball")
    page.get_by_role("button", name="Run", exact=True).click()
    until(page, lambda: len(orders(page, False)) == 2)
    assert [each["label"] for each in orders(page, False)[-1]["visual"]] == ["my ball"]


def test_a_phrase_being_typed_stays_when_a_suggested_one_is_added(server, open_page):
    page = open_page(server.address)
    choose(page, "shapes")
    phrase = page.get_by_label("Phrase to look for")
    phrase.fill("red circle")
    phrase.press("Enter")
    page.get_by_role("button", name="Remove red circle").click()
    phrase.fill("st")
    go_to(page, 3)
    expect(phrase).to_have_value("st")


def test_a_finished_upload_does_not_take_one_away_from_another_clip(server, open_page, videos):
    page, waiting = open_page(server.address), []
    choose(page, "shapes")
    page.route("**/api/upload*", lambda route: waiting.append(route))
    page.set_input_files("input[type=file]", videos / "b-frames.mp4")
    expect(page.locator(".clips .loading")).to_contain_text("b-frames.mp4")
    choose(page, "ntsc")
    expect(page.locator(".clips .loading")).to_be_visible()
    count = page.locator(".clips button").count()
    until(page, lambda: waiting)
    waiting[0].continue_()
    expect(page.locator(".clips button")).to_have_count(count + 1)
    expect(page.locator(".clips .loading")).to_have_count(0)
    expect(page.locator(".clips button.chosen")).to_contain_text("ntsc")
