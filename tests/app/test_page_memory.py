"""A session over many clips: what a tab holds does not grow with them, and nothing that was asked for is lost."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.app.conftest import until
from tests.app.test_try_page import choose, go_to, orders, point_at, status, wait_for_model

from playwright.sync_api import expect  # isort: skip

ROWS = """function () { return this.reduce((sum, map) => sum + [...map.values()]
  .reduce((more, rows) => more + (Array.isArray(rows) ? rows.filter((row) => row?.rle).length : 0), 0), 0); }"""


def rows_held(page: Any) -> int:
    """Rows in all maps of the page's scripts, whether reachable by name or not."""
    tools = page.context.new_cdp_session(page)
    tools.send("HeapProfiler.collectGarbage")
    prototype = tools.send("Runtime.evaluate", {"expression": "Map.prototype"})["result"]["objectId"]
    maps = tools.send("Runtime.queryObjects", {"prototypeObjectId": prototype})["objects"]["objectId"]
    found = tools.send("Runtime.callFunctionOn", {"functionDeclaration": ROWS, "objectId": maps, "returnByValue": True})
    tools.detach()
    return found["result"]["value"]


def run_of_a_click(page: Any, name: str) -> None:
    choose(page, name)
    page.mouse.click(*point_at(page, 115, 33))
    page.get_by_label("Last frame of the range").fill("2")
    page.get_by_label("Last frame of the range").press("Enter")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(status(page)).to_have_text("Done: 3 frames.")


@pytest.fixture
def page(server, open_page, videos) -> Any:
    """With four clips more."""
    page, data = open_page(server.address), (videos / "shapes.mp4").read_bytes()
    wait_for_model(page)
    page.set_input_files(
        "input[type=file]", [{"name": f"day {n}", "mimeType": "video/mp4", "buffer": data} for n in range(4)]
    )
    expect(page.locator(".clips button").filter(has_text="day 3").first).to_be_visible()
    return page


def test_rows_of_clips_that_are_not_shown_are_on_the_server_alone_and_come_again(page):
    run_of_a_click(page, "day 0")
    go_to(page, 2)
    page.mouse.click(*point_at(page, 30, 30))  # a correction that no run has yet
    name = page.get_by_label("Name of object 1")
    name.fill("my ball")
    name.press("Enter")
    until(page, lambda: len(orders(page, True)) == 2)
    for n in (1, 2, 3):
        run_of_a_click(page, f"day {n}")
    expect(page.locator(".timeline .name")).to_have_text(["1 object 1"])
    assert 3 <= rows_held(page) <= 7  # of a run of 3 frames, as rows and in the timeline's order, and of a preview
    asked = len(orders(page, True))
    page.locator(".clips button").filter(has_text="day 0").first.click()
    expect(page.locator(".timeline .name")).to_have_text(["1 object 1"])
    expect(name).to_have_value("my ball")
    expect(status(page)).to_have_text("Done: 3 frames.")
    expect(page.locator(".player .picture")).to_have_attribute("data-frame", "2")
    again = until(page, lambda: orders(page, True)[asked:])[0]  # what is shown of the correction
    assert (again["start"], len(again["visual"]), again["phrases"]) == (2, 1, [])
    page.get_by_role("button", name="Run", exact=True).click()
    sent = until(page, lambda: orders(page, False)[4:])[0]
    assert [(each["frame"], each["label"]) for each in sent["visual"]] == [(0, "my ball"), (2, "my ball")]


def test_each_clip_is_compared_with_its_own_earlier_results(page):
    options = page.get_by_label("Compare with an earlier result").locator("option")
    values = []
    for name in ("day 0", "day 3"):
        run_of_a_click(page, name)
        page.mouse.click(*point_at(page, 30, 30), button="right")
        page.get_by_role("button", name="Run", exact=True).click()
        expect(options).to_have_count(2)
        values.append(options.last.get_attribute("value"))
    assert values[0] != values[1]
    choose(page, "day 0")
    expect(status(page)).to_have_text("Done: 3 frames.")
    expect(options.last).to_have_attribute("value", values[0])


def test_a_list_of_many_clips_shows_those_around_the_open_one_and_what_it_is_filtered_by(server, open_page):
    """All of them took seconds to draw, each time that one was opened."""

    def many(route: Any) -> None:
        state = route.fetch().json()
        first, *others = state["clips"]
        more = [{"key": f"x{n}", "name": f"other {n:04d}", "prompts": [f"phrase {n}"]} for n in range(2000)]
        route.fulfill(json={**state, "clips": [first, *more, *others]})

    page = open_page(server.address, prepare=lambda page: page.route("**/api/state", many))
    items, clips = page.locator(".clips li"), page.locator(".clips button")
    expect(page.locator(".player .picture")).to_have_attribute("data-frame", "0")
    expect(clips).to_have_count(400)
    expect(items.last).to_contain_text("more clips")
    page.get_by_label("Filter").fill("PHRASE 77")
    expect(clips).to_have_count(11)  # 77, 770 to 779
    page.get_by_label("Filter").fill("shapes")
    clips.first.click()
    page.get_by_label("Filter").fill("")
    expect(page.locator(".clips button.chosen")).to_contain_text("shapes")
    expect(items.first).to_have_text(re.compile("^2000 more clips"))
    expect(items.last).not_to_contain_text("more clips")


def test_a_clip_shows_its_own_objects_again_and_its_run_has_gone_on_meanwhile(page):
    choose(page, "day 1")
    page.get_by_label("Phrase to look for").fill("red circle")
    page.get_by_label("Phrase to look for").press("Enter")
    page.get_by_role("button", name="Run", exact=True).click()
    run_of_a_click(page, "day 2")  # behind the other in the queue
    choose(page, "day 1")
    expect(status(page)).to_have_text("Done: 24 frames.")
    expect(page.locator(".timeline .name")).to_have_text(["1 red circle", "2 red circle"])
    choose(page, "day 2")
    expect(page.locator(".timeline .name")).to_have_text(["1 object 1"])
