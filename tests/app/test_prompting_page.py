"""What is asked for on the page: painted masks, boxes by key, refined objects, thresholds, comparisons, a reload."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import sam3ray
from sam3ray.masks import decode_rle
from sam3ray.values.prompt_reading import parse_visual_prompts
from tests.app.conftest import SPEC, until
from tests.app.test_try_page import (
    choose,
    go_to,
    orders,
    plain,
    plain_rows,
    point_at,
    rows_of,
    status,
    wait_for_model,
)

from playwright.sync_api import expect  # isort: skip

HEIGHT, WIDTH = SPEC.height, SPEC.width


@pytest.fixture
def page(server, open_page):
    page = open_page(server.address)
    wait_for_model(page)
    choose(page, "shapes")
    return page


def drag(page: Any, start: tuple[float, float], end: tuple[float, float], button: str = "left") -> None:
    page.mouse.move(*point_at(page, *start))
    page.mouse.down(button=button)
    page.mouse.move(*point_at(page, *end), steps=5)
    page.mouse.up(button=button)


def look_for(page: Any, phrase: str) -> None:
    page.get_by_label("Phrase to look for").fill(phrase)
    page.get_by_label("Phrase to look for").press("Enter")
    page.get_by_label("Phrase to look for").press("Escape")


def set_range(page: Any, first: int, last: int) -> None:
    for name, frame in (("Last", last), ("First", first)):
        page.get_by_label(f"{name} frame of the range").fill(str(frame))
        page.get_by_label(f"{name} frame of the range").press("Enter")
    page.evaluate("document.activeElement.blur()")


def run(page: Any, frames: int) -> None:
    page.get_by_role("button", name="Run", exact=True).click()
    expect(status(page)).to_have_text(f"Done: {frames} frames.")


def shown(page: Any) -> list[int]:
    return [int(each) for each in (page.locator(".player .over").get_attribute("data-objects") or "").split()]


def slide(page: Any, name: str, value: float) -> None:
    page.get_by_label(name).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', { bubbles: true })); }", value
    )


def masks_of(page: Any) -> list[np.ndarray]:
    """The masks that previews were asked with, in order."""
    asked = [each["mask"] for order in orders(page, True) for each in order["visual"] if "mask" in each]
    return [decode_rle(each["counts"], *each["size"]) for each in asked]


def test_a_painted_mask_is_a_prompt_at_the_videos_resolution(page):
    page.keyboard.press("m")
    size = int(page.locator(".brush output").inner_text())
    page.keyboard.press("]")
    assert int(page.locator(".brush output").inner_text()) > size
    page.get_by_label("Size of the brush").fill("20")
    page.evaluate("document.activeElement.blur()")
    drag(page, (60, 90), (200, 90))
    painted = until(page, lambda: masks_of(page))[-1]
    assert painted.shape == (HEIGHT, WIDTH)
    assert painted[82:98, 60:200].all()
    assert not painted[:78].any()
    assert not painted[102:].any()
    assert not painted[:, :48].any()
    assert not painted[:, 212:].any()
    drag(page, (130, 70), (130, 110), button="right")
    erased = until(page, lambda: masks_of(page)[1:])[-1]
    assert not erased[80:100, 122:138].any()
    # By then the model may have answered, and what is shown is what is erased from.
    assert (erased & ~painted).sum() < 0.1 * painted.sum()
    assert erased[90, 100]
    expect(page.locator(".objects li")).to_contain_text("1 mask")
    page.mouse.move(*point_at(page, 130, 90))
    page.keyboard.press("q")  # a dab where the pointer is
    dabbed = until(page, lambda: masks_of(page)[2:])[-1]
    assert dabbed[90, 130]
    page.keyboard.press("f")
    set_range(page, 0, 1)
    run(page, 2)
    (row,) = [each for each in rows_of(page, None) if each["frame_index"] == 0]
    kept = decode_rle(row["segmentation"]["counts"], HEIGHT, WIDTH)
    assert (kept & dabbed).sum() / (kept | dabbed).sum() > 0.9


def test_strokes_before_the_brush_is_there_are_drawn_when_it_is_on_their_frames(page):
    waiting: list[Any] = []
    page.route("**/brush.js", lambda route: waiting.append(route))
    page.keyboard.press("m")
    page.get_by_label("Size of the brush").fill("20")
    page.evaluate("document.activeElement.blur()")
    drag(page, (60, 90), (200, 90))
    drag(page, (150, 90), (300, 90), button="right")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".player .picture")).to_have_attribute("data-frame", "1")
    page.mouse.move(*point_at(page, 100, 60))
    page.keyboard.press("q")
    until(page, lambda: waiting)[0].continue_()
    asked = until(page, lambda: len(orders(page, True)) == 3 and orders(page, True))
    assert [(each["start"], each["visual"][0]["object_id"]) for each in asked] == [(0, 1), (0, 1), (1, 1)]
    whole, part, dab = masks_of(page)
    assert whole[90, 60:200].all()
    assert part[90, 60:138].all()
    assert not part[90, 152:].any()
    assert (dab[60, 100], dab.sum() < 1000) == (True, True)
    expect(page.locator(".objects li")).to_contain_text("2 masks")


def test_a_brush_that_cannot_be_loaded_says_so_and_is_asked_for_again(page):
    page.route("**/brush.js", lambda route: route.abort(), times=1)
    page.keyboard.press("m")
    expect(page.locator(".toast.error")).to_contain_text("The server cannot be reached")
    drag(page, (60, 90), (200, 90))
    assert until(page, lambda: masks_of(page))[0][90, 60:200].all()


def test_a_stroke_belongs_to_the_frame_and_the_object_that_it_began_on(page):
    page.keyboard.press("m")
    page.mouse.move(*point_at(page, 60, 90))
    page.mouse.down()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("f")
    expect(page.locator(".player .picture")).to_have_attribute("data-frame", "1")
    expect(page.locator(".player .paint")).to_have_count(0)
    page.mouse.move(*point_at(page, 100, 90), steps=3)
    page.mouse.up()
    asked = until(page, lambda: orders(page, True))[0]
    assert (asked["start"], asked["visual"][0]["object_id"]) == (0, 1)
    expect(page.locator(".objects li:not(.empty)")).to_have_count(1)
    page.mouse.down()  # finished: the next stroke begins another object
    page.mouse.up()
    expect(page.locator(".objects li:not(.empty)")).to_have_count(2)


def test_the_wheel_and_gestures_of_the_browser_are_no_clicks(page):
    at = point_at(page, 115, 33)
    page.mouse.click(*at, button="middle")
    page.mouse.move(*at)
    page.mouse.down()
    page.mouse.move(at[0] + 60, at[1] + 30, steps=3)
    page.locator(".player .over").dispatch_event("pointercancel", {"pointerId": 1})
    page.mouse.up()
    expect(page.locator(".objects li:not(.empty)")).to_have_count(0)
    page.mouse.click(*at)
    expect(page.locator(".objects li:not(.empty)")).to_have_count(1)
    assert len(until(page, lambda: orders(page, True))) == 1


def test_signs_that_need_alt_on_a_keyboard_are_keys_too(page):
    go_to(page, 5)
    press = "(init) => document.body.dispatchEvent(new KeyboardEvent('keydown', { bubbles: true, ...init }))"
    for init in ({"key": "f", "altKey": True}, {"key": "[", "ctrlKey": True}):
        page.evaluate(press, init)  # the browser's own
    expect(page.get_by_label("First frame of the range")).to_have_value("0")
    page.evaluate(press, {"key": "[", "altKey": True, "ctrlKey": True})  # AltGr on Windows
    expect(page.get_by_label("First frame of the range")).to_have_value("5")
    page.evaluate(press, {"key": "]", "altKey": True})  # Option on a Mac
    expect(page.get_by_label("Last frame of the range")).to_have_value("5")


def test_a_phrase_that_is_typed_twice_is_one_and_an_end_that_is_deleted_comes_back(page):
    look_for(page, "red circle, star; Red Circle")
    expect(page.locator(".chip:not(.ghost)")).to_have_text(["red circle×", "star×"])
    assert until(page, lambda: orders(page, True))[-1]["phrases"] == ["red circle", "star"]
    last = page.get_by_label("Last frame of the range")
    last.fill("")
    last.press("Enter")
    expect(last).to_have_value(str(SPEC.frames - 1))


def test_a_negative_click_needs_an_object(page):
    """The model is not asked, and no object begins; with one, the click is its correction."""
    page.mouse.click(*point_at(page, 120, 40), button="right")
    expect(page.locator(".toast")).to_contain_text("select one, or click on one first")
    expect(page.locator(".objects li:not(.empty)")).to_have_count(0)
    page.mouse.click(*point_at(page, 120, 40))
    page.mouse.click(*point_at(page, 200, 100), button="right")
    asked = until(page, lambda: [v["labels"] for o in orders(page, True) for v in o["visual"]][1:])
    assert asked == [[1, 0]]
    assert orders(page, True)[0]["visual"][0]["labels"] == [1]


def test_boxes_and_counterexamples_by_key(page):
    for corner in ((100, 20), (140, 60)):
        page.mouse.move(*point_at(page, *corner))
        page.keyboard.press("c")
    box = until(page, lambda: [v["box"] for o in orders(page, True) for v in o["visual"] if "box" in v])[-1]
    assert all(abs(a - b) <= 1 for a, b in zip(box, (100, 20, 140, 60), strict=True))
    page.keyboard.press("Delete")
    expect(page.locator(".objects li:not(.empty)")).to_have_count(0)
    page.keyboard.press("w")
    drag(page, (100, 20), (140, 60))
    page.keyboard.press("x")
    drag(page, (200, 100), (240, 140))
    asked = until(
        page,
        lambda: [
            o["exemplars"] for o in orders(page, True) if len(o["exemplars"]) and o["exemplars"][0]["labels"] == [1, 0]
        ],
    )
    assert len(asked[-1][0]["boxes"]) == 2


def click_away_an_edge(page, rows):
    """A negative click just inside the first object's left edge, on frame 20."""
    page.locator(".timeline .name").first.click()
    go_to(page, 20)
    box = next(each["bbox"] for each in rows if each["frame_index"] == 20 and each["object_id"] == 1)
    page.mouse.move(*point_at(page, box["xmin"] + 3, (box["ymin"] + box["ymax"]) / 2))
    page.keyboard.press("e")


