"""The tracker core: batches, rules, and that what is dropped is not missed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sam3ray.engine.frames import Preprocessor
from sam3ray.engine.memory import ObjectMemory
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.tracker_values import Clicks, TrackedMasks, non_overlapping_logits, non_overlapping_masks
from sam3ray.engine.vision import FrameFeatures, TrackerNeck
from tests.engine.documented import worst_iou
from tests.engine.pipeline import checkpoint, clip
from tests.engine.tiny import IMAGE, PATCH, SeeingTracker, backbone_features, tiny_model

LENGTH = 20
LOW = 4 * IMAGE // PATCH

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def hidden() -> list[torch.Tensor]:
    """Backbone output of each frame of a clip."""
    preprocess = Preprocessor(checkpoint(tiny_model()))
    with torch.inference_mode():
        return [backbone_features(tiny_model(), preprocess(frame)) for frame in clip(LENGTH)]


def square(top: int, left: int, side: int = 30) -> torch.Tensor:
    mask = torch.zeros(IMAGE, IMAGE, dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    return mask


SQUARES = [square(10, 10), square(60, 20), square(30, 70), square(5, 60, 20), square(75, 75, 25)]


def follow(
    tracker: Tracker,
    hidden: Sequence[torch.Tensor],
    births: Sequence[int],
    *,
    prune: bool = True,
    recondition: Sequence[int] = (),
    reverse: bool = False,
) -> list[TrackedMasks]:
    """Objects born as `SQUARES` on the given frames; results of each frame, objects in order of birth."""
    memories = [ObjectMemory() for _ in births]
    frames = range(len(hidden) - 1, -1, -1) if reverse else range(len(hidden))
    results = []
    for t in frames:
        features = tracker.features(hidden[t])[0]
        alive = [m for m in memories if m.conditioning]
        tracked = tracker.track(features, t, alive, reverse=reverse)
        if t in recondition and alive:
            tracker.recondition(features, t, alive, torch.stack(SQUARES[: len(alive)]))
        if alive:
            tracker.encode_memory(features, t, alive, tracker.upsample(tracked.masks), tracked.score_logits)
        new = [i for i, born in enumerate(births) if born == t]
        if new:
            masks = torch.stack([SQUARES[i] for i in new])
            tracker.add_masks(features, t, [memories[i] for i in new], masks, groups=list(range(len(new))))
        if prune:
            tracker.prune(t, [m for m in memories if m.conditioning], reverse=reverse)
        results.append(tracked)
    return results


def same(first: Sequence[TrackedMasks], second: Sequence[TrackedMasks]) -> bool:
    return all(
        torch.equal(a.masks, b.masks) and torch.equal(a.score_logits, b.score_logits)
        for a, b in zip(first, second, strict=True)
    )


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.allclose(first, second, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("rules", ["published", "transformers"])
class TestBatches:
    def test_objects_of_all_ages_come_out_as_one_by_one(self, hidden, rules):
        births = [0, 0, 2, 5, 5]
        together = follow(SeeingTracker(tiny_model(), rules), hidden[:12], births)
        one_by_one = follow(SeeingTracker(tiny_model(), rules, object_batch=1), hidden[:12], births)
        for a, b in zip(together, one_by_one, strict=True):
            pairs = zip((a.masks > 0).numpy(), (b.masks > 0).numpy(), strict=True)
            assert worst_iou(pairs) >= 0.999
            assert torch.allclose(a.score_logits, b.score_logits, atol=1e-3)

    def test_an_object_does_not_notice_the_others(self, hidden, rules):
        tracker = SeeingTracker(tiny_model(), rules, object_batch=1)
        alone = follow(SeeingTracker(tiny_model(), rules, object_batch=1), hidden[:10], [0])
        joined = follow(tracker, hidden[:10], [0, 3, 3, 6])
        for a, b in zip(alone, joined, strict=True):
            assert torch.equal(a.masks, b.masks[: len(a.masks)])

    def test_results_come_in_the_order_asked_for(self, hidden, rules):
        tracker = SeeingTracker(tiny_model(), rules, object_batch=2)
        memories = [ObjectMemory() for _ in range(4)]
        for t, born in ((0, [0, 2]), (1, [1]), (2, [3])):
            features = tracker.features(hidden[t])[0]
            older = [m for m in memories if m.conditioning]
            tracked = tracker.track(features, t, older)
            tracker.encode_memory(features, t, older, tracker.upsample(tracked.masks), tracked.score_logits)
            tracker.add_masks(features, t, [memories[i] for i in born], torch.stack([SQUARES[i] for i in born]))
        features = tracker.features(hidden[3])[0]
        forward = tracker.track(features, 3, copy.deepcopy(memories)).masks
        order = [2, 0, 3, 1]
        shuffled = tracker.track(features, 3, [memories[i] for i in order]).masks
        assert close(shuffled, forward[torch.tensor(order)])

    def test_no_objects_is_no_work(self, hidden, rules):
        tracker = SeeingTracker(tiny_model(), rules)
        tracked = tracker.track(tracker.features(hidden[0])[0], 0, [])
        assert tracked.masks.shape == (0, LOW, LOW)


@pytest.mark.parametrize("rules", ["published", "transformers"])
@pytest.mark.parametrize("reverse", [False, True])
class TestBounds:
    def test_dropping_changes_no_bit(self, hidden, rules, reverse):
        """Few conditioning frames: with more, the order in which they are read changes, and with it rounding."""
        births = [LENGTH - 1, LENGTH - 4] if reverse else [0, 3]
        whole = follow(
            SeeingTracker(tiny_model(), rules), hidden, births, prune=False, recondition=[8], reverse=reverse
        )
        dropped = follow(SeeingTracker(tiny_model(), rules), hidden, births, recondition=[8], reverse=reverse)
        assert same(whole, dropped)

    def test_rows_do_not_grow_with_the_clip(self, hidden, rules, reverse):
        tracker = SeeingTracker(tiny_model(), rules)
        follow(tracker, hidden * 3, [59, 59] if reverse else [0, 0], reverse=reverse)
        memories, pointers = tracker.rows_in_use
        assert memories <= 2 * 8
        assert pointers <= 2 * 18

    def test_forgotten_objects_leave_nothing(self, hidden, rules, reverse):
        tracker = SeeingTracker(tiny_model(), rules)
        memories = [ObjectMemory() for _ in range(3)]
        features = tracker.features(hidden[0])[0]
        tracker.add_masks(features, 0, memories, torch.stack(SQUARES[:3]))
        tracker.track(features, 1, memories, reverse=reverse)
        tracker.forget(memories)
        assert tracker.rows_in_use == (0, 0)


class TestPublishedRules:
    def test_frames_whose_score_does_not_pass_are_not_remembered(self, hidden):
        tracker = SeeingTracker(tiny_model(0, -0.3), "published")
        memory = ObjectMemory()
        features = tracker.features(hidden[0])[0]
        tracker.add_masks(features, 0, [memory], SQUARES[0][None])
        expected = {}
        for t in range(1, LENGTH):
            features = tracker.features(hidden[t])[0]
            tracked = tracker.track(features, t, [memory])
            tracker.encode_memory(features, t, [memory], tracker.upsample(tracked.masks), tracked.score_logits)
            presence = max(0.0, float(tracked.score_logits.sigmoid()) * 2 - 1)
            expected[t] = presence * float(tracked.iou_scores) > 0.01
        tracker._resolve()
        assert {t: entry.passed for t, entry in memory.tracked.items()} == expected
        assert len(set(expected.values())) == 2

    def test_the_pointer_of_a_mask_is_that_of_the_single_mask_token(self, hidden):
        pointers = {}
        for rules in ("published", "transformers"):
            tracker = SeeingTracker(tiny_model(), rules)
            tokens: list[torch.Tensor] = []
            handle = tracker.module.object_pointer_proj.register_forward_pre_hook(
                lambda _, args, seen=tokens: seen.append(args[0].clone())
            )
            memory = ObjectMemory()
            tracker.add_masks(tracker.features(hidden[0])[0], 0, [memory], SQUARES[0][None])
            handle.remove()
            pointers[rules] = tokens[0]
        assert not close(pointers["published"], pointers["transformers"])

    def test_masks_become_memory_at_the_size_they_have(self, hidden):
        """Published: sigmoid, then resized. transformers: resized, then sigmoid."""
        logits = torch.randn(1, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0)) * 4
        seen: dict[str, torch.Tensor] = {}
        for rules in ("published", "transformers"):
            tracker = SeeingTracker(tiny_model(), rules)
            handle = tracker.module.memory_encoder.mask_downsampler.register_forward_pre_hook(
                lambda _, args, rules=rules: seen.__setitem__(rules, args[0].clone())
            )
            memory = ObjectMemory()
            features = tracker.features(hidden[0])[0]
            tracker.add_masks(features, 0, [memory], SQUARES[0][None])
            tracker.track(tracker.features(hidden[1])[0], 1, [memory])
            tracker.encode_memory(tracker.features(hidden[1])[0], 1, [memory], logits, torch.ones(1))
            handle.remove()
        size = (tracker.memory_mask_size,) * 2
        enlarge = lambda x: torch.nn.functional.interpolate(  # noqa: E731
            x[:, None], size, mode="bilinear", antialias=True, align_corners=False
        )
        assert torch.allclose(seen["published"], enlarge(torch.sigmoid(logits) * 20 - 10), atol=1e-4)
        assert torch.allclose(seen["transformers"], torch.sigmoid(enlarge(logits)) * 20 - 10, atol=1e-4)

    @pytest.mark.parametrize("rules", ["published", "transformers"])
    def test_reconditioning(self, hidden, rules):
        tracker = SeeingTracker(tiny_model(), rules)
        matched, mate, other = (ObjectMemory() for _ in range(3))
        tracker.add_masks(tracker.features(hidden[0])[0], 0, [matched, mate, other], torch.stack(SQUARES[:3]))
        features = tracker.features(hidden[1])[0]
        tracker.track(features, 1, [matched, mate, other])
        before = tracker._pointers.rows[matched.tracked[1].pointer].clone()
        kept = mate.tracked[1].pointer
        masks = SQUARES[0][None] if rules == "published" else None
        tracker.recondition(features, 1, [matched], masks)
        tracker.lend(1, mate, {1})
        assert sorted(matched.conditioning) == sorted(mate.conditioning) == [0, 1]
        assert sorted(other.conditioning) == [0]
        assert not matched.tracked
        assert mate.conditioning[1].pointer == kept
        after = tracker._pointers.rows[matched.conditioning[1].pointer]
        assert torch.equal(before, after) == (rules == "transformers")

    def test_a_new_mask_takes_in_where_logits_are_positive(self):
        logits = torch.full((1, LOW, LOW), -1.0)
        logits[0, 10:20, 10:20] = 0.3
        assert SeeingTracker(tiny_model(), "published").mask_prompt(logits).any()
        assert not SeeingTracker(tiny_model(), "transformers").mask_prompt(logits).any()

    def test_new_masks_of_a_group_exclude_each_other_in_memory(self):
        first, second = square(10, 10), square(20, 20)
        apart = non_overlapping_masks(torch.stack([first, second, first]), [0, 0, 1])
        assert torch.equal(apart[0], first & ~second)
        assert torch.equal(apart[1], second)
        assert torch.equal(apart[2], first)
        logits = torch.tensor([[[3.0, -20.0]], [[5.0, -30.0]], [[1.0, 2.0]]])
        assert non_overlapping_logits(logits, [0, 0, 1]).tolist() == [[[-10.0, -20.0]], [[5.0, -30.0]], [[1.0, 2.0]]]


class TestClicks:
    def test_objects_with_any_number_of_clicks_share_a_call(self, hidden):
        clicks = [
            Clicks(torch.tensor([[40.0, 50.0]]), torch.tensor([1])),
            Clicks(torch.tensor([[40.0, 50.0], [80.0, 60.0]]), torch.tensor([1, 0])),
            Clicks(torch.tensor([[20.0, 30.0]]), torch.tensor([1])),
            Clicks(torch.tensor([[20.0, 30.0], [90.0, 80.0]]), torch.tensor([2, 3]), torch.zeros(LOW, LOW)),
        ]
        tracker = SeeingTracker(tiny_model())
        features = tracker.features(hidden[0])[0]
        together = tracker.set_clicks(features, 0, [ObjectMemory() for _ in clicks], clicks)
        for i, click in enumerate(clicks):
            alone = tracker.set_clicks(features, 0, [ObjectMemory()], [click])
            assert worst_iou([((together.masks[i] > 0).numpy(), (alone.masks[0] > 0).numpy())]) >= 0.999
            assert torch.allclose(together.score_logits[i], alone.score_logits[0], atol=1e-4)

    def test_earlier_logits_change_the_outcome_and_are_bounded(self, hidden):
        tracker = SeeingTracker(tiny_model())
        features = tracker.features(hidden[0])[0]
        points, labels = torch.tensor([[40.0, 50.0]]), torch.tensor([1])

        def masks(earlier: torch.Tensor | None) -> torch.Tensor:
            click = Clicks(points, labels, earlier)
            return tracker.set_clicks(features, 0, [ObjectMemory()], [click]).masks

        huge = torch.where(SQUARES[0][::2, ::2], 1024.0, -1024.0)
        assert torch.equal(masks(huge), masks(huge.clamp(-32, 32)))
        assert not torch.equal(masks(huge), masks(None))


class TestPrecision:
    def test_bfloat16_weights_and_autocast_track(self, hidden):
        exact = follow(SeeingTracker(tiny_model()), hidden[:4], [0, 1])
        half = copy.deepcopy(tiny_model()).to(torch.bfloat16)
        in_half = follow(SeeingTracker(half), [each.to(torch.bfloat16) for each in hidden[:4]], [0, 1])
        with torch.autocast("cpu", torch.bfloat16):
            mixed = follow(SeeingTracker(tiny_model()), hidden[:4], [0, 1])
        for runs in (in_half, mixed):
            for a, b in zip(exact, runs, strict=True):
                assert a.masks.shape == b.masks.shape
                assert torch.isfinite(b.masks).all()
                shown = (a.score_logits > 0.2).nonzero().flatten().tolist()
                for i in shown:
                    agreement = ((a.masks[i] > 0) == (b.masks[i] > 0)).float().mean()
                    assert agreement > 0.9

    def test_memories_on_the_host_change_no_bit(self, hidden):
        here = follow(SeeingTracker(tiny_model()), hidden[:8], [0, 2])
        there = follow(SeeingTracker(tiny_model(), offload_state=True), hidden[:8], [0, 2])
        assert same(here, there)


def test_features_of_several_frames_are_those_of_each(hidden):
    tracker = SeeingTracker(tiny_model())
    batch = tracker.features(torch.cat(hidden[:3]))
    for one, each in zip(hidden[:3], batch, strict=True):
        for field in FrameFeatures.__dataclass_fields__:
            single: Any = getattr(tracker.features(one)[0], field)
            assert torch.allclose(single, getattr(each, field), atol=1e-5)


def test_features_are_those_of_transformers_exactly_or_but_for_rounding(hidden):
    model = tiny_model()
    frame = hidden[0]
    with torch.inference_mode():
        theirs, _ = model.get_vision_features_for_tracker(SimpleNamespace(last_hidden_state=frame))
    exact, folded = (TrackerNeck(model, folded=each)(frame)[0] for each in (False, True))
    for level, features in ((0, "fine"), (1, "middle")):
        expected = theirs[level].permute(1, 2, 0).view_as(exact.fine if level == 0 else exact.middle)
        assert torch.equal(getattr(exact, features), expected)
        assert torch.allclose(getattr(folded, features), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(exact.top.transpose(0, 1), theirs[2])
    assert torch.equal(folded.top, exact.top)


def test_a_checkpoint_without_memory_is_refused():
    model = copy.deepcopy(tiny_model())
    model.tracker_model.config.num_maskmem = 0
    with pytest.raises(ValueError, match="num_maskmem must be at least 1, got 0"):
        Tracker(model)


def test_squares_are_told_apart(hidden):
    """The tests above would pass on a model that finds nothing."""
    results = follow(SeeingTracker(tiny_model()), hidden[:6], [0, 1])
    areas = np.array([(each.masks > 0).sum((1, 2)).sum().item() for each in results])
    assert (areas > 0).sum() >= 3


class Late:
    """Stands in for a copy that the device has only queued: the numbers come when they are waited for."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.values, self.host = tensor.clone(), torch.zeros_like(tensor)

    @torch.inference_mode()
    def synchronize(self) -> None:
        self.host.copy_(self.values)


