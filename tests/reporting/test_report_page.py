"""report.html: what stands on it, whatever labels and names say, and that a browser finds nothing to load or run."""

from __future__ import annotations

import html
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sam3ray.annotations import AnnotationWriter, FrameAnnotations, ObjectAnnotation
from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Failure, Reason
from sam3ray.job.reporting import report
from sam3ray.manifest import Clip
from sam3ray.masks import encode_masks
from sam3ray.reporting import MOST_BYTES, Still, StillsOrder, gather, render_page, stills_of
from sam3ray.shapes import ClipSpec, annotate, clip_phrases, write_clip
from sam3ray.store import RunStore

HOSTILE = "<script>alert(1)</script>\"'&\u202e{{ 7 * 7 }}\x1b[31m"
SPEC = ClipSpec(3, 96, 64, frames=12, objects=(2, 2), look="plain")


def block(object_id, x, prompt, score=0.9):
    mask = np.zeros((1, 64, 96), bool)
    mask[0, 20:32, x : x + 12] = True
    found = encode_masks(mask)[0]
    box = tuple(map(float, found.bbox))
    return ObjectAnnotation(object_id, prompt, score, score, box, found.area, found.rle)


def commit(store, folder, clip_id, frames, **facts):
    path = folder / f"{clip_id}.parquet"
    with AnnotationWriter(path, clip_id, {"clip": facts}) as writer:
        for frame in frames:
            writer.write(frame)
        writer.finish(seconds=36.0, timings={"segment": 30.0, "decode": 5.0})
    assert store.commit(clip_id, path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: a drawn clip with its video, one that flickers, an empty one, two failures, hostile texts."""
    folder = tmp_path_factory.mktemp("report")
    video = folder / "drawn.mp4"
    write_clip(SPEC, video, folder / "drawn.truth.parquet")
    phrase = clip_phrases(SPEC)[0]
    store = RunStore(str(folder / "run"))
    clips = [
        Clip("drawn", str(video), (phrase, HOSTILE)),
        Clip("flicker", f"/videos/{HOSTILE}.mp4", (phrase,)),
        Clip("empty", "/videos/empty.mp4", (phrase,)),
        Clip("broken", "/videos/broken.mp4", (phrase,)),
        Clip("gone", "/videos/gone.mp4", (phrase,)),
    ]
    config = {"model": {"checkpoint": HOSTILE}, "cluster": {"gpus_per_actor": 0.5}, "manifest": "clips.csv"}
    store.create_or_open({"schema_version": 1}, config, clips, extra={"versions": {"sam3ray": "0.2.0"}})
    commit(store, folder, "drawn", annotate(SPEC, [phrase]))
    frames = [
        FrameAnnotations(t, t, t / 10, 64, 96, (block(1, 20 + t, HOSTILE, 0.6),) if t % 3 else ()) for t in range(30)
    ]
    commit(store, folder, "flicker", frames)
    commit(store, folder, "empty", [FrameAnnotations(t, t, t / 10, 64, 96) for t in range(30)])
    for clip_id, reason in (("broken", Reason.UNREADABLE_VIDEO), ("gone", Reason.NOT_FOUND)):
        store.record_failure(
            Failure(clip_id=clip_id, attempt=1, reason=reason, message=f"{HOSTILE} at frame 3", final=True)
        )
    store.write_clips_table(store.summaries())
    (folder / "video.mp4").write_bytes(b"video")
    store.publish_video("flicker", folder / "video.mp4")
    return folder / "run"


def text_of(page: str) -> str:
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_the_page_says_what_the_run_was_and_found(run):
    facts = gather(RunStore(str(run)))
    assert (facts.outcomes, facts.frames, facts.looked_at) == ({"done": 3, "failed": 2}, 72, 3)
    assert facts.device == "GPU"
    assert facts.device_hours == pytest.approx(3 * 36 * 0.5 / 3600)
    assert facts.stages == {"segment": 90.0, "decode": 15.0}
    assert [(group.reason, group.count) for group in facts.failures] == [("not_found", 1), ("unreadable_video", 1)]
    prompts = {each.prompt: each for each in facts.prompts}
    assert (prompts[clip_phrases(SPEC)[0]].asked, prompts[HOSTILE].objects) == (5 - 2, 1)
    assert [card.clip_id for card in facts.worst] == ["flicker", "drawn"]
    assert facts.worst[0].has_video
    text = text_of(render_page(facts))
    doubt = "the detector was not sure (score 0.60)"
    for said in ("3 of 5 clips done", "unreadable_video", "at frame 3", doubt, "Look at frame"):
        assert said in text


def test_nothing_from_outside_becomes_markup(run):
    page = render_page(gather(RunStore(str(run))))
    assert "<script" not in page.lower()
    assert "{{ 7 * 7 }}" in text_of(page)  # it is text, no template
    assert not {"\u202e", "\x1b"} & set(page)
    tags = {name.lower() for name in re.findall(r"<\s*([a-zA-Z0-9!]+)", page)}
    assert tags <= {
        *("!doctype", "html", "head", "meta", "title", "link", "style", "body", "header", "div", "h1", "h2", "h3", "p"),
        *("i", "span", "b", "nav", "a", "main", "section", "dl", "dt", "dd", "details", "summary", "pre", "code"),
        *("table", "thead", "tbody", "tr", "th", "td", "ul", "li", "br", "svg", "line", "rect", "text", "article"),
        *("figure", "img", "figcaption", "footer"),
    }
    assert set(re.findall(r'href="([^"#][^"]*)"', page)) == {"data:,", "videos/flicker.mp4"}


def test_the_command_without_stills_needs_no_ray(run):
    done = report(str(run), stills=False)
    assert (done.clips, done.looked_at, done.stills) == (5, 3, 0)
    data = (run / "report.html").read_bytes()
    assert len(data) == done.size_bytes
    assert b"sam3ray report</code> adds stills" in data


def test_a_sample_says_so(run):
    facts = gather(RunStore(str(run)), sample=2)
    assert facts.looked_at == 2
    assert "From the rows of 2 clips, spread evenly" in text_of(render_page(facts))


class TestStills:
    def order(self, run, count=6):
        return StillsOrder(RunStore(str(run)), {}, VideoConfig(), count)

    def clip(self, run, clip_id):
        return next(clip for clip in RunStore(str(run)).manifest() if clip.clip_id == clip_id)

    def test_the_suspect_frame_is_among_them_and_marked(self, run):
        found = stills_of(self.order(run, 4), self.clip(run, "drawn"), suspect=5)
        assert [still.frame_index for still in found] == [0, 5, 7, 11]
        assert [still.is_suspect for still in found] == [False, True, False, False]
        assert all(still.jpeg.startswith(b"\xff\xd8") for still in found)

    def test_a_video_that_is_gone_is_a_reason(self, run):
        with pytest.raises(ClipError):
            stills_of(self.order(run), self.clip(run, "flicker"), None)


class TestAtScale:
    """The page of a run of 100,000 clips, with as many stills and prompts as there can be."""

    @pytest.fixture(scope="class")
    def facts(self, run):
        small = gather(RunStore(str(run)))
        still = Still(3, 0.1, b"\xff\xd8" + bytes(40_000))
        cards = [replace(small.worst[0], clip_id=f"clip-{n}", stills=(still,) * 6) for n in range(60)]
        return replace(
            small,
            outcomes={"done": 99_000, "failed": 900, "left": 100},
            frames=180_000_000,
            worst=cards[:40],
            best=cards[40:],
            with_stills=True,
        )

    def test_it_stays_small_and_says_where_stills_are_missing(self, facts):
        page = render_page(facts)
        assert 1_000_000 < len(page.encode()) < MOST_BYTES
        assert "99,000" in page
        assert "No stills: the page would be too large" in page
        assert page.count("<article") == 60


def test_nothing_done_yet_is_a_page_too(tmp_path):
    store = RunStore(str(tmp_path / "run"))
    store.create_or_open({"schema_version": 1}, {}, [Clip("a", "/videos/a.mp4", ("dog",))])
    page = text_of(render_page(gather(store)))
    assert "0 of 1 clips done" in page
    assert "No clip has been finished yet" in page


def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine")
    return path


def test_a_browser_opens_it_without_an_error_or_a_request(run, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    card = gather(RunStore(str(run)))
    clip = Clip("drawn", str(run.parent / "drawn.mp4"))
    stills = stills_of(StillsOrder(RunStore(str(run)), {}, VideoConfig()), clip, 3)
    facts = replace(card, worst=[replace(each, stills=tuple(stills)) for each in card.worst], with_stills=True)
    path = tmp_path / "report.html"
    path.write_text(render_page(facts), encoding="utf-8")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        told: list[str] = []
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("dialog", lambda dialog: told.append(dialog.message))
        page.on("request", lambda request: told.append(request.url))
        page.goto(path.as_uri())
        pictures = page.evaluate("[...document.images].map(i => i.naturalWidth)")
        width = page.evaluate("document.documentElement.scrollWidth")
        colours = []
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        browser.close()
    assert [line for line in told if not line.startswith("data:")] == [path.as_uri()]
    assert len(pictures) == 12
    assert min(pictures) > 0
    assert width <= 400  # nothing sticks out on a telephone
    assert colours == ["rgb(246, 247, 249)", "rgb(15, 18, 22)"]
