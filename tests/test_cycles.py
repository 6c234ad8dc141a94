"""What has ended frees its tensors and frames at once.

In a circle of references they would stay until Python's next full collection. That comes once a quarter of all objects
is new, which takes half an hour in a process with torch's million objects.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import sam3ray
from sam3ray.cameras import Camera, LiveView
from sam3ray.prompts import BoxPrompt, ExemplarPrompt, PointPrompt
from sam3ray.shapes import ClipSpec, draw_clip, write_clip
from sam3ray.video import ClipFrames, Frame, VideoReader, VideoWriter
from tests.video.media import set_display_matrix

SPEC = ClipSpec(seed=6, frames=20, width=160, height=90, objects=(2, 4))
IMAGES = [np.ascontiguousarray(each.image) for each in draw_clip(SPEC)]
FRAMES = [Frame(n, n, n / 12, image) for n, image in enumerate(IMAGES)]
CLICK = ((40.0, 40.0),), (True,)


@pytest.fixture(scope="module")
def model() -> sam3ray.Model:
    return sam3ray.load("embedded", device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cycles") / "clip.mp4"
    write_clip(SPEC, path)
    set_display_matrix(path, "clockwise")
    return path


@contextmanager
def found_by_the_collector() -> Iterator[Counter[str]]:
    """Counts, at the end, what was in circles: tensors, decoded frames and objects of our own, by their classes."""
    kinds: Counter[str] = Counter()
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield kinds
        gc.collect()
        for each in gc.garbage:
            if isinstance(each, torch.Tensor | av.VideoFrame) or type(each).__module__.startswith("sam3ray"):
                kinds[type(each).__qualname__] += 1
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.collect()
        if was_enabled:
            gc.enable()


def through_a_session(model: sam3ray.Model, policy: Any) -> None:
    with model.session(90, 160, policy) as session:
        session.add("star")
        session.add(PointPrompt(*CLICK, frame_index=5, object_id=900))
        session.add(ExemplarPrompt(boxes=((20.0, 20.0, 60.0, 60.0),), labels=(True,), frame_index=6))
        while (first := session.next_position) >= 0:
            begin = len(FRAMES) - 1 if policy == "backward" else first
            for frame in FRAMES[begin::-1] if session.walk.reverse else FRAMES[begin:]:
                session.step(frame)
            session.finish()
            if not session.next_pass():
                break


def through_a_live_view(model: sam3ray.Model) -> None:
    view = LiveView(model)
    view.set_phrases(("red circle", "star"))
    for n, image in enumerate(IMAGES[:9]):
        if n == 3:
            view.begin_anew()
        elif n == 4:
            view.set_tracking(model.tracking.model_copy(update={"new_det_thresh": 0.6}))
        elif n == 5:
            view.add(PointPrompt(*CLICK, view.next_index, view.next_id))
        elif n == 7:
            view.drop(view.next_id - 1)
            view.set_phrases(("square",))
        view.step(image if n < 8 else image[:80], n / 12)


def save_and_load(model: sam3ray.Model, clip: Path) -> None:
    state = clip.with_suffix(".state")
    with model.session(90, 160) as session:
        session.add("star")
        for frame in FRAMES:
            session.step(frame)
        session.save(state)
    with model.session(90, 160) as session:
        session.load(state)
        session.finish()


def abandon(model: sam3ray.Model, clip: Path) -> None:
    next(iter(model.segment(ClipFrames(clip), 160, 90, ["star"])))


def break_off(model: sam3ray.Model, clip: Path) -> None:
    with model.session(90, 160, "live") as session:
        session.add("star")
        session.step(FRAMES[0])
        with pytest.raises(ValueError, match="80"):
            session.step(Frame(1, 1, 1.0, IMAGES[1][:80]))


def refine(model: sam3ray.Model, clip: Path) -> None:
    prompts = [BoxPrompt((20.0, 20.0, 60.0, 60.0), 4, 1)]
    list(model.segment(ClipFrames(clip), 160, 90, "star", prompts, direction="both", refine="throughout"))


def write(model: sam3ray.Model, clip: Path) -> None:
    with VideoWriter(clip.with_suffix(".mkv"), 160, 90, Fraction(1, 12), Fraction(12)) as video:
        for frame in FRAMES:
            video.write(frame.image, frame.index)


def watch(model: sam3ray.Model, clip: Path) -> None:
    with Camera(str(clip)) as camera:
        frame = camera.take(10)
        assert frame is not None
        assert frame.image.shape == (160, 90, 3)


WAYS: dict[str, Callable[[sam3ray.Model, Path], Any]] = {
    **{
        policy: lambda model, _, policy=policy: through_a_session(model, policy)  # type: ignore[misc]
        for policy in ("whole", "live", "backward", "both", "refined")
    },
    "a live view": lambda model, _: through_a_live_view(model),
    "a saved session": save_and_load,
    "a clip that nobody reads to its end": abandon,
    "a session that fails": break_off,
    "a clip there and back": refine,
    "other thresholds": lambda model, _: model.with_tracking(model.tracking.model_copy(update={"max_num_objects": 3})),
    "a video": lambda _, clip: sum(1 for _ in VideoReader(clip)),
    "a video from the middle": lambda _, clip: sum(1 for _ in ClipFrames(clip).read(7, 12)),
    "a video that is written": write,
    "a camera": watch,
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_waits_for_the_collector(model, clip, way):
    WAYS[way](model, clip)  # what is made once
    with found_by_the_collector() as kinds:
        WAYS[way](model, clip)
    assert not kinds


def test_the_collector_finds_what_it_should():
    class Circle:
        __module__ = "sam3ray.circle"

    with found_by_the_collector() as kinds:
        one = Circle()
        one.itself, one.tensor = one, torch.zeros(3)  # type: ignore[attr-defined]
        del one
    assert kinds == {"test_the_collector_finds_what_it_should.<locals>.Circle": 1, "Tensor": 1}
