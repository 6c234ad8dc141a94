"""`published` and `transformers` part where `rules` says so."""

import numpy as np
import pytest
import torch
from pipeline import HEIGHT, WIDTH, Found, ScriptedDetector, checkpoint, clip
from test_text_defects import centre, disc
from tiny import tiny_model

from sam3ray.config import TrackingConfig
from sam3ray.engine.text import TextEngine
from sam3ray.engine.tracker import Tracker
from sam3ray.masks import decode_rle

HERE, NEAR = (0.5, 0.4), (0.5, 0.46)


@pytest.fixture
def calls(monkeypatch):
    """What the engine asks of the tracker, the masks being a disc at HERE for whoever is tracked."""
    seen = {"recondition": [], "add_masks": [], "encode_memory": []}
    track = Tracker.track

    def tracked(self, features, frame, memories, **options):
        found = track(self, features, frame, memories, **options)
        for place in range(len(memories)):
            found.masks[place] = disc(HERE, radius=0.2) if place == 0 else disc((0.1, 0.9), radius=0.1)
            found.score_logits[place] = 5.0
        return found

    def spy(name):
        original = getattr(Tracker, name)

        def call(self, features, frame, memories, *arguments, **options):
            seen[name].append((frame, list(memories), arguments, options))
            return original(self, features, frame, memories, *arguments, **options)

        monkeypatch.setattr(Tracker, name, call)

    monkeypatch.setattr(Tracker, "track", tracked)
    for name in seen:
        spy(name)
    return seen


def run(script, rules, frames=3, **tracking):
    detector = ScriptedDetector(script, 56)
    config = TrackingConfig(rules=rules, hotstart_delay=0, recondition_every_nth_frame=2, **tracking)
    engine = TextEngine(checkpoint(tiny_model(0)), config, detector)
    return list(engine.annotate(clip(frames), HEIGHT, WIDTH, ["red"]))


def confirmed(frame, prompt):
    """One object that the detector sees a little to the right of where it is tracked, and one of the same birth."""
    return [Found(NEAR, 0.2, 0.95, 6.0), Found((0.1, 0.9), 0.1, 0.75, 6.0)]


@pytest.mark.parametrize("rules", ["published", "transformers"])
def test_reconditioning(calls, rules):
    frames = run(confirmed, rules, high_iou_thresh=0.5)
    (frame, memories, arguments, options), *others = calls["recondition"]
    assert frame == 2, "frame 0 has no tracks yet, frame 1 is not its turn"
    assert not others
    assert len(memories) == 1
    shown = decode_rle(frames[2].objects[0].rle, HEIGHT, WIDTH)
    if rules == "published":
        assert arguments[0].dtype == torch.bool
        assert arguments[0].shape == (1, 224, 224), "the detection, at the memory encoder's size"
        assert np.allclose(centre(arguments[0][0].numpy()), NEAR, atol=0.02)
        assert len(options["birth_mates"]) == 1
        assert np.allclose(centre(shown), HERE, atol=0.02), "the output stays the tracker's"
    else:
        assert arguments[0] is None
        assert np.allclose(centre(shown), NEAR, atol=0.02), "the output becomes the detection"


@pytest.mark.parametrize(("rules", "size"), [("published", 224), ("transformers", 56)])
def test_the_mask_that_starts_an_object(calls, rules, size):
    """A faint detection, of peak 0.4: all of it under the published rules, nothing under transformers'."""
    run(lambda frame, prompt: [Found(HERE, 0.2, 0.9, 0.4)] if frame == 0 else [], rules, frames=1)
    ((_, _, (masks,), options),) = calls["add_masks"]
    assert masks.shape == (1, size, size)
    assert options["groups"] == [0]
    assert bool(masks.any()) == (rules == "published")


@pytest.mark.parametrize(("rules", "size"), [("published", 224), ("transformers", 56)])
def test_memories_are_made_of_masks_at_the_size_that_the_shrink_rule_looks_at(calls, rules, size):
    run(confirmed, rules, frames=2)
    masks = [arguments[0] for frame, _, arguments, _ in calls["encode_memory"] if frame == 1]
    assert [mask.shape for mask in masks] == [(2, size, size)]