def test_an_object_of_a_phrase_is_refined_on_a_later_frame(page):
    look_for(page, "red circle")
    run(page, SPEC.frames)
    before = rows_of(page, None)
    click_away_an_edge(page, before)
    asked = until(page, lambda: [o["visual"] for o in orders(page, True) if o["visual"]])[-1]
    assert [sorted(set(each) & {"mask", "points"}) for each in asked] == [
        ["mask"],
        ["points"],
    ]  # its mask, then the click
    assert {each["object_id"] for each in asked} == {1}
    assert asked[1]["labels"] == [0]
    page.get_by_role("button", name="Run", exact=True).click()
    done = re.compile(f"Done: {SPEC.frames} frames, ([0-9]+) of them from the run before.")
    expect(status(page)).to_have_text(done)  # it went on from there
    sent = orders(page, False)[-1]
    assert sent["visual"] == []
    assert [each["object_id"] for each in sent["refinements"]] == [1]
    after = rows_of(page, None)
    early = [[row for row in plain_rows(rows) if row[0] < 20] for rows in (before, after)]
    assert early[0] == early[1]
    assert plain_rows(before) != plain_rows(after)
    assert {(each["object_id"], each["prompt"]) for each in after} == {
        (each["object_id"], each["prompt"]) for each in before
    }


