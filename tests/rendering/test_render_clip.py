"""Annotated videos: every source frame, at its time, with what was annotated on it."""

from __future__ import annotations

import colorsys
import functools
import http.server
import itertools
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam3ray.annotations import AnnotationWriter, FrameAnnotations, ObjectAnnotation, read_frames
from sam3ray.config import RenderConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.manifest import Clip
from sam3ray.masks import encode_masks
from sam3ray.rendering import render_clip
from sam3ray.rendering._overlay import DrawnObject, color_of, draw_objects, label_patch, place_label
from sam3ray.video import VideoReader
from tests.video.media import set_display_matrix, write_video

SIZE = (160, 120)
GREY = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)


def annotate(index: int, boxes: dict[int, tuple[int, int, int, int]], size: tuple[int, int] = SIZE) -> FrameAnnotations:
    """A frame on which each object fills its box."""
    width, height = size
    objects = []
    for object_id, (x0, y0, x1, y1) in sorted(boxes.items()):
        mask = np.zeros((1, height, width), bool)
        mask[0, y0:y1, x0:x1] = True
        (encoded,) = encode_masks(mask)
        box = tuple(float(v) for v in encoded.bbox)
        objects.append(ObjectAnnotation(object_id, "ball", 0.9, 0.8, box, encoded.area, encoded.rle))  # type: ignore[arg-type]
    return FrameAnnotations(index, 0, 0.0, height, width, tuple(objects))


def grey_video(path: Path, count: int = 20, size: tuple[int, int] = SIZE, **options: object) -> Path:
    image = np.full((size[1], size[0], 3), 128, np.uint8)
    return write_video(path, count, size, images=[image] * count, **options)  # type: ignore[arg-type]


def render(
    source: Path, annotations: list[FrameAnnotations], config: RenderConfig | None = None, **clip: object
) -> list[np.ndarray]:
    output = source.parent / "annotated.mp4"
    count = render_clip(source, annotations, output, Clip("c", str(source), **clip), config)  # type: ignore[arg-type]
    with VideoReader(output) as video:
        images = [f.image for f in video]
    assert len(images) == count
    return images


def is_drawn(image: np.ndarray, x: int, y: int) -> bool:
    return bool(np.abs(image[y, x].astype(int) - 128).max() > 25)


def test_masks_are_drawn_where_and_when_they_were_found(tmp_path: Path) -> None:
    source = grey_video(tmp_path / "a.mp4")
    frames = [annotate(i, {1: (20 + i, 40, 60 + i, 80)}) for i in range(5, 15)]
    images = render(source, frames)
    assert len(images) == 20
    for i, image in enumerate(images):
        assert is_drawn(image, 40 + i, 60) == (5 <= i < 15)
        assert not is_drawn(image, 130, 100)


def test_every_source_frame_is_there_at_its_time(tmp_path: Path) -> None:
    pts = [0, 40, 50, 300, 301, 1000]
    source = grey_video(tmp_path / "a.mp4", len(pts), pts=pts)
    output = tmp_path / "out.mp4"
    assert render_clip(source, [], output, Clip("c", str(source))) == 6
    with VideoReader(output) as video:
        assert [round(f.time_s * 1000) for f in video] == pts


def test_sampled_annotations_are_held_until_the_next_sample(tmp_path: Path) -> None:
    source = grey_video(tmp_path / "a.mp4", 25)
    # At 5 fps frames 0, 5, 10, 15, 20 are looked at; nothing is found on 10.
    config = RenderConfig(every_frame=True)
    images = render(source, [annotate(i, {1: (20, 40, 60, 80)}) for i in (0, 5, 15)], config, fps=5.0)
    assert [is_drawn(image, 40, 60) for image in images] == [True] * 10 + [False] * 5 + [True] * 5 + [False] * 5


@pytest.mark.parametrize(("start_s", "end_s"), [(None, None), (0.2, 0.7)])
@pytest.mark.parametrize("every_frame", [False, True])
def test_only_frames_that_were_looked_at_are_drawn_and_the_clip_keeps_its_time(
    tmp_path: Path, start_s: float | None, end_s: float | None, every_frame: bool
) -> None:
    source = grey_video(tmp_path / "a.mp4", 25, sound="aac")
    looked_at = [i for i in (0, 5, 10, 15, 20) if (start_s or 0) <= i / 25 < (end_s or 1)]
    clip = Clip("c", str(source), start_s=start_s, end_s=end_s, fps=5.0)
    output = tmp_path / "out.mp4"
    boxes = [annotate(i, {1: (20, 40, 60, 80)}) for i in looked_at if i != 10]
    count = render_clip(source, boxes, output, clip, RenderConfig(every_frame=every_frame))
    begin, end = looked_at[0], round((end_s or 1) * 25 + 0.49)
    with VideoReader(output) as video:
        frames = list(video)
    assert len(frames) == count == (end - begin if every_frame else len(looked_at))
    if not every_frame:
        assert [round(f.time_s * 25) + begin for f in frames] == looked_at
        assert [is_drawn(f.image, 40, 60) for f in frames] == [i != 10 for i in looked_at]
    with av.open(str(output)) as container:
        streams = (container.streams.video[0], container.streams.audio[0])
        lengths = [float(s.duration * s.time_base) for s in streams if s.duration and s.time_base]
    assert lengths == pytest.approx([(end - begin) / 25] * 2, abs=0.03)


