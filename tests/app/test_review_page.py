"""Correcting a run in a real browser: each operation, undo, two reviewers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sam3ray import read_annotations
from sam3ray.revisions import Edits, Rename, check_edits
from sam3ray.shapes import write_clip
from sam3ray.store import RunStore
from sam3ray.values.clip import Clip
from tests.app.conftest import SPEC, Served, make_reviewed, tap, until
from tests.app.test_try_page import choose, go_to, point_at, wait_for_model

from playwright.sync_api import expect  # isort: skip


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reviewed(tmp_path_factory.mktemp("review"))


@pytest.fixture(scope="module")
def desk(reviewed: Path) -> Iterator[Served]:
    moved = RunStore(str(reviewed.parent / "moved"))  # a run whose video is no longer there
    clips = [Clip(name, str(reviewed.parent / f"{name}.mp4"), ("circle",)) for name in ("lost", "first")]
    moved.create_or_open({"schema_version": 1}, {}, clips)
    write_clip(SPEC, reviewed.parent / "again.mp4", reviewed.parent / "again.parquet")
    moved.commit("first", reviewed.parent / "again.parquet")
    write_clip(SPEC, reviewed.parent / "lost.mp4", reviewed.parent / "lost.parquet")
    (reviewed.parent / "lost.mp4").unlink()
    moved.commit("lost", reviewed.parent / "lost.parquet")
    sources = [str(each) for each in (reviewed, reviewed.parent / "moved", reviewed.parent / "first.mp4")]
    served = Served(*sources, "--checkpoint", "embedded", "--author", "ann")
    yield served
    served.close()


def rows(run: Path, clip: str) -> dict[tuple[int, int], dict[str, Any]]:
    table = read_annotations(str(run), revision="latest").to_table().to_pylist()
    return {(r["frame_index"], r["object_id"]): r for r in table if r["clip_id"] == clip}


def revision(run: Path) -> int:
    return Edits(RunStore(str(run))).latest()


def open_clip(page: Any, name: str) -> None:
    choose(page, name)
    expect(page.locator(".timeline .name").first).to_be_visible()


def choose_object(page: Any, object_id: int) -> None:
    page.evaluate("document.activeElement.blur()")
    page.locator(".timeline .name").filter(has_text=f"{object_id} ").first.click()
    expect(page.locator(".editing h2")).to_have_text(f"Object {object_id}")


def press(page: Any, *keys: str) -> None:
    page.evaluate("document.activeElement.blur()")
    for key in keys:
        page.keyboard.press(key)


def saved(page: Any, count: int) -> None:
    expect(page.locator(".history li:not(.empty)")).to_have_count(count)


def test_every_operation_is_a_revision_and_can_be_undone(desk, reviewed, open_page):
    page = open_page(desk.address)
    open_clip(page, "second")
    before = rows(reviewed, "second")
    one, two = sorted({o for _, o in before})[:2]
    frames = sorted({f for f, _ in before})
    middle = frames[len(frames) // 2]
    done = 0

    def after(*keys: str, other: int | None = None, frame: int = 0) -> dict[tuple[int, int], dict[str, Any]]:
        nonlocal done
        go_to(page, frame)
        choose_object(page, one)
        if other is not None:
            page.get_by_label("Other id").fill(str(other))
        press(page, *keys)
        done += 1
        saved(page, done)
        return rows(reviewed, "second")

    def undo() -> None:
        nonlocal done
        press(page, "Control+z")
        done += 1
        saved(page, done)
        assert rows(reviewed, "second") == before

    swapped = after("1", "x", other=two)
    assert [k for k in swapped if k[1] == one] == [(f, one) for f, o in before if o == two]
    undo()
    later = after("2", "x", other=two, frame=middle)
    assert all(
        (later[f, one] == before[f, one]) == (f < middle) for f in frames if (f, one) in before and (f, two) in before
    )
    undo()
    moved = after("1", "i", other=77)
    assert {o for _, o in moved} == ({o for _, o in before} - {one}) | {77}
    undo()
    merged = after("1", "m", other=two)
    assert {o for _, o in merged} == {o for _, o in before} - {two}
    assert merged[frames[0], one]["area"] >= before[frames[0], one]["area"]
    undo()
    split = after("t", frame=middle)
    assert {f for f, o in split if o == one} == {f for f, o in before if o == one and f < middle}
    undo()
    gone = after("3", "d", frame=middle)
    assert set(before) - set(gone) == {(middle, one)}
    undo()
    gone = after("2", "d", frame=middle)
    assert set(before) - set(gone) == {(f, o) for f, o in before if o == one and f >= middle}
    undo()
    choose_object(page, one)
    press(page, "1")
    page.get_by_label("Label").fill("<script>alert(1)</script>")
    page.get_by_label("Label").press("Enter")
    done += 1
    saved(page, done)
    assert {r["prompt"] for (_, o), r in rows(reviewed, "second").items() if o == one} == {"<script>alert(1)</script>"}
    press(page, "Control+z")
    done += 1
    saved(page, done)
    press(page, "Control+y")  # and back again
    done += 1
    saved(page, done)
    page.reload()
    expect(page.locator(".history li:not(.empty)")).to_have_count(done)  # the same clip, the same log
    expect(page.locator(".timeline .name").first).to_contain_text("<script>alert(1)</script>")
    assert revision(reviewed) == done
    assert check_edits(RunStore(str(reviewed))) == []


def test_an_id_that_is_refused_leaves_the_object_chosen(desk, reviewed, open_page):
    page = open_page(desk.address)
    open_clip(page, "first")
    choose_object(page, 1)
    before = rows(reviewed, "first")
    page.get_by_label("Other id").fill("2")
    press(page, "1", "i")
    expect(page.locator(".toast.error")).to_contain_text("2")  # it exists
    expect(page.locator(".editing h2")).to_have_text("Object 1")
    press(page, "3", "d")
    saved(page, 1)
    assert set(before) - set(rows(reviewed, "first")) == {(0, 1)}
    press(page, "Control+z")
    saved(page, 2)


def test_accepting_stays_within_what_the_list_is_filtered_by(desk, reviewed, open_page):
    page = open_page(desk.address)
    open_clip(page, "first")
    page.get_by_label("Filter").fill("FIRST")
    press(page, "a")
    expect(page.locator(".toast")).to_contain_text("All clips of the list are accepted")
    expect(page.locator(".clips button.chosen")).to_contain_text("first")
    press(page, "Control+z")
    expect(page.locator(".clips button")).not_to_contain_text("✓")
    page.get_by_label("Filter").fill("")
    page.get_by_label("Status").select_option("doubtful")
    expect(page.locator(".clips button")).to_have_count(0)


def test_corrections_made_faster_than_they_are_saved_are_all_saved_on_their_frames(desk, reviewed, open_page):
    page, waiting = open_page(desk.address), []
    open_clip(page, "second")
    count, before = page.locator(".history li:not(.empty)").count(), rows(reviewed, "second")
    one = min(o for f, o in before if {(n, o) for n in range(3)} <= set(before))
    choose_object(page, one)
    go_to(page, 0)
    press(page, "3")
    page.route("**/second/edit", lambda route: waiting.append(route))
    page.route("**/stills/*", lambda route: waiting.append(route))
    press(page, "d", "ArrowRight", "d", "ArrowRight", "d")  # the pictures are not there either
    page.locator(".clips button").filter(has_text="first").click()  # and on to the next clip
    for _ in range(3):
        route = until(page, lambda: [each for each in waiting if each.request.url.endswith("edit")])[0]
        waiting.remove(route)
        with page.expect_response("**/second/edit") as answer:
            route.continue_()
        assert answer.value.status == 200
    assert set(before) - set(rows(reviewed, "second")) == {(n, one) for n in range(3)}
    page.unroute_all()
    open_clip(page, "second")
    saved(page, count + 3)
    expect(page.locator(".drafts")).to_be_hidden()
    expect(page.locator(".toast")).to_have_count(0)
    press(page, "Control+z", "Control+z", "Control+z")
    saved(page, count + 6)
    assert rows(reviewed, "second") == before


def test_a_range_that_is_not_typed_is_no_frame(desk, reviewed, open_page):
    page = open_page(desk.address)
    open_clip(page, "second")
    count, before = page.locator(".history li:not(.empty)").count(), rows(reviewed, "second")
    press(page, "4")
    first, last = page.get_by_label("First frame of the range"), page.get_by_label("Last frame of the range")
    first.fill("")
    press(page, "d")
    expect(page.locator(".toast")).to_contain_text("First type the frames of the range")
    expect(first).to_be_focused()
    first.fill("9")
    last.fill("3")  # the other way round
    press(page, "d")
    saved(page, count + 1)
    expect(page.locator(".history li").first).to_contain_text("frames 3 to 9")
    press(page, "Control+z")
    saved(page, count + 2)
    assert rows(reviewed, "second") == before


def test_a_new_mask_comes_from_clicks(desk, reviewed, open_page):
    page = open_page(desk.address)
    wait_for_model(page)
    open_clip(page, "first")
    go_to(page, 12)
    choose_object(page, 1)
    before, count = rows(reviewed, "first"), page.locator(".history li:not(.empty)").count()
    press(page, "n")
    page.mouse.click(*point_at(page, 115, 33))
    use = page.get_by_role("button", name="Use this mask")
    expect(use).to_be_enabled()  # the model has answered
    use.click()
    saved(page, count + 1)
    after = rows(reviewed, "first")
    changed = {key for key in after if after[key] != before.get(key)}
    assert changed == {(12, 1)}
    assert after[12, 1]["score"] == 1
    press(page, "Control+z")
    saved(page, count + 2)
    press(page, "n")
    for frame in (12, 13):  # masks of several frames are one correction
        go_to(page, frame)
        page.mouse.click(*point_at(page, 115, 33))
        expect(page.locator(".marks .click")).to_have_count(1)
    expect(use).to_be_enabled()
    press(page, "Enter")
    saved(page, count + 3)
    expect(use).to_be_hidden()
    after = rows(reviewed, "first")
    assert {key for key in after if after[key] != before.get(key)} == {(12, 1), (13, 1)}
    press(page, "Control+z")
    saved(page, count + 4)


def test_two_reviewers_do_not_lose_each_others_work(desk, reviewed, open_page):
    ann, bob = open_page(desk.address), open_page(desk.address)
    for page, name in ((ann, "ann"), (bob, "bob")):
        open_clip(page, "first")
        page.get_by_label("Your name").fill(name)
        page.get_by_label("Your name").press("Tab")
    start, parent = ann.locator(".history li:not(.empty)").count(), revision(reviewed)
    choose_object(ann, 2)
    ann.get_by_label("Label").fill("ann's circle")
    ann.get_by_label("Label").press("Enter")
    saved(ann, start + 1)
    saved(bob, start + 1)  # he hears of it at once
    expect(bob.locator(".timeline .name").nth(1)).to_contain_text("ann's circle")
    # What he asks for with the revision that he saw before is refused: nothing of hers is overwritten.
    status, message = bob.evaluate(
        """async (parent) => {
          const response = await fetch("/api/runs/0/clips/first/edit", {method: "POST", body: JSON.stringify(
            {operations: [{op: "rename", object: 2, label: "bob's"}], parent, author: "bob"})});
          return [response.status, (await response.json()).message]; }""",
        parent,
    )
    assert (status, revision(reviewed)) == (409, parent + 1)
    assert "ann" in message
    press(bob, "Control+z")  # takes back his own corrections, not hers
    expect(bob.locator(".toast.error")).to_contain_text("bob has nothing to undo")


def test_a_draft_survives_and_can_be_applied(desk, reviewed, open_page):
    page = open_page(desk.address)
    open_clip(page, "first")
    count = page.locator(".history li:not(.empty)").count()

    def late(route: Any) -> None:
        """Somebody else is faster: the same object is renamed while this request is on its way."""
        if not carol:
            carol.append(Edits(RunStore(str(reviewed))).append([Rename("first", 1, "theirs")], author="carol"))
        route.continue_()

    carol: list[int] = []
    page.route("**/first/edit", late)
    choose_object(page, 1)
    page.get_by_label("Label").fill("mine")
    page.get_by_label("Label").press("Enter")
    expect(page.locator(".toast.error")).to_contain_text("carol")
    expect(page.locator(".drafts")).to_contain_text("mine")
    saved(page, count + 1)
    page.reload()
    page.locator(".drafts").get_by_role("button", name="Apply").click()
    saved(page, count + 2)
    expect(page.locator(".drafts")).to_be_hidden()
    assert rows(reviewed, "first")[0, 1]["prompt"] == "mine"


@pytest.mark.parametrize("answer", ["none", 503])
def test_a_correction_that_does_not_arrive_is_a_draft(desk, reviewed, open_page, answer):
    page = open_page(desk.address)
    open_clip(page, "first")
    before = revision(reviewed)
    label = f"not {answer}"
    page.route("**/first/edit", lambda route: route.abort() if answer == "none" else route.fulfill(status=answer))
    choose_object(page, 1)
    page.get_by_label("Label").fill(label)
    page.get_by_label("Label").press("Enter")
    expect(page.locator(".toast.error")).to_contain_text("kept as a draft")
    expect(page.locator(".drafts")).to_contain_text("rename")
    assert revision(reviewed) == before
    page.unroute("**/first/edit")
    page.locator(".drafts").get_by_role("button", name="Apply").click()
    expect(page.locator(".drafts")).to_be_hidden()
    assert rows(reviewed, "first")[0, 1]["prompt"] == label


def test_drafts_are_known_by_what_they_change_and_lists_keep_their_elements(desk, reviewed, open_page):
    page, waiting = open_page(desk.address), []
    open_clip(page, "second")
    ids = sorted({o for _, o in rows(reviewed, "second")})[:3]
    drafts = [{"operations": [{"op": "rename", "object": n, "label": f"draft {n}"}], "words": f"as {n}"} for n in ids]
    page.evaluate(
        "([key, drafts]) => { localStorage[key] = JSON.stringify(drafts); }", [f"draft {reviewed} second", drafts]
    )
    page.reload()
    rows_of_drafts = page.locator(".drafts .row")
    expect(rows_of_drafts).to_have_count(3)
    count = page.locator(".history li:not(.empty)").count()
    page.evaluate("document.querySelectorAll('.history li').forEach((each) => { each.isOld = true; })")
    page.route("**/second/edit", lambda route: waiting.append(route))
    for n in (0, 1):
        rows_of_drafts.nth(n).get_by_role("button", name="Apply").click()
    rows_of_drafts.nth(2).get_by_role("button", name="Discard").hover()
    page.mouse.down()
    for n in (0, 1):  # one after the other
        until(page, lambda n=n: waiting[n:])[0].continue_()
    expect(rows_of_drafts).to_have_count(1)  # those that were applied are gone
    saved(page, count + 2)
    page.mouse.up()
    expect(page.locator(".drafts")).to_be_hidden()
    kept = "[...document.querySelectorAll('.history li')].map((each) => Boolean(each.isOld))"
    assert page.evaluate(kept) == [False, False, *[True] * count]
    names = {o: r["prompt"] for (_, o), r in rows(reviewed, "second").items()}
    assert [names[n] == f"draft {n}" for n in ids] == [True, True, False]


def test_ones_own_correction_is_no_news_and_a_label_being_typed_stays(desk, reviewed, open_page):
    ann, bob = open_page(desk.address), open_page(desk.address)
    for page in (ann, bob):
        open_clip(page, "second")
        choose_object(page, 1)
    count = ann.locator(".history li:not(.empty)").count()
    bob.get_by_label("Label").fill("being typ")
    bob.get_by_label("Your name").focus()  # the field has lost the focus, not the text
    asked: list[str] = []
    ann.on("request", lambda request: asked.append(f"{request.method} {request.url.rpartition('/')[2]}"))
    ann.get_by_label("Label").fill("a name")
    ann.get_by_label("Label").press("Enter")
    for page in (ann, bob):
        saved(page, count + 1)
    expect(bob.locator(".timeline .name").first).to_contain_text("a name")
    expect(bob.get_by_label("Label")).to_have_value("being typ")
    expect(bob.locator(".toast")).to_contain_text("ann has corrected")
    expect(ann.locator(".toast")).to_have_count(0)
    assert asked == ["POST edit", "GET second"]  # the rows, which are many in a long clip, come once
    press(ann, "Control+z")
    saved(ann, count + 2)


def test_what_is_done_while_a_clip_opens_waits_for_it(desk, reviewed, open_page):
    page, waiting = open_page(desk.address), []
    open_clip(page, "first")
    count = page.locator(".history li:not(.empty)").count()
    page.route("**/second/picture", lambda route: waiting.append(route))
    page.locator(".clips button").filter(has_text="second").click()
    until(page, lambda: waiting)
    press(page, "3", "d")  # delete the chosen object on this frame
    waiting[0].continue_()
    expect(page.locator(".history li").first).to_contain_text("1 deleted on frame 0")
    expect(page.locator(".clips button.chosen")).to_contain_text("second")
    assert (0, 1) not in rows(reviewed, "second")
    open_clip(page, "first")
    saved(page, count)


def test_what_others_do_to_other_clips_and_while_the_connection_is_lost_is_shown(desk, reviewed, open_page):
    sockets: list[Any] = []
    page = open_page(desk.address, prepare=lambda page: sockets.append(tap(page)))
    open_clip(page, "second")
    count, edits = page.locator(".history li:not(.empty)").count(), Edits(RunStore(str(reviewed)))
    other = page.locator(".clips button").filter(has_text="first")
    expect(other).not_to_contain_text("✓")
    ask = """([of, operations, parent]) => fetch(`/api/runs/0/clips/${of}/edit`,
      {method: "POST", body: JSON.stringify({operations, parent, author: "dora"})}).then((each) => each.status)"""
    assert page.evaluate(ask, ["first", [{"op": "accept"}], edits.latest()]) == 200
    expect(other).to_contain_text("✓")  # without a reload, so that nobody reviews it again
    edits = Edits(RunStore(str(reviewed)))
    object_id = min(o for _, o in rows(reviewed, "second"))
    edits.append([Rename("second", object_id, "unheard")], author="dora")  # the server tells nobody of it
    edits.append([Rename("first", 1, "unheard")], author="dora")
    sockets[0][0].close()
    saved(page, count + 1)
    expect(page.locator(".timeline .name").first).to_contain_text("unheard")
    expect(other).to_contain_text("✎")


def test_a_clip_that_opens_late_does_not_open_in_another_run(desk, reviewed, open_page):
    page, waiting = open_page(desk.address), []
    open_clip(page, "second")
    Edits(RunStore(str(reviewed))).append([Rename("first", 1, "of the first run")], author="dora")
    page.route("**/api/runs/0/clips/first", lambda route: waiting.append(route))
    page.locator(".clips button").filter(has_text="first").click()
    until(page, lambda: waiting)
    page.get_by_label("Run").select_option("moved")
    open_clip(page, "first")  # another, of the same name
    with page.expect_response("**/api/runs/0/clips/first"):
        waiting[0].continue_()
    page.wait_for_timeout(300)
    expect(page.locator(".history")).to_have_text("No corrections yet.")
    expect(page.locator(".timeline .name").first).not_to_contain_text("of the first run")


def test_an_address_that_names_no_clip_opens_the_first(desk, open_page):
    page = open_page(f"{desk.address}#review/%E0%A4%A")
    expect(page.locator(".clips button.chosen")).to_have_count(1)
    expect(page.locator(".toast")).to_have_count(0)


def test_accepting_goes_to_the_next_clip(desk, reviewed, open_page):
    page = open_page(desk.address)
    open_clip(page, "first")
    press(page, "a")
    expect(page.locator(".clips button.chosen")).to_contain_text("second")
    expect(page.locator(".clips button").filter(has_text="first")).to_contain_text("✓")
    page.get_by_label("Status").select_option("accepted")
    expect(page.locator(".clips button")).to_have_count(1)
    page.get_by_label("Status").select_option("failed")
    page.locator(".clips button").click()
    expect(page.locator(".toast").last).to_contain_text("the file does not exist")


def test_a_clip_whose_video_is_gone_opens_on_a_plain_background(desk, reviewed, open_page):
    page = open_page(desk.address)
    open_clip(page, "first")
    page.get_by_label("Run").select_option("moved")
    open_clip(page, "lost")
    expect(page.locator(".note")).to_contain_text("No video: not_found")
    go_to(page, 5)
    shown = page.evaluate(
        "() => { const c = document.querySelector('.picture'); return [c.width, c.height, c.dataset.frame,"
        " ...c.getContext('2d').getImageData(3, 3, 1, 1).data]; }"
    )
    assert shown == [SPEC.width, SPEC.height, "5", 128, 128, 128, 255]
    assert page.locator(".over").get_attribute("data-objects")
    choose_object(page, 1)
    press(page, "n")
    expect(page.locator(".toast").last).to_contain_text("No video")
    press(page, "3", "d")  # what needs no picture still works
    saved(page, 1)
    assert (5, 1) not in rows(reviewed.parent / "moved", "lost")