def test_a_correction_of_a_run_both_ways_goes_on_from_there(page):
    look_for(page, "red circle")
    go_to(page, 10)
    page.get_by_role("radio", name="Both ways").click()
    run(page, SPEC.frames)
    before = rows_of(page, None)
    click_away_an_edge(page, before)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(status(page)).to_contain_text("of them from the run before")
    kept = int(status(page).inner_text().partition("frames, ")[2].split()[0])
    assert kept >= 10  # all that was found on the way back, and more
    after = rows_of(page, None)
    early = [[row for row in plain_rows(rows) if row[0] < 20] for rows in (before, after)]
    assert early[0] == early[1]
    assert plain_rows(before) != plain_rows(after)


def test_thresholds_show_their_effect_at_once_and_two_results_compare(page):
    look_for(page, "red circle")
    set_range(page, 0, 2)
    run(page, 3)
    page.get_by_text("Thresholds").click()
    until(page, lambda: shown(page) == [1, 2])
    slide(page, "New object from score", 1)
    expect(page.locator(".effect")).to_contain_text("score below 1")
    slide(page, "New object from score", 0.9)
    slide(page, "Detection from score", 1)
    until(page, lambda: shown(page) == [])  # what this frame would be
    assert orders(page, True)[-1]["thresholds"] == {"new_det_thresh": 0.9, "score_threshold_detection": 1}
    slide(page, "Detection from score", 0.4)
    run(page, 3)
    page.get_by_label("Compare with an earlier result").select_option(index=1)
    expect(page.locator(".beside .over")).to_have_attribute("data-objects", "1 2")
    expect(page.locator(".beside .caption")).to_have_text("red circle: 2 objects on this frame, 2 in all.")
    expect(page.locator(".panel .caption")).to_contain_text("new_det_thresh 0.9 · score_threshold_detection 0.4: ")
    go_to(page, 2)
    expect(page.locator(".beside .picture")).to_have_attribute("data-frame", "2")


