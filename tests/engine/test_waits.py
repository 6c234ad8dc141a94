"""The host waits for the device once a frame, and nothing in the loop depends on where a tensor lives."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.ahead import worked
from benchmarks.ghost import FAKE, Ghost, build, not_there, run
from sam3ray.config import TrackingConfig
from sam3ray.engine import overlaps, tracker
from sam3ray.engine.checkpoint import Checkpoint
from sam3ray.engine.detector import Detector
from sam3ray.engine.engine import Engine
from sam3ray.engine.frames import Preprocessor
from sam3ray.engine.lookahead import LookAhead
from sam3ray.engine.memory import ObjectMemory
from sam3ray.engine.policy import Policy
from sam3ray.engine.propagation import Propagation
from sam3ray.engine.rules import Rules
from sam3ray.engine.session import Session
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.tracker_values import Clicks
from sam3ray.engine.transfer import mark
from sam3ray.engine.vision import TrackerNeck
from sam3ray.prompts import PointPrompt
from tests.engine.pipeline import Found, ScriptedDetector, checkpoint, clip
from tests.engine.tiny import PATCH, SMALL, SeeingTracker, small_model

ASK = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "unique_dim"}


class Asked(TorchDispatchMode):
    """Counts what a GPU would have to be waited for: values that steer Python, and shapes that hang on values."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        boolean = name.startswith("index") and any(
            isinstance(each, torch.Tensor) and each.dtype == torch.bool
            for each in (args[1] if len(args) > 1 and isinstance(args[1], list) else ())
        )
        if name in ASK or boolean:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("objects", "device"), [(1, "cuda"), (64, "cuda:1")])
def test_a_frame_of_the_full_model_waits_once_on_a_gpu_that_is_not_there(objects, device):
    """And is launched with few calls, in memory that a card has."""
    cost = run(objects, device, warm=4)
    assert cost.waits == 1
    assert cost.launches <= 300
    assert cost.graphs >= 5
    assert cost.peak_bytes < 4 * 2**30 + objects * 300 * 2**20


def test_clicks_wait_for_nothing():
    """Also a second round on the same frame, and tracking after it."""
    ghost = Ghost(torch.device("cuda:1"), 2)
    with not_there(ghost):
        one = build(ghost.device)
        tracker = SeeingTracker(one.model)
        grid = one.model.tracker_model.prompt_encoder.image_embedding_size
        width = one.model.detector_model.config.vision_config.backbone_config.hidden_size
        hidden = torch.zeros(1, grid[0] * grid[1], width, dtype=torch.bfloat16, device=ghost.device)
        features = tracker.features(hidden)[0]
        memories = [ObjectMemory(), ObjectMemory()]
        points, labels = torch.zeros(2, 2), torch.ones(2, dtype=torch.int32)
        first = [Clicks(points, labels), Clicks(points[:1], labels[:1])]
        prompted = tracker.set_clicks(features, 0, memories, first)
        again = [Clicks(points, labels, mask) for mask in prompted.masks]
        tracker.encode_prompts(features, 0, memories, tracker.set_clicks(features, 0, memories, again))
        tracked = tracker.track(features, 1, memories)
        tracker.encode_memory(features, 1, memories, tracker.upsample(tracked.masks), tracked.score_logits)
        assert tracked.masks.device == ghost.device


def test_an_event_is_of_the_stream_of_its_own_device(monkeypatch):
    """Which need not be the current one: else a decision on cuda:1 reads memory that is not filled yet."""
    recorded = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: ("stream of", device))
    monkeypatch.setattr(torch.cuda, "Event", lambda: type("Event", (), {"record": lambda _, s: recorded.append(s)})())
    mark(torch.device("cuda:1"))
    assert recorded == [("stream of", torch.device("cuda:1"))]