def test_a_render_that_is_killed_or_fails_leaves_what_was_there(tmp_path: Path) -> None:
    source = grey_video(tmp_path / "a.mp4", 20)
    output = tmp_path / "out" / "annotated.mp4"
    output.parent.mkdir()
    render_clip(source, [], output, Clip("c", str(source)))
    before = output.read_bytes()

    def fail() -> None:
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError):
        render_clip(source, [], output, Clip("c", str(source)), progress=fail)
    program = (
        "import os, signal, sys; from sam3ray.rendering import render_clip; from sam3ray.manifest import Clip\n"
        "die = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
        "render_clip(sys.argv[1], [], sys.argv[2], Clip('c', sys.argv[1]), progress=die)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(source), str(output)], check=False, timeout=120)
    assert done.returncode == -9
    assert output.read_bytes() == before
    assert [path.name for path in output.parent.iterdir() if not path.name.startswith(".")] == ["annotated.mp4"]
    if sys.platform == "linux":
        assert len(list(output.parent.iterdir())) == 1
    boxes = [annotate(i, {1: (20, 40, 60, 80)}) for i in range(20)]
    assert render_clip(source, boxes, output, Clip("c", str(source))) == 20
    with VideoReader(output) as video:
        assert all(is_drawn(frame.image, 40, 60) for frame in video)


def test_a_range_is_rendered_alone(tmp_path: Path) -> None:
    source = grey_video(tmp_path / "a.mp4", 50, sound="aac")
    images = render(source, [annotate(30, {1: (20, 40, 60, 80)})], start_s=1.0, end_s=1.4)
    assert [is_drawn(image, 40, 60) for image in images] == [i == 30 for i in range(25, 35)]


def test_rotated_sources_are_drawn_upright(tmp_path: Path) -> None:
    source = set_display_matrix(grey_video(tmp_path / "a.mp4", 3), "clockwise")
    images = render(source, [annotate(i, {1: (20, 100, 60, 140)}, (120, 160)) for i in range(3)])
    assert images[0].shape == (160, 120, 3)
    assert is_drawn(images[0], 40, 120)


def test_smaller_output_keeps_the_shape(tmp_path: Path) -> None:
    source = grey_video(tmp_path / "a.mp4", 3, (320, 240))
    frames = [annotate(i, {1: (40, 120, 120, 200)}, (320, 240)) for i in range(3)]
    images = render(source, frames, RenderConfig(max_height=120))
    assert images[0].shape == (120, 160, 3)
    assert is_drawn(images[0], 40, 80)
    assert not is_drawn(images[0], 100, 80)


def test_a_source_that_changed_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    source = grey_video(tmp_path / "a.mp4", 3)
    with pytest.raises(ClipError) as caught:
        render_clip(source, [annotate(0, {1: (0, 0, 9, 9)}, (64, 64))], tmp_path / "out.mp4", Clip("c", str(source)))
    assert caught.value.reason is Reason.UNREADABLE_VIDEO
    assert "64x64 were annotated" in caught.value.message
    assert not (tmp_path / "out.mp4").exists()


def test_annotations_stream_from_parquet(tmp_path: Path) -> None:
    frames = [annotate(i, {1: (i, 10, i + 20, 30), 4: (50, 50, 70, 70)}) for i in range(0, 30, 2)]
    with AnnotationWriter(tmp_path / "c.parquet", "c", {}) as writer:
        for frame in frames:
            writer.write(frame)
        writer.finish()
    for got, frame in zip(read_frames(tmp_path / "c.parquet", "c"), frames, strict=True):
        assert (got.frame_index, got.height, got.width) == (frame.frame_index, frame.height, frame.width)
        assert [(o.object_id, o.bbox, o.rle) for o in got.objects] == [
            (o.object_id, o.bbox, o.rle) for o in frame.objects
        ]
    assert list(read_frames(tmp_path / "c.parquet", "other")) == []


class TestDrawing:
    @given(
        st.tuples(st.integers(-50, 400), st.integers(-50, 300), st.integers(1, 300), st.integers(1, 300)),
        st.integers(1, 500),
        st.integers(1, 60),
        st.integers(1, 400),
        st.integers(1, 300),
    )
    def test_labels_never_leave_the_picture(
        self, box: tuple[int, int, int, int], label_width: int, label_height: int, width: int, height: int
    ) -> None:
        x, y, w, h = box
        x0, y0, x1, y1 = place_label((x, y, x + w, y + h), label_width, label_height, width, height, [])
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert x1 - x0 == min(label_width, width)
        assert y1 - y0 == min(label_height, height)

    @pytest.mark.parametrize("size", [(16, 16), (33, 200), (200, 12), (640, 360), (1920, 1080)])
    @pytest.mark.parametrize(
        "label", ["1 person 0.93", "12 " + "a very long phrase " * 20, "3 größe 人 \n\x00 0.5", ""]
    )
    def test_any_label_on_any_picture(self, size: tuple[int, int], label: str) -> None:
        width, height = size
        image = np.full((height, width, 3), 128, np.uint8)
        mask = np.ones((height - height // 2, width - width // 2), np.uint8)
        draw_objects(image, [DrawnObject(1, label, (width // 2, height // 2, width, height), mask)])
        assert (image != 128).any()

    def test_letters_grow_with_the_picture_and_stay_readable(self) -> None:
        assert label_patch("1 person 0.93", 1, 10, 10_000).shape[0] >= 10
        assert label_patch("1 person 0.93", 1, 27, 10_000).shape[0] > 25
        assert label_patch("a very long phrase " * 20, 1, 27, 300).shape[1] <= 300

    def test_a_label_avoids_the_ones_before(self) -> None:
        first = place_label((50, 50, 90, 90), 30, 10, 200, 200, [])
        second = place_label((50, 50, 90, 90), 30, 10, 200, 200, [first])
        assert first[3] <= second[1] or second[3] <= first[1]

    def test_neighbouring_ids_look_different(self) -> None:
        colours = [np.array(colorsys.rgb_to_hsv(*(v / 255 for v in color_of(i)))) for i in range(1, 13)]
        for a, b in itertools.combinations(range(12), 2):
            hue = abs(colours[a][0] - colours[b][0])
            assert min(hue, 1 - hue) > 0.03
        assert color_of(7) == color_of(7)

    def test_masks_are_translucent_and_exact(self) -> None:
        image = GREY.copy()
        mask = np.zeros((40, 40), np.uint8)
        mask[10:30, 10:30] = 1
        draw_objects(image, [DrawnObject(1, "x", (60, 60, 100, 100), mask)])
        inside, outside = image[80, 80].astype(int), image[65, 65]
        assert (outside == 128).all()
        blend = 128 * 0.55 + np.array(color_of(1)) * 0.45
        assert np.abs(inside - blend).max() <= 2


PAGE = """<!doctype html><body><script>
for (const name of {names}) {{
  const video = document.createElement("video");
  const say = (...words) => fetch(`/said/${{name}}/${{words.join("/")}}`);
  video.muted = true;
  video.onerror = () => say("error", video.error.code);
  video.onloadeddata = () => {{ video.currentTime = video.duration / 2; }};
  video.onseeked = () => say(video.duration, video.videoWidth, video.videoHeight, video.readyState);
  video.src = name;
  document.body.append(video);
}}
</script>"""


@pytest.fixture
def page_server(tmp_path: Path) -> Iterator[tuple[str, queue.Queue[list[str]]]]:
    """The address of a server for the test's folder, and what its pages say."""
    said: queue.Queue[list[str]] = queue.Queue()

    class Listening(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/said/"):
                said.put(self.path.split("/")[2:])
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Listening, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", said
    server.shutdown()


def test_a_browser_plays_it(tmp_path: Path, page_server: tuple[str, queue.Queue[list[str]]]) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    sizes = {"plain.mp4": (320, 240), "odd.mp4": (161, 121)}
    for name, size in sizes.items():
        sound = "aac" if name == "odd.mp4" else None
        source = write_video(tmp_path / "source.mkv", 45, size, pix_fmt="yuv444p", sound=sound)
        frames = [annotate(i, {1: (20, 20, 90, 90)}, size) for i in range(45)]
        assert render_clip(source, frames, tmp_path / name, Clip("c", str(source))) == 45
    (tmp_path / "page.html").write_text(PAGE.format(names=list(sizes)))
    options = "headless no-sandbox disable-gpu disable-dev-shm-usage disable-background-networking no-first-run"
    options += " disable-component-update disable-sync remote-debugging-port=0"
    address, said = page_server
    process = subprocess.Popen(
        [
            browser,
            *(f"--{option}" for option in options.split()),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"{address}/page.html",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        answers = {words[0]: words[1:] for words in (said.get(timeout=180) for _ in sizes)}
    finally:
        process.terminate()
        process.wait(30)
    for name, (width, height) in sizes.items():
        assert answers[name][0] != "error", answers
        duration, shown_width, shown_height, ready = map(float, answers[name])
        assert duration == pytest.approx(1.8, abs=0.05)
        assert (shown_width, shown_height) == (width + width % 2, height + height % 2)
        assert ready >= 2  # a picture from the middle is there
        with VideoReader(tmp_path / name) as video:
            assert len(list(video)) == 45