def test_backward_from_the_middle(page, videos):
    go_to(page, 12)
    page.mouse.click(*point_at(page, 115, 33))
    page.keyboard.press("]")  # the range ends here
    page.get_by_role("radio", name="Backward").click()
    run(page, 13)
    sent = orders(page, False)[-1]
    assert (sent["way"], sent["first"], sent["last"]) == ("backward", 0, 12)
    prompts, _ = parse_visual_prompts(sent["visual"])
    expected = sam3ray.track_video(
        videos / "shapes.mp4", prompts, direction="backward", model=sam3ray.load("embedded", device="cpu")
    )
    rows = plain_rows(rows_of(page, None))
    assert rows == [row for row in plain(expected) if row[0] <= 12]
    assert {row[0] for row in rows} == set(range(13))


def test_all_that_was_asked_for_is_there_after_a_reload(page):
    look_for(page, "blue star")
    go_to(page, 4)
    page.mouse.click(*point_at(page, 115, 33))
    page.get_by_label("Name of object 1").fill("my ball")
    page.get_by_label("Name of object 1").press("Enter")
    set_range(page, 2, 9)
    page.get_by_role("radio", name="Both ways").click()
    page.get_by_text("Thresholds").click()
    slide(page, "New object from score", 0.55)
    page.reload()
    expect(page.locator(".picture").first).to_have_attribute("data-frame", "4")
    expect(page.locator(".clips button.chosen")).to_contain_text("shapes")
    expect(page.locator(".chip").first).to_contain_text("blue star")
    expect(page.get_by_label("Name of object 1")).to_have_value("my ball")
    expect(page.get_by_label("First frame of the range")).to_have_value("2")
    expect(page.get_by_label("Last frame of the range")).to_have_value("9")
    expect(page.get_by_role("radio", name="Both ways")).to_have_attribute("aria-checked", "true")
    wait_for_model(page)
    run(page, 8)
    sent = orders(page, False)[-1]
    assert sent["phrases"] == ["blue star"]
    assert sent["thresholds"] == {"new_det_thresh": 0.55}
    assert sent["start"] == 4
    assert [each["label"] for each in sent["visual"]] == ["my ball"]


def test_a_phone_held_upright_shows_all_of_it(server, open_page):
    page = open_page(server.address, (390, 844), has_touch=True, is_mobile=True)
    choose(page, "shapes")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator(".player .over").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert box["y"] + box["height"] <= 844
    assert box["width"] > 340
    for name in ("Play or pause", "Frame number"):
        assert page.get_by_label(name).bounding_box()["x"] + page.get_by_label(name).bounding_box()["width"] <= 390
    page.get_by_label("Play or pause").tap()
    expect(page.locator(".player .picture")).to_have_attribute("data-frame", str(SPEC.frames - 1))


def test_light_and_dark_follow_the_system_until_one_is_chosen(server, open_page):
    page = open_page(server.address, color_scheme="dark")
    choose(page, "shapes")

    def light() -> int:
        return int(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))

    assert light() < 60
    page.get_by_label("Switch between light and dark").click()
    assert light() > 200
    page.reload()
    assert light() > 200
