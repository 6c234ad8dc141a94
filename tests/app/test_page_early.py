"""What a person does before the page is ready for it is not lost: each test holds up one answer of the server."""

from __future__ import annotations

import re
from typing import Any

from tests.app.conftest import tap, until
from tests.app.test_live_page import TWO
from tests.app.test_try_page import choose, orders, paused, point_at, status, wait_for_model

from playwright.sync_api import expect  # isort: skip


def test_a_video_uploaded_before_the_first_clip_is_open_is_shown(holding, videos):
    page, release = holding("**/api/clips/c1/stills/0")
    page.set_input_files("input[type=file]", videos / "ntsc.mp4")
    expect(page.locator(".clips .loading")).to_have_count(0)
    uploaded = page.locator(".clips li").last.locator("button")
    release()
    expect(uploaded).to_have_class("chosen")
    expect(page.locator(".picture")).to_have_attribute("data-frame", "0")


def test_a_press_that_began_before_the_pictures_came_still_opens_the_clip(holding):
    """The list is renewed between the button's going down and its coming up."""
    page, release = holding("**/api/clips/c1/stills/0")
    button = page.locator(".clips button").filter(has_text="shapes").first
    button.hover()
    page.mouse.down()
    release()
    expect(page.locator(".clips button.chosen")).to_have_count(1)
    expect(button.locator("img")).to_have_attribute("src", re.compile("thumb"))
    page.mouse.up()
    expect(page.locator(".clips button.chosen")).to_contain_text("shapes")


def test_a_press_counts_for_what_it_began_on_although_the_list_moves_below_it(server, open_page, videos):
    page, waiting = open_page(server.address), []
    choose(page, "shapes")
    page.route("**/api/upload*", lambda route: waiting.append(route))
    button = page.locator(".clips button").filter(has_text="ntsc").first
    name = button.inner_text()
    button.hover()
    page.mouse.down()
    button.evaluate("node => { node.isOld = true; }")
    page.set_input_files("input[type=file]", videos / "hevc.mp4")
    expect(page.locator(".clips li").first).to_have_class("loading")  # all others are a line lower now
    page.mouse.up()
    expect(page.locator(".clips button.chosen")).to_have_text(name)
    assert button.evaluate("node => node.isOld")
    until(page, lambda: waiting)[0].abort()

    phrase = page.get_by_label("Phrase to look for")
    for each in ("star", "red circle"):
        phrase.fill(each)
        phrase.press("Enter")
    chips = page.locator(".chip:not(.ghost)")
    expect(chips).to_have_count(2)
    chips.last.get_by_role("button").hover()
    page.mouse.down()
    page.evaluate("document.querySelector('.chip button').click()")  # the first goes, the last moves to its place
    expect(chips).to_have_count(1)
    page.mouse.up()
    expect(chips).to_have_count(0)


def test_what_is_asked_for_before_the_first_clip_is_open_is_asked_of_it(holding):
    page, release = holding("**/api/clips/c1/stills/0")
    phrase = page.get_by_label("Phrase to look for")
    phrase.fill("red circle")
    phrase.press("Enter")
    page.get_by_role("radio", name="Backward").click()
    page.get_by_label("Last frame of the range").fill("3")
    page.get_by_label("Last frame of the range").press("Enter")
    page.get_by_role("button", name="Run", exact=True).click()
    release()
    order = until(page, lambda: orders(page, False))[0]
    assert (order["key"], order["phrases"], order["way"], order["last"]) == ("c1", ["red circle"], "backward", 3)


def test_what_is_asked_for_while_another_clip_opens_is_asked_of_that_one(server, open_page):
    page, waiting = open_page(server.address), []
    choose(page, "shapes")
    button = page.locator(".clips button").filter(has_text="ntsc").first
    key = button.get_attribute("value")
    page.route(f"**/api/clips/{key}", lambda route: waiting.append(route))
    button.click()
    phrase = page.get_by_label("Phrase to look for")
    for each in ("star", "ring"):
        phrase.fill(each)
        phrase.press("Enter")
    until(page, lambda: waiting)[0].continue_()
    order = until(page, lambda: [each for each in orders(page, True) if len(each["phrases"]) == 2])[0]
    assert (order["key"], order["phrases"]) == (key, ["star", "ring"])
    expect(page.locator(".chip").nth(1)).to_contain_text("ring")


AWAY = """window.away = true;
const Real = WebSocket;
window.WebSocket = class extends Real {
  constructor(url) { super(window.away ? `${url}/nowhere` : url); }
};"""


