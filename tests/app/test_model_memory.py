"""The model's process when the device runs out of memory: the ladder, for runs, for previews within them, and live."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sam3ray
from sam3ray.app._messages import Blind, Ended, Look, Restarted, Seen, Update
from sam3ray.app._model_process import LAST_RUNG, _Worker
from sam3ray.app._order import Order
from sam3ray.config import VideoConfig
from sam3ray.engine.session import Session
from sam3ray.failures import JobStopped
from sam3ray.shapes import ClipSpec, draw_clip, write_clip
from sam3ray.values.clip import Clip
from sam3ray.values.prompt_reading import parse_visual_prompts
from sam3ray.video import ClipFrames

SPEC = ClipSpec(seed=6, frames=4, width=160, height=90, objects=(2, 3))
PHRASES = ("red circle",)


@pytest.fixture(scope="module")
def model() -> sam3ray.Model:
    return sam3ray.load("embedded", device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "clip.mp4"
    write_clip(SPEC, path)
    return path


class Ends:
    """A pipe that plays its part of the parent: what comes in, then EOFError."""

    def __init__(self, *messages: Any, meanwhile: Callable[[int], list[Any]] = lambda _: []) -> None:
        self.sent: list[Any] = []
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._meanwhile = meanwhile
        for message in messages:
            self._inbox.put(message)

    def send(self, message: Any) -> None:
        self.sent.append(message)
        for each in self._meanwhile(len(self.sent)):
            self._inbox.put(each)

    def poll(self) -> bool:
        return not self._inbox.empty()

    def recv(self) -> Any:
        if self._inbox.empty():
            raise EOFError
        return self._inbox.get()


def carried_out(model: sam3ray.Model, pipe: Ends) -> list[Any]:
    with pytest.raises(EOFError):
        _Worker(model, pipe).run()
    return pipe.sent


def order(clip: Path, name: str = "a", **more: Any) -> Order:
    return Order(name, str(clip), Clip("c", str(clip)), VideoConfig(), PHRASES, last=SPEC.frames - 1, **more)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Call it with the lowest rung for which the device has the memory: below it, a session's second step fails."""
    begin = sam3ray.Model.session

    def has_memory_for(enough: int) -> None:
        def session(self: sam3ray.Model, *args: Any, **options: Any) -> Session:
            begun, rung, steps = begin(self, *args, **options), self._rung, []
            step = begun.step

            def stepping(frame: Any) -> Any:
                steps.append(frame)
                if rung < enough and len(steps) == 2:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
                return step(frame)

            monkeypatch.setattr(begun, "step", stepping)
            return begun

        monkeypatch.setattr(sam3ray.Model, "session", session)

    return has_memory_for


def found(sent: list[Any], name: str = "a") -> list[Any]:
    """What the last try found."""
    last = max((n for n, each in enumerate(sent) if isinstance(each, Restarted)), default=-1)
    updates = [each.found.frames for each in sent[last + 1 :] if isinstance(each, Update) and each.order_id == name]
    return [(f.frame_index, o.object_id, o.area) for frames in updates for f in frames for o in f.objects]


def test_a_run_starts_over_with_smaller_batches(model, clip, short):
    whole = found(carried_out(model, Ends(order(clip))))
    short(3)
    sent = carried_out(model, Ends(order(clip), order(clip, "b")))
    assert [each.rung for each in sent if isinstance(each, Restarted)] == [2, 3, 2, 3]  # each begins at the top
    assert [each.how for each in sent if isinstance(each, Ended)] == ["done", "done"]
    assert [each[:2] for each in found(sent, "b")] == [each[:2] for each in whole]


def test_a_run_that_fits_nowhere_says_so_and_the_process_goes_on(model, clip, short):
    short(LAST_RUNG + 1)
    sent = carried_out(model, Ends(order(clip), order(clip, "preview", is_preview=True)))
    assert [each.rung for each in sent if isinstance(each, Restarted)] == [2, 3, 4]
    ended = {each.order_id: each for each in sent if isinstance(each, Ended)}
    assert ended["a"].how == "failed"
    assert "fewer phrases" in ended["a"].message
    assert ended["preview"].how == "done"  # one step fits


def test_frames_that_were_clicked_on_give_way_to_a_run(model, clip, short, monkeypatch):
    decoded, read = [], ClipFrames.read

    def reading(self: ClipFrames, *span: int) -> Any:
        decoded.append(span)
        return read(self, *span)

    monkeypatch.setattr(ClipFrames, "read", reading)
    before, after = (order(clip, name, start=3, is_preview=True) for name in ("before", "after"))

    def carry_out() -> list[Any]:
        decoded.clear()
        is_over = Ended("a", "done")
        pipe = Ends(before, order(clip), meanwhile=lambda _: [after] if pipe.sent[-1] == is_over else [])
        return [each.order_id for each in carried_out(model, pipe) if isinstance(each, Ended)]

    assert carry_out() == ["before", "a", "after"]
    assert decoded.count((3, 4)) == 1  # it is kept
    short(2)
    assert carry_out() == ["before", "a", "after"]
    assert decoded.count((3, 4)) == 2