@pytest.mark.parametrize("rules", ["published", "transformers"])
@pytest.mark.parametrize("own_detector", [True, False])
def test_nothing_is_asked_of_the_device_but_the_numbers_of_the_decision(rules, own_detector):
    """With real numbers, on the CPU: objects come, are tracked and reconditioned."""

    def script(frame: int, prompt: int) -> list[Found]:
        drift = 0.01 * frame
        found = [Found((0.3 + drift, 0.3), 0.15, 0.9), Found((0.7, 0.7 - drift), 0.12, 0.8)]
        return found if prompt == 0 else [Found((0.2, 0.8), 0.1, 0.75)] if frame < 4 else []

    one: Checkpoint = checkpoint(small_model(1, 2.0))
    settings = TrackingConfig(rules=rules, geometry_token=own_detector, max_num_objects=6)
    if own_detector:
        settings = settings.model_copy(update={"score_threshold_detection": 0.01, "new_det_thresh": 0.02})
    detector = Detector(one, 2, own_detector) if own_detector else ScriptedDetector(script, 4 * SMALL // PATCH)
    rule_set = Rules.of(one.model.config, settings)
    neck = TrackerNeck(one.model, folded=rule_set.published)
    phrases = ("red", "blue")
    if own_detector:
        detector._use(phrases)
    ahead = LookAhead(one, neck, detector, 1)
    propagation = Propagation(Tracker(one.model, rules), rule_set)
    with torch.inference_mode(), Asked() as asked:
        for work in worked(ahead, clip(20), phrases):
            propagation.step(work, meanwhile=ahead.fill)
    assert propagation.tally.frames == 20
    assert propagation.tally.objects
    assert not asked.counts


class TouchesImages(TorchDispatchMode):
    """Counts operators of this thread that are given bytes: only decoded frames are bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(each, torch.Tensor) and each.dtype == torch.uint8 for each in args):
            self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def engine_of(**settings: Any) -> Engine:
    found = ScriptedDetector(lambda frame, prompt: [Found((0.4, 0.4), 0.2, 0.9)], 4 * SMALL // PATCH)
    return Engine(checkpoint(small_model(1, 2.0)), TrackingConfig(**settings), found)


@pytest.mark.parametrize(("policy", "touches"), [("whole", False), ("both", False), ("live", True)])
def test_the_launching_thread_does_not_prepare_frames(policy, touches):
    """But under `live`, where a frame has nothing to hide behind."""
    with TouchesImages() as launching, Session(engine_of(), 90, 120, Policy.named(policy)) as session:
        session.add("red")
        session.add(PointPrompt(points=((40, 30),), labels=(True,), frame_index=2, object_id=9))
        shown = [each for frame in clip(6) for each in session.step(frame)] + session.finish()
    assert [each.frame_index for each in shown] == list(range(6))
    assert bool(launching.names) == touches


def test_a_frame_that_cannot_be_prepared_is_named_and_ends_the_thread(monkeypatch):
    """The error keeps its kind, from which the reason follows."""
    prepare = Preprocessor.__call__

    def fails(self: Preprocessor, frame: Any) -> torch.Tensor:
        if frame.index == 7:
            raise torch.OutOfMemoryError("no room")
        return prepare(self, frame)

    monkeypatch.setattr(Preprocessor, "__call__", fails)
    with Session(engine_of(), 90, 120, length=10) as session:
        session.add("red")
        with pytest.raises(torch.OutOfMemoryError) as caught:
            [session.step(frame) for frame in clip(10)]
    assert caught.value.__notes__ == ["while frame 7 was prepared for the model"]
    assert "prepare-frames" not in " ".join(each.name for each in threading.enumerate())


@pytest.mark.parametrize("prompt", ["red", PointPrompt(points=((40, 30),), labels=(True,), frame_index=0, object_id=1)])
def test_the_next_frames_are_started_before_the_host_waits_for_this_one(monkeypatch, prompt):
    """For phrases and for clicks alike: the device has work while the host waits and decides."""
    started = [0]
    waits: list[tuple[int, int]] = []  # frames begun, frames whose look-ahead has been started

    class Arrives:
        def synchronize(self) -> None:
            waits.append((session.clock.worked, started[0]))

    for module in (overlaps, tracker):
        monkeypatch.setattr(module, "to_host", lambda tensor: (tensor.cpu(), Arrives()))
    run_ahead = LookAhead._run

    def start(self: LookAhead, chunk: Any) -> Any:
        started[0] += len(chunk)
        return run_ahead(self, chunk)

    monkeypatch.setattr(LookAhead, "_run", start)
    with Session(engine_of(), 90, 120, length=12) as session:
        session.add(prompt)
        for frame in clip(12):
            session.step(frame)
        session.finish()
    early = [(begun, ahead) for begun, ahead in waits if begun < 12]
    assert len({begun for begun, _ in early}) >= 10
    assert all(ahead > begun for begun, ahead in early)


def test_the_ghost_sees_a_wait():
    """What is asked for where it must not be is an error there, with its line."""
    with FAKE, pytest.raises(Exception, match=r"_local_scalar_dense|is_nonzero|[Dd]ata.dependent"):
        bool(torch.ones(3, device="cuda").all())