def test_scores_that_arrive_late_are_waited_for_and_not_before(hidden, monkeypatch):
    at_once = follow(SeeingTracker(tiny_model(0, -0.3), "published"), hidden, [0, 3])
    tracker = SeeingTracker(tiny_model(0, -0.3), "published")
    waiting: list[Late] = []

    def late(tensor):
        waiting.append(Late(tensor))
        return waiting[-1].host, waiting[-1]

    monkeypatch.setattr("sam3ray.engine.tracker.to_host", late)
    memory = ObjectMemory()
    features = tracker.features(hidden[0])[0]
    tracker.add_masks(features, 0, [memory], SQUARES[0][None])
    tracker.track(features, 1, [memory])
    assert memory.tracked[1].passed is None, "a frame's score is not asked for before the next frame"
    assert same(follow(SeeingTracker(tiny_model(0, -0.3), "published"), hidden, [0, 3]), at_once)
    assert len(waiting) == LENGTH


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("rules", ["published", "transformers"])
def test_tracking_never_waits_for_the_device(hidden, rules):
    model = copy.deepcopy(tiny_model()).to("cuda")
    tracker = SeeingTracker(model, rules)
    memories = [ObjectMemory() for _ in range(3)]
    features = tracker.features(hidden[0].to("cuda"))[0]
    tracker.add_masks(features, 0, memories, torch.stack(SQUARES[:3]).to("cuda"))
    for t in range(1, 20):
        features = tracker.features(hidden[t % LENGTH].to("cuda"))[0]
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            tracked = tracker.track(features, t, memories)
            tracker.encode_memory(features, t, memories, tracker.upsample(tracked.masks), tracked.score_logits)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        tracker.prune(t, memories)


@pytest.mark.parametrize("rules", ["published", "transformers"])
def test_a_look_after_pruning_makes_do_with_what_is_left(hidden, rules):
    """Pruned for the next frame, an object has lost the oldest memory that this frame would read."""
    tracker = SeeingTracker(tiny_model(), rules)
    memory, last = ObjectMemory(), len(hidden) - 1
    for t, states in enumerate(hidden):
        features = tracker.features(states)[0]
        if t == 0:
            tracker.add_masks(features, t, [memory], SQUARES[0][None])
            continue
        tracked = tracker.track(features, t, [memory])
        tracker.encode_memory(features, t, [memory], tracker.upsample(tracked.masks), tracked.score_logits)
        memory.tracked[t].passed = True
        tracker._unresolved.clear()
        if t == last:
            before = tracker.look(features, t, [memory])
            tracker.prune(t, [memory])
            after = tracker.look(features, t, [memory])
    assert torch.isfinite(after.masks).all()
    assert worst_iou([((before.masks > 0).numpy(), (after.masks > 0).numpy())]) > 0.5
