"""Objects that were lost and come back as new ones get their old ids, if that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sam3ray.config import JobConfig, TrackingConfig, fingerprint
from sam3ray.engine.detected import DetectedObject
from sam3ray.engine.engine import Engine
from sam3ray.engine.header import StateError
from sam3ray.engine.mask_head import HeadOutput
from sam3ray.engine.memory import ObjectMemory
from sam3ray.engine.policy import Policy
from sam3ray.engine.relinking import MOST, Relinker
from sam3ray.engine.session import Session
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.tracker_values import TrackedMasks
from tests.engine.pipeline import HEIGHT, WIDTH, Found, ScriptedDetector, checkpoint, clip
from tests.engine.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES = clip(32)
DELAY = 10
SIZE = tiny_model(0).low_res_mask_size
LEFT, RIGHT = (0.5, 0.2), (0.5, 0.8)

# Where each object is tracked, by the frame of its birth: a tracker that does what a test says.
Tracks = dict[int, Callable[[int], tuple[float, float] | None]]


def ellipse(place: tuple[float, float] | None) -> torch.Tensor:
    return Found(place, 0.15, 0.9).mask(SIZE) if place is not None else torch.full((SIZE, SIZE), -8.0)


class World:
    """What is detected, what is tracked, and what lost objects are recalled as."""

    def __init__(self, tracks: Tracks, recalls: Tracks, detected: dict[int, Sequence[tuple[float, float]]]) -> None:
        self.tracks, self.recalls, self.detected = tracks, recalls, detected

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def places(of: Tracks, frame: int, memories: Sequence[ObjectMemory]) -> list[tuple[float, float] | None]:
            return [of.get(min(each.conditioning), lambda frame: None)(frame) for each in memories]

        def track(
            one: Tracker, features: object, frame: int, memories: Sequence[ObjectMemory], *, reverse: bool = False
        ) -> TrackedMasks:
            found = places(self.tracks, frame, memories)
            there = torch.tensor([8.0 if each is not None else -8.0 for each in found])
            pointers = torch.zeros(len(found), one.module.hidden_dim)
            output = HeadOutput(torch.stack([ellipse(e) for e in found]), there, there.sigmoid(), pointers)
            one._store_tracked(frame, memories, output)
            return output

        def look(one: Tracker, features: object, frame: int, memories: Sequence[ObjectMemory]) -> TrackedMasks:
            found = places(self.recalls, frame, memories)
            there = torch.tensor([8.0 if each is not None else -8.0 for each in found])
            return TrackedMasks(torch.stack([ellipse(e) for e in found]), there, there.sigmoid())

        monkeypatch.setattr(Tracker, "track", track)
        monkeypatch.setattr(Tracker, "look", look)

    def engine(self, **tracking: Any) -> Engine:
        values = {
            "hotstart_delay": DELAY,
            "hotstart_unmatch_thresh": 3,
            "hotstart_dup_thresh": 3,
            "recondition_every_nth_frame": 0,
            "relink": True,
        }
        detector = ScriptedDetector(self.script, SIZE)
        return Engine(checkpoint(tiny_model(0)), TrackingConfig(**(values | tracking)), detector)

    def script(self, frame: int, prompt: int) -> list[Found]:
        return [Found(place, 0.15, 0.9 - 0.01 * frame) for place in self.detected.get(frame, ())] if not prompt else []


def between(start: int, stop: int, place: tuple[float, float]) -> Callable[[int], tuple[float, float] | None]:
    return lambda frame: place if start <= frame < stop else None


def one_that_comes_back() -> World:
    """On the left to frame 7; on the right, as a new object, from frame 14 on. It is recalled there."""
    tracks = {0: between(0, 8, LEFT), 14: between(14, 40, RIGHT)}
    detected = {t: [LEFT] for t in range(8)} | {t: [RIGHT] for t in range(14, 40)}
    return World(tracks, {0: between(0, 40, RIGHT)}, detected)


def rows(engine: Engine, phrases: Sequence[str] = ("red",), frames: Any = FRAMES) -> list[Any]:
    return list(engine.annotate(frames, HEIGHT, WIDTH, phrases))


def ids(found: Sequence[Any]) -> dict[int, list[int]]:
    return {frame.frame_index: [each.object_id for each in frame.objects] for frame in found}


def test_an_object_that_comes_back_has_its_old_id_and_score_from_its_first_frame_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = one_that_comes_back()
    world.install(monkeypatch)
    apart, together = rows(world.engine(relink=False)), rows(world.engine())
    assert [*map(ids(apart).get, (0, 7, 8, 13, 14, 31))] == [[1], [1], [], [], [2], [2]]
    assert [*map(ids(together).get, (0, 7, 8, 13, 14, 31))] == [[1], [1], [], [], [1], [1]]
    assert {each.score for frame in together for each in frame.objects} == {together[0].objects[0].score}
    assert [[(o.rle, o.track_score) for o in f.objects] for f in apart] == [
        [(o.rle, o.track_score) for o in f.objects] for f in together
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda world: world.recalls.clear(),  # it is not recalled
        lambda world: world.recalls.update({0: between(0, 40, LEFT)}),  # or elsewhere
        lambda world: world.recalls.update({0: between(0, 15, RIGHT)}),  # or on one frame of three
        lambda world: world.tracks.update({0: lambda t: LEFT if t < 8 or t == 16 else None}),  # it is seen meanwhile
    ],
)
def test_it_is_a_new_object_where_that_is_not_sure(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    world = one_that_comes_back()
    change(world)
    world.install(monkeypatch)
    found = ids(rows(world.engine()))
    assert 2 in found[14]
    assert 2 in found[31]
    assert all(len(set(each)) == len(each) for each in found.values())


def test_one_object_alone_can_be_a_lost_one_and_the_better_fit_is(monkeypatch: pytest.MonkeyPatch) -> None:
    world = one_that_comes_back()
    # Another one is lost, too, and another one comes; each is recalled where it comes.
    world.tracks |= {1: between(1, 8, (0.9, 0.5)), 15: between(15, 40, (0.1, 0.5))}
    world.detected |= {t: [LEFT, (0.9, 0.5)] for t in range(1, 8)}
    world.detected |= {t: [RIGHT, (0.1, 0.5)] for t in range(15, 40)}
    world.recalls[1] = between(0, 40, (0.1, 0.5))
    world.install(monkeypatch)
    found = ids(rows(world.engine()))
    assert (found[7], found[14], found[31]) == ([1, 2], [1], [1, 2])
    world.recalls[1] = world.recalls[0]  # both are recalled in one place: it may be either
    found = ids(rows(world.engine()))
    assert (found[7], found[31]) == ([1, 2], [3, 4])


@pytest.mark.parametrize("phrases", [("red",), ("blue", "red")])
def test_a_phrase_has_its_own_lost_objects(monkeypatch: pytest.MonkeyPatch, phrases: tuple[str, ...]) -> None:
    world = one_that_comes_back()
    world.install(monkeypatch)
    if len(phrases) == 2:  # what comes back was found by the other phrase
        monkeypatch.setattr(
            world,
            "script",
            lambda t, prompt: [Found(p, 0.15, 0.9) for p in world.detected.get(t, ()) if (t > 9) == prompt],
        )
    assert ids(rows(world.engine(), phrases))[31] == ([1] if len(phrases) == 1 else [2])


def test_an_object_that_is_tracked_no_longer_is_found_again_by_what_is_kept_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = one_that_comes_back()
    world.tracks = {0: between(0, 4, LEFT), 22: between(22, 40, RIGHT)}
    world.detected = {t: [LEFT] for t in range(4)} | {t: [RIGHT] for t in range(22, 40)}
    world.install(monkeypatch)
    engine = world.engine(forget_after_frames=16)
    assert ids(rows(engine))[31] == [1]
    assert engine.tally.forgotten == 1


def test_live_results_are_not_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = one_that_comes_back()
    world.install(monkeypatch)
    shown: list[tuple[int, ...]] = []
    with Session(world.engine(), HEIGHT, WIDTH, Policy.named("live")) as session:
        session.add("red")
        for frame in FRAMES[:20]:
            shown += [each.shown for each in session.step(frame)]
    assert (shown[0], shown[19]) == ((1,), (2,))


@pytest.mark.parametrize("cut", [12, 18, 25, 32])  # lost; watched; after the decision; at the end
def test_a_session_saved_and_loaded_relinks_as_one_that_was_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cut: int
) -> None:
    world = one_that_comes_back()
    world.install(monkeypatch)
    expected = rows(world.engine())
    found: list[Any] = []
    session = Session(world.engine(), HEIGHT, WIDTH, length=len(FRAMES))
    session.add("red")
    for frame in FRAMES[:cut]:
        found += session.step(frame)
    session.save(tmp_path / "state")
    other = Session(world.engine(), HEIGHT, WIDTH, length=len(FRAMES))
    other.load(tmp_path / "state")
    for frame in FRAMES[other.next_position :]:
        found += other.step(frame)
    found += other.finish()
    assert [each.annotations for each in found] == expected
    assert ids(expected)[31] == [1]
    with pytest.raises(StateError, match=r"tracking.relink True, this session has None"):
        Session(world.engine(relink=False), HEIGHT, WIDTH).load(tmp_path / "state")


def test_at_most_64_objects_of_a_phrase_are_remembered_those_seen_last() -> None:
    freed: list[ObjectMemory] = []
    tracker = SimpleNamespace(forget=freed.extend)
    propagation: Any = SimpleNamespace(objects=[], phrases=["red", "blue"], tracker=tracker, keeps=None)
    relinker = Relinker(propagation, 0)
    step: Any = SimpleNamespace(young=frozenset())
    for n in range(1, MOST + 11):
        assert propagation.keeps(DetectedObject(n, 0, 0.9, n, empty_frames=16))
        relinker.after(None, n + 20, step)  # type: ignore[arg-type]
    propagation.keeps(DetectedObject(500, 1, 0.9, 3, empty_frames=16))
    relinker.after(None, 90, step)  # type: ignore[arg-type]
    assert list(relinker.gone) == [*range(11, MOST + 11), 500]
    assert len(freed) == 10
    relinker.remove([12], ["blue"])
    assert not relinker.gone.keys() & {12, 500}


def test_relinking_is_part_of_the_fingerprint_where_it_is_asked_for() -> None:
    def keys(**tracking: Any) -> dict[str, Any]:
        return fingerprint(JobConfig(manifest="m", output="o", tracking=tracking), [])

    assert keys(relink=True)["tracking.relink"] is True
    assert keys() == keys(relink=False)
    assert "tracking.relink" not in keys()
