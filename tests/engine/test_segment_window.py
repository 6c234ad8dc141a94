"""One window of a clip by itself: its rows, and what it leaves to the windows after it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sam3ray.config import TrackingConfig
from sam3ray.engine.ending import EndingFile
from sam3ray.engine.engine import Engine
from sam3ray.engine.header import StateError
from sam3ray.engine.policy import Policy
from sam3ray.engine.recall import Recall
from sam3ray.engine.session import Session
from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.masks import read_rle
from sam3ray.prompts import ExemplarPrompt
from sam3ray.stitching import Following, MemoryProbe, Track, Window, link, merge, segment_window
from sam3ray.values.cutting import Cut
from tests.engine.pipeline import HEIGHT, WIDTH, Found, ScriptedDetector, checkpoint, clip
from tests.engine.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES = clip(26)
FIRST, SECOND = Cut(0, 0, 12, 16, 19, 16), Cut(1, 12, 26, 26, 26, 26)
ON = replace(FIRST, reach=26)  # the first window, running on for the objects that it does not show
FAINT = 0.6  # above the score of a detection, below that of a new object


def script(frame: int, prompt: int) -> list[Found]:
    """One that stays, one that hotstart removes, and one, faint at first, that comes where the second window begins."""
    found = [Found((0.3, 0.25 + 0.4 * prompt), 0.15, 0.9, 6.0)]
    if frame == 9:
        found.append(Found((0.8, 0.8), 0.12, 0.8))
    if frame >= 12:
        found.append(Found((0.75, 0.3), 0.15, FAINT if frame < 15 else 0.9, 6.0))
    return found


class Detector(ScriptedDetector):
    """Sees the clip from where a window begins."""

    start = 0

    def propose(self, backbone: torch.Tensor, prompts: Any, first_position: int) -> Any:
        return super().propose(backbone, prompts, self.start + first_position)


class Model:
    """As `sam3ray.Model`, with scripted detections."""

    def __init__(self, seed: int = 0) -> None:
        values = {
            "hotstart_delay": 4,
            "hotstart_unmatch_thresh": 4,
            "hotstart_dup_thresh": 3,
            "recondition_every_nth_frame": 2,
            "high_conf_thresh": 0.0,
            "high_iou_thresh": 0.1,
            "assoc_iou_thresh": 0.05,
            "trk_assoc_iou_thresh": 0.05,
        }
        self.detector = Detector(script, tiny_model(0).low_res_mask_size)
        tracking = TrackingConfig(**values, score_threshold_detection=0.5, new_det_thresh=0.7)  # type: ignore[arg-type]
        self.engine = Engine(checkpoint(tiny_model(seed, 1.0)), tracking, self.detector)

    def session(self, height: int, width: int, *, length: int | None = None) -> Session:
        return Session(self.engine, height, width, Policy(), length=length)

    def check_phrases(self, phrases: Any) -> None:
        self.engine.check_phrases(tuple(phrases))


def window(model: Model, cut: Cut, ending: Path | None = None, frames: Any = None, **how: Any) -> list[Any]:
    model.detector.start = cut.start
    given = iter(FRAMES[cut.start :]) if frames is None else frames
    return list(segment_window(model, given, HEIGHT, WIDTH, ["red", "blue"], cut, ending=ending, **how))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path, list[Any]]:
    """A window that does not run on."""
    model, path = Model(), tmp_path_factory.mktemp("window") / "ending.safetensors"
    return model, path, window(model, FIRST, path, note="mine")


@pytest.fixture(scope="module")
def whole(made: tuple[Model, Path, list[Any]]) -> list[Any]:
    """The clip in one piece."""
    made[0].detector.start = 0
    return list(made[0].engine.annotate(FRAMES, HEIGHT, WIDTH, ["red", "blue"]))


@pytest.fixture(scope="module")
def second(made: tuple[Model, Path, list[Any]]) -> list[Any]:
    return window(made[0], SECOND)


def test_rows_are_those_of_the_whole_clip_up_to_the_windows_end(
    made: tuple[Model, Path, list[Any]], whole: list[Any]
) -> None:
    rows = made[2]
    assert rows == whole[: FIRST.until]
    assert sum(len(each.objects) for each in rows) > FIRST.until


def test_an_ending_holds_what_its_objects_remember_and_nothing_of_those_that_were_removed(
    made: tuple[Model, Path, list[Any]],
) -> None:
    model, path, rows = made
    ending = EndingFile(path, model.engine, (HEIGHT, WIDTH))
    named = {each.object_id: each.prompt for frame in rows for each in frame.objects}
    assert (ending.start, ending.until, ending.note) == (0, FIRST.until, "mine")
    assert ending.objects == named
    tracker = model.engine.tracker((HEIGHT, WIDTH), None)
    memories = [ending.memory(each, tracker) for each in ending.objects]
    assert all(max((*m.conditioning, *m.tracked)) == FIRST.until - 1 for m in memories)
    # The tracker finds by them what the clip's own tracker finds on the frame that comes next.
    session = model.session(HEIGHT, WIDTH, length=26)
    model.detector.start = 0
    session.add("red")
    session.add("blue")
    found: list[Any] = []

    def look() -> None:
        if session.clock.worked == FIRST.until and session.propagation is not None:
            mine = [each.memory for each in session.propagation.objects if each.object_id in ending.objects]
            image = session.engine.checkpoint.processor.video_processor
            pixels = image(FRAMES[FIRST.until].image, return_tensors="pt").pixel_values_videos[0]
            (features,) = session.engine.neck.see(pixels)[1]
            for one, memory in ((session.propagation.tracker, mine), (tracker, memories)):
                found.append(one.look(features, FIRST.until, memory))

    session.progress = look
    for frame in FRAMES[:20]:
        session.step(frame)
    session.finish()
    (here, there) = found
    assert torch.equal(here.masks, there.masks)
    assert torch.equal(here.score_logits, there.score_logits)


def test_a_window_runs_on_as_the_whole_clip_does_and_remembers_the_same(
    made: tuple[Model, Path, list[Any]], whole: list[Any]
) -> None:
    model, before, _ = made
    path = before.with_name("on.safetensors")
    longer = window(model, ON, path)
    assert FIRST.until < len(longer) < 26
    assert longer == whole[: len(longer)]
    following = Following(ON)
    for position, row in enumerate(longer):
        assert following.stop is None
        following.take(position, row)
    assert following.stop == len(longer)
    plain, ending = (EndingFile(each, model.engine, (HEIGHT, WIDTH)) for each in (before, path))
    assert ending.until == FIRST.until
    assert ending.objects.items() >= plain.objects.items()
    tracker = model.engine.tracker((HEIGHT, WIDTH), None)
    for each in plain.objects:
        assert ending.memory(each, tracker).tracked.keys() == plain.memory(each, tracker).tracked.keys()


def test_a_probe_finds_a_remembered_object_where_the_clip_itself_has_it(
    made: tuple[Model, Path, list[Any]], whole: list[Any]
) -> None:
    model, path, _ = made
    (blue,) = [each for each in whole[FIRST.until].objects if each.prompt == "blue"]
    ticks: list[None] = []
    read: list[int] = []

    def frame_at(position: int) -> Any:
        read.append(position)
        return FRAMES[position]

    windows = [Window(FIRST, (), path), Window(SECOND, ())]
    probe = MemoryProbe(model, HEIGHT, WIDTH, windows, frame_at, lambda: ticks.append(None))  # type: ignore[arg-type]
    track = Track(1, 1, "blue", 0.9, FIRST.until, 25, probed={FIRST.until: read_rle(blue.rle, HEIGHT, WIDTH)})
    assert probe.knows(0, blue.object_id)
    assert not probe.knows(0, 3)  # hotstart has removed it
    assert not probe.knows(1, 1)
    (alone,) = probe.scores([(0, blue.object_id)], track)
    assert 0.5 / 5 < alone <= 1 / 5  # the same mask, on one frame of five, as probable as the tracker holds it to be
    same, other = probe.scores([(0, blue.object_id), (0, 1)], track)
    assert same == pytest.approx(alone, rel=1e-3)
    assert other < same
    assert probe.scores([(0, 1), (0, blue.object_id)], track) == [other, same]
    assert (read, len(ticks)) == ([FIRST.until], 3)
    # Who remembers the same is where it is, too, and only one of them can have it.
    both = probe.scores([(0, blue.object_id)] * 2, track)
    assert min(both) == 0
    assert max(both) == pytest.approx(alone, rel=1e-3)


def test_a_lost_object_is_followed_and_remembers_what_it_sees_until_it_has_been_compared(
    made: tuple[Model, Path, list[Any]],
) -> None:
    model, path, _ = made
    recall = Recall(model.engine, (HEIGHT, WIDTH))
    ending = EndingFile(path, model.engine, (HEIGHT, WIDTH))
    memories = [recall.memory(each, partial(ending.memory, each)) for each in ending.objects]
    before = [(dict(each.conditioning), dict(each.tracked)) for each in memories], recall.rows_in_use
    found = []
    for _ in range(2):
        with recall.following(memories) as copies:
            for position in (FIRST.until, FIRST.until + 4):
                features = recall.features(position, lambda at: FRAMES[at])  # type: ignore[arg-type,return-value]
                masks = recall.follow(features, [(position, copies)])
                found.append([(mask and (mask.starts.tolist(), mask.ends.tolist()), score) for mask, score in masks])
            assert all(FIRST.until in each.tracked for each in copies)
        assert ([(each.conditioning, each.tracked) for each in memories], recall.rows_in_use) == before
    assert found[:2] == found[2:]


def test_windows_worked_on_apart_become_one_clip(made: tuple[Model, Path, list[Any]], second: list[Any]) -> None:
    model, path, rows = made
    windows = [Window(FIRST, rows, path), Window(SECOND, second)]
    size = HEIGHT, WIDTH
    links = link(model, windows, *size, ["red", "blue"], lambda position: FRAMES[position])  # type: ignore[arg-type]
    merged = list(merge(windows, links))
    assert [each.frame_index for each in merged] == [each.index for each in FRAMES]
    assert merged[: FIRST.until][0].objects == rows[0].objects
    assert any(joint.by == "overlap" for joint in links.joints)
    assert links == link(model, windows[::-1], *size, ["red", "blue"], lambda position: FRAMES[position])  # type: ignore[arg-type]


def test_looking_leaves_what_an_object_remembers_as_it_is(made: tuple[Model, Path, list[Any]]) -> None:
    model, path, _ = made
    tracker = model.engine.tracker((HEIGHT, WIDTH), None)
    ending = EndingFile(path, model.engine, (HEIGHT, WIDTH))
    memories = [ending.memory(each, tracker) for each in ending.objects]
    before = [(dict(each.conditioning), dict(each.tracked)) for each in memories], tracker.rows_in_use
    features = model.engine.neck.see(torch.zeros(1, 3, 112, 112))[1][0]
    tracker.look(features, 40, memories)
    assert ([(each.conditioning, each.tracked) for each in memories], tracker.rows_in_use) == before


def test_a_later_window_begins_as_a_clip_does_and_linking_hides_what_one_piece_would_not_have_had(
    made: tuple[Model, Path, list[Any]], second: list[Any]
) -> None:
    """The object that is faint for three frames; then it is detected again, where the tracker does not have it."""
    model, _, rows = made
    ((object_id, prompt),) = {(o.object_id, o.prompt) for each in second for o in each.objects if o.score < 0.7}
    assert object_id in {o.object_id for o in second[0].objects}

    def hidden_after(phrases: set[str]) -> list[tuple[int, int]]:
        # None is seen in the overlap, or remembered: the weights of this model are random, and so is what it tracks.
        earlier = [
            replace(each, objects=tuple(o for o in each.objects if o.prompt in phrases and each.frame_index < 12))
            for each in rows
        ]
        windows = [Window(FIRST, earlier), Window(SECOND, second)]
        links = link(model, windows, HEIGHT, WIDTH, ["red", "blue"], lambda position: FRAMES[position])  # type: ignore[arg-type]
        return [(each.track, each.until) for each in links.hidden]

    # Where the phrase has objects before, one piece would have waited for a better detection.
    assert hidden_after({"red", "blue"}) == [(object_id, SECOND.until)]
    assert hidden_after({"red", "blue"} - {prompt}) == []


def test_frames_that_end_too_early_are_a_fault_of_the_video(
    made: tuple[Model, Path, list[Any]], tmp_path: Path
) -> None:
    with pytest.raises(ClipError, match="ends at frame 17 of the clip") as caught:
        window(made[0], FIRST, tmp_path / "ending", iter(FRAMES[:17]))
    assert caught.value.reason is Reason.UNREADABLE_VIDEO
    assert not list(tmp_path.iterdir())


def test_exemplars_count_in_the_windows_that_hold_their_frames(made: tuple[Model, Path, list[Any]]) -> None:
    box = ((20, 15, 50, 40),)
    last = Cut(1, 22, 26, 26, 26, 26)
    with pytest.raises(UserError, match="without a phrase"):
        window(made[0], last, exemplars=[ExemplarPrompt(box, frame_index=3, label="bolt")])
    with pytest.raises(ClipError, match="frame 40"):  # behind the clip's end
        window(made[0], last, exemplars=[ExemplarPrompt(box, frame_index=40, phrase="red")])
    before = ExemplarPrompt(box, frame_index=3, phrase="red")
    assert window(made[0], last, exemplars=[before]) == window(made[0], last)
    assert made[0].engine.tally.frames == 4  # counts are the window's own


@pytest.mark.parametrize("damage", ["gone", "cut", "text", "note", "tensor", "weights", "size"])
def test_an_ending_that_is_damaged_or_foreign_is_a_sentence(
    made: tuple[Model, Path, list[Any]], tmp_path: Path, damage: str
) -> None:
    model, path, _ = made
    other = tmp_path / "other.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata, values = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if damage == "cut":
        other.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        state = json.loads(metadata["sam3ray.ending"]) | {"until": 3}
        save_file(values, other, metadata | {"sam3ray.ending": json.dumps(state)})
    elif damage == "note":
        save_file(values, other, metadata | {"sam3ray.note": "yours"})
    elif damage == "tensor":
        name = next(name for name in values if name.endswith("memories"))
        save_file(values | {name: values[name] + 1}, other, metadata)
    elif damage != "gone":
        other.write_bytes(path.read_bytes())
    engine = Model(seed=1).engine if damage == "weights" else model.engine

    def read() -> None:
        ending = EndingFile(other, engine, (HEIGHT, WIDTH + (damage == "size")))
        ending.memory(next(iter(ending.objects)), engine.tracker((HEIGHT, WIDTH), None))

    with pytest.raises(StateError, match="ending"):
        read()