def test_what_is_asked_for_without_a_connection_is_asked_when_there_is_one(server, open_page):
    page = open_page(server.address, prepare=lambda page: page.add_init_script(AWAY))
    choose(page, "shapes")
    page.get_by_label("Phrase to look for").fill("red circle")
    page.get_by_label("Phrase to look for").press("Enter")
    page.get_by_label("Last frame of the range").fill("1")
    page.get_by_label("Last frame of the range").press("Enter")
    page.get_by_role("button", name="Run", exact=True).click()
    page.evaluate("window.away = false")
    expect(status(page)).to_have_text("Done: 2 frames.")
    assert len({each["ticket"] for each in orders(page, False)}) == 1


def test_a_run_stopped_without_a_connection_is_stopped_when_there_is_one(server, open_page):
    wait_for_model(open_page(server.address))
    page = open_page(server.address, prepare=lambda page: page.add_init_script(AWAY))
    choose(page, "shapes")
    page.get_by_label("Phrase to look for").fill("red circle")
    page.get_by_label("Phrase to look for").press("Enter")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("button", name="Stop, keep what is done").click()
    with paused(server):
        page.evaluate("window.away = false")
        until(page, lambda: [each for each in page.sent if each["do"] == "cancel"])
    expect(status(page)).to_contain_text("Stopped")


def test_a_click_without_a_connection_is_answered_while_a_run_goes_on(server, open_page):
    heard: list[str] = []
    sockets: list[Any] = []
    page = open_page(
        server.address, prepare=lambda page: sockets.append(tap(page, lambda text: (heard.append(text), True)[1]))
    )
    wait_for_model(page)
    choose(page, "shapes")
    page.get_by_label("Phrase to look for").fill("circle, square, star, triangle, cross")
    page.get_by_label("Phrase to look for").press("Enter")
    with paused(server):
        page.get_by_role("button", name="Run", exact=True).click()
        until(page, lambda: [each for each in heard if '"place"' in each])
        sockets[0][0].close()
        page.mouse.click(*point_at(page, 80, 48))
        again = until(page, lambda: [each for socket in sockets[0][1:] for each in socket.asked if each.get("visual")])
        page.keyboard.press("Escape")
    assert again[0]["preview"]
    expect(status(page)).to_contain_text("Stopped")


def test_a_view_that_is_not_there_yet_takes_nothing_that_is_meant_for_it(holding):
    page, release = holding("**/static/*/live.js")
    wait_for_model(page)
    page.evaluate("location.hash = 'live'")
    expect(page.get_by_label("Phrase to look for")).to_have_count(0)
    release()
    expect(page.get_by_role("button", name="Start the webcam")).to_be_visible()
    expect(page.get_by_label("Phrase to look for")).to_have_count(1)


def test_a_phrase_entered_while_the_webcam_starts_is_looked_for(server, open_page):
    page, waiting = open_page(f"{server.address}#live", permissions=["camera"]), []
    page.get_by_role("button", name="Start the webcam").wait_for()
    page.route("**/api/state", lambda route: waiting.append(route))
    page.get_by_role("button", name="Start the webcam").click()
    page.get_by_label("Phrase to look for").fill("red circle")
    page.get_by_label("Phrase to look for").press("Enter")
    until(page, lambda: waiting)[0].continue_()
    until(page, lambda: [each for each in page.sent if "red circle" in (each.get("phrases") or each.get("add") or [])])
    expect(page.locator(".live .over")).to_have_attribute("data-objects", TWO)


def test_a_copy_of_a_tab_shares_results_and_takes_no_answers_of_the_other(server, open_page):
    page = open_page(server.address)
    choose(page, "shapes")
    page.get_by_label("Phrase to look for").fill("red circle")
    page.get_by_label("Phrase to look for").press("Enter")
    page.get_by_label("Last frame of the range").fill("1")
    page.get_by_label("Last frame of the range").press("Enter")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(status(page)).to_have_text("Done: 2 frames.")
    with page.expect_popup() as opened:
        page.evaluate("open(location.href)")  # its session is copied, as when a tab is duplicated
    copy = opened.value
    expect(copy.locator(".timeline .name")).to_have_text(["1 red circle", "2 red circle"])
    copy.mouse.click(*point_at(copy, 115, 33))  # an object of its own: those of phrases count up from above it
    copy.get_by_role("button", name="Run", exact=True).click()
    for each in (copy, page):  # the latest result of the person
        expect(each.locator(".timeline .name")).to_have_text(["1 object 1", "2 red circle", "3 red circle"])
    tickets = [{each["ticket"] for each in of.sent if each["do"] == "run"} for of in (page, copy)]
    assert all(tickets)
    assert not tickets[0] & tickets[1]
