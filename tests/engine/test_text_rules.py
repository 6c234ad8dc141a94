"""`published` and `transformers` part where `rules` says so."""

import numpy as np
import pytest
import torch

from sam3ray.config import TrackingConfig
from sam3ray.engine.engine import Engine
from sam3ray.engine.memory import ObjectMemory
from sam3ray.engine.tracker import Tracker
from sam3ray.masks import decode_rle
from tests.engine.pipeline import HEIGHT, WIDTH, Found, ScriptedDetector, checkpoint, clip
from tests.engine.test_text_defects import centre, disc
from tests.engine.tiny import SeeingTracker, tiny_model

HERE, NEAR = (0.5, 0.4), (0.5, 0.46)


@pytest.fixture
def calls(monkeypatch):
    """What the engine asks of the tracker, the masks being a disc at HERE for whoever is tracked."""
    seen = {"recondition": [], "lend": [], "add_masks": [], "encode_memory": []}
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
    engine = Engine(checkpoint(tiny_model(0)), config, detector)
    return list(engine.annotate(clip(frames), HEIGHT, WIDTH, ["red"]))


def confirmed(frame, prompt):
    """One object that the detector sees a little to the right of where it is tracked, and one of the same birth."""
    return [Found(NEAR, 0.2, 0.95, 6.0), Found((0.1, 0.9), 0.1, 0.75, 6.0)]


@pytest.mark.parametrize("rules", ["published", "transformers"])
def test_reconditioning(calls, rules):
    frames = run(confirmed, rules, high_iou_thresh=0.5)
    (frame, memories, arguments, _), *others = calls["recondition"]
    assert frame == 2, "frame 0 has no tracks yet, frame 1 is not its turn"
    assert not others
    assert len(memories) == 1
    shown = decode_rle(frames[2].objects[0].rle, HEIGHT, WIDTH)
    if rules == "published":
        assert arguments[0].dtype == torch.bool
        assert arguments[0].shape == (1, 224, 224), "the detection, at the memory encoder's size"
        assert np.allclose(centre(arguments[0][0].numpy()), NEAR, atol=0.02)
        assert len(calls["lend"]) == 1
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


@pytest.mark.parametrize("size", [(90, 120), (300, 500)])
def test_the_mask_that_starts_an_object_goes_through_the_size_of_the_video(size):
    """1152 -> the video's size, > 0.5 -> 288 -> 1008 in Meta's code; here 224 -> size -> 56 -> 112."""
    tracker = SeeingTracker(tiny_model(0), "published", video_size=size)
    features = tracker.features(torch.randn(1, 14 * 14, 32))[0]
    logits = torch.stack([Found(HERE, 0.06, 0.9).mask(56), Found(NEAR, 0.1, 0.9).mask(56)])
    given = tracker.mask_prompt(logits)
    prompted = tracker.set_masks(features, 0, [ObjectMemory(), ObjectMemory()], given, groups=[0, 1])
    for mask, remembered in zip(given, prompted.memory_logits, strict=True):
        seen = torch.nn.functional.interpolate(mask[None, None].float(), size, mode="bilinear", antialias=True) > 0.5
        low = torch.nn.functional.interpolate(
            torch.where(seen, 1024.0, -1024.0), (56, 56), mode="bilinear", antialias=True
        )
        expected = torch.nn.functional.interpolate(low, (112, 112), mode="bilinear")
        assert torch.allclose(remembered, expected[0, 0], atol=1e-3)


class TestLoans:
    """X and Y are born on frame 1; X alone agrees with a detection on frame 2, and is removed on frame 5."""

    def reads_of_the_other(self, monkeypatch, x_stays: bool, y_too: bool = False, every: int = 2):
        """The conditioning frames of Y after each frame."""
        x, y = (0.3, 0.3), (0.7, 0.7)
        track, kept, seen = Tracker.track, {}, []

        def tracked(self, features, frame, memories, **options):
            found = track(self, features, frame, memories, **options)
            for place, memory in enumerate(memories):
                number = kept.setdefault(id(memory), (len(kept), memory))[0]
                found.masks[place] = disc((x, y)[number], radius=0.15)
                found.score_logits[place] = 5.0
            return found

        def script(frame, prompt):
            if frame == 0:
                return []
            score = 0.9 if frame <= 1 + every else 0.6
            found = [Found(y, 0.15, 0.9 if frame == 1 or (y_too and frame <= 1 + every) else 0.6, 6.0)]
            return [Found(x, 0.15, score, 6.0), *found] if x_stays or frame <= 2 else found

        forget = Tracker.prune

        def pruned(self, frame, memories, **options):
            forget(self, frame, memories, **options)
            if len(kept) == 2:
                other = kept[max(kept, key=lambda each: kept[each][0])][1]
                seen.append((frame, sorted(other.conditioning), sorted(t for t in other.tracked)))

        monkeypatch.setattr(Tracker, "track", tracked)
        monkeypatch.setattr(Tracker, "prune", pruned)
        config = TrackingConfig(
            hotstart_delay=6,
            hotstart_unmatch_thresh=3,
            hotstart_dup_thresh=6,
            recondition_every_nth_frame=every,
            high_conf_thresh=0.8,
            high_iou_thresh=0.5,
        )
        engine = Engine(checkpoint(tiny_model(0)), config, ScriptedDetector(script, 56))
        list(engine.annotate(clip(9), HEIGHT, WIDTH, ["red"]))
        return {frame: (conditioning, ordinary) for frame, conditioning, ordinary in seen}, engine.tally

    def test_the_removed_takes_back_the_conditioning_frame_that_it_gave(self, monkeypatch):
        frames, tally = self.reads_of_the_other(monkeypatch, x_stays=False)
        assert tally.removed == 1
        assert frames[4][0] == [1, 2]
        assert frames[5][0] == [1]
        assert 2 in frames[5][1], "an ordinary frame again, with what it remembers"

    def test_who_stays_leaves_it(self, monkeypatch):
        frames, tally = self.reads_of_the_other(monkeypatch, x_stays=True)
        assert tally.removed == 0
        assert frames[8][0] == [1, 2]

    def test_who_was_reconditioned_too_keeps_it(self, monkeypatch):
        frames, tally = self.reads_of_the_other(monkeypatch, x_stays=False, y_too=True)
        assert tally.removed == 1
        assert frames[8][0] == [1, 2]