def test_a_preview_leaves_the_rung_of_the_run_around_it_alone(model, clip, short):
    short(2)
    asked = order(clip, "preview", is_preview=True)

    def meanwhile(count: int) -> list[Any]:
        return [asked] if count == 3 else []  # after the run has started over

    pipe = Ends(order(clip, way="both", start=2), meanwhile=meanwhile)  # both ways: more than one session
    sent = carried_out(model, pipe)
    assert [each.rung for each in sent if isinstance(each, Restarted)] == [2]
    assert {each.order_id: each.how for each in sent if isinstance(each, Ended)} == {"preview": "done", "a": "done"}


def test_a_live_view_goes_on_with_new_ids(model, short):
    short(2)
    images = [frame.image for frame in draw_clip(SPEC)]
    sent = carried_out(model, Ends(*(Look("v", image, n / 12, PHRASES) for n, image in enumerate(images))))
    assert [type(each) for each in sent] == [Seen] * SPEC.frames
    assert [bool(each.problem) for each in sent] == [False, True, False, False]
    assert "out of memory" in sent[1].problem
    ids = [{o.object_id for o in each.found.objects} for each in sent]
    assert max(ids[0]) < min(ids[1])
    assert ids[1] == ids[3]


def test_a_live_view_that_fits_nowhere_is_told(model, short, monkeypatch):
    short(LAST_RUNG + 1)

    def never(self: sam3ray.Model, *args: Any, **options: Any) -> Session:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sam3ray.Model, "session", never)
    (answer,) = carried_out(model, Ends(Look("v", np.zeros((48, 64, 3), np.uint8), 0.0, PHRASES)))
    assert isinstance(answer, Blind)
    assert "smaller picture" in answer.message


def test_a_defect_ends_one_view_and_not_the_process(model, clip, monkeypatch):
    def defect(self: Session, frame: Any) -> Any:
        raise AttributeError("nothing of that name")

    with monkeypatch.context() as patch:
        patch.setattr(Session, "step", defect)
        image = np.zeros((48, 64, 3), np.uint8)
        answers = carried_out(model, Ends(Look("v", image, 0.0, PHRASES), order(clip)))
    assert isinstance(answers[0], Blind)
    assert "internal error: AttributeError" in answers[0].message
    assert answers[-1].how == "failed"


def test_a_parent_that_is_gone_is_no_defect(model, caplog):
    class Gone(Ends):
        def send(self, message: Any) -> None:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):  # `main` ends
        carried_out(model, Gone(Look("v", np.zeros((48, 64, 3), np.uint8), 0.0, PHRASES)))
    assert not caplog.records


def test_a_click_on_a_picture_of_another_scene_or_size_is_a_sentence(model):
    images = [frame.image for frame in draw_clip(SPEC)]
    prompts, _ = parse_visual_prompts(
        [{"frame": 0, "object_id": 1, "points": [[9, 9]], "labels": [1], "units": "pixels"}]
    )
    other = np.zeros((90, 120, 3), np.uint8)
    sent = carried_out(
        model, Ends(Look("v", images[0], 0.0, PHRASES), Look("v", images[1], 0.1, PHRASES, pointed=prompts, at=other))
    )
    assert "size has changed" in sent[1].problem
    assert sent[1].found.objects
    anew = Look("v", images[1], 0.1, PHRASES, anew=True, pointed=prompts, at=images[0], drop=(1,))
    sent = carried_out(model, Ends(Look("v", images[0], 0.0, PHRASES), anew, Look("v", images[2], 0.2, PHRASES)))
    assert "click again" in sent[1].problem
    assert [type(each) for each in sent] == [Seen] * 3
    ids = [{o.object_id for o in each.found.objects} for each in sent]
    assert max(ids[0]) < min(ids[1])  # found again, under ids of their own
    assert ids[1] == ids[2]


def test_other_thresholds_apply_from_the_next_frame_on(model):
    images = [frame.image for frame in draw_clip(SPEC)]
    strict = model.tracking.model_copy(update={"new_det_thresh": 1.0, "score_threshold_detection": 0.999})
    changes = [None, strict, strict, None]
    sent = carried_out(
        model, Ends(*(Look("v", images[n], n / 12, PHRASES, tracking=each) for n, each in enumerate(changes)))
    )
    ids = [{o.object_id for o in each.found.objects} for each in sent]
    assert ids[0]
    assert ids[1] == ids[2] == set()
    assert min(ids[3]) > max(ids[0])  # found again


def test_live_video_without_a_page_climbs_the_ladder_too(model, clip, short, caplog, tmp_path):
    phrases = {"prompts": PHRASES, "model": model, "every_frame": True}
    short(3)
    frames = list(sam3ray.live(clip, **phrases))
    assert len(frames) == SPEC.frames
    assert caplog.text.count("out of memory: started over with smaller batches") == 2
    ids = [{each.object_id for each in frame.annotations.objects} for frame in frames]
    assert all(ids)
    assert not ids[0] & ids[-1]  # they go on
    short(5)
    write_clip(dataclasses.replace(SPEC, frames=6), tmp_path / "longer.mp4")
    with pytest.raises(JobStopped, match="out of memory: choose fewer phrases or a smaller picture"):
        list(sam3ray.live(tmp_path / "longer.mp4", **phrases))
