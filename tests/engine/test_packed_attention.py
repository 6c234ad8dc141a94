"""Objects of all ages in one batch see what they see in batches of their age."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from sam3ray.engine import capture, compiling, packed_attention, tracker_parts
from sam3ray.engine.memory import ObjectMemory
from sam3ray.engine.tracker_parts import normed
from sam3ray.job.mishaps import free_memory
from tests.engine.tiny import SeeingTracker, tiny_model

LENGTH = 24


def dense(q, k, v, scale):
    """Attention, and the log of its softmax's sum."""
    scores = q @ k.transpose(-1, -2) * scale
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_attention, "possible", lambda device, dtype, width: dense)


def follow(rules: str, object_batch: int) -> list[tuple[torch.Tensor, ...]]:
    """Four objects of different ages, two of them reconditioned on the way."""
    tracker = SeeingTracker(tiny_model(1, 6.0), rules, object_batch)
    torch.manual_seed(3)
    width = tracker.module.config.vision_config.backbone_config.hidden_size
    size = tracker.memory_mask_size
    grid = tracker.module.prompt_encoder.image_embedding_size
    memories: list[ObjectMemory] = []
    seen = []
    for t in range(LENGTH):
        features = tracker.features(torch.randn(1, grid[0] * grid[1], width))[0]
        if memories:
            tracked = tracker.track(features, t, memories)
            seen.append((tracked.masks, tracked.score_logits, tracked.iou_scores))
            if t in (9, 16):
                masks = torch.zeros(2, size, size, dtype=torch.bool)
                masks[:, 40:140, 60:160] = True
                tracker.recondition(features, t, memories[:2], masks if rules == "published" else None)
            tracker.encode_memory(features, t, memories, tracker.upsample(tracked.masks), tracked.score_logits)
        if t in (0, 1, 7, 12):
            born = ObjectMemory()
            mask = torch.zeros(1, size, size, dtype=torch.bool)
            mask[:, 10 * t : 10 * t + 90, 30:150] = True
            tracker.add_masks(features, t, [born], mask)
            memories.append(born)
        tracker.prune(t, memories)
    assert sum(int((scores > 0).sum()) for _, scores, _ in seen) > LENGTH
    return seen


@pytest.mark.parametrize("object_batch", [64, 3])
@pytest.mark.parametrize("rules", ["published", "transformers"])
def test_objects_of_all_ages_share_a_batch(packed, monkeypatch, rules, object_batch):
    if object_batch == 3:  # what is compiled on a GPU, uncompiled
        monkeypatch.setattr(tracker_parts, "compiled", lambda model, function: function)
    together = follow(rules, object_batch)
    monkeypatch.undo()
    apart = follow(rules, object_batch)
    assert len(together) == len(apart) == LENGTH - 1
    for mine, theirs in zip(together, apart, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-3)


def test_two_compilations_weigh_any_number_of_objects_and_memories(monkeypatch):
    """One object is compiled by itself."""
    torch._dynamo.reset()
    counters.clear()
    kind, model = torch.bfloat16, torch.nn.Linear(1, 1)
    monkeypatch.setattr(compiling, "_models", {model})
    weigh = compiling.compiled(model, packed_attention.summed, backend="eager")
    for n in (2, 1, 9):
        for slots in (slots for slots in packed_attention.SLOTS if slots >= packed_attention.FEWEST_COMPILED):
            each, own = torch.randn(n, slots, 2, 30, 16).to(kind), torch.randn(n, 2, 30, 16).to(kind)
            sums, own_sums = torch.randn(n, slots, 2, 30), torch.randn(n, 2, 30)
            got = weigh(each, sums, own, own_sums)
            assert got.dtype == kind
            torch.testing.assert_close(got, packed_attention.weighed(each, sums, own, own_sums))
            weights = torch.cat([sums, own_sums[:, None]], 1).softmax(1)[..., None]
            expected = (torch.cat([each, own[:, None]], 1) * weights).sum(1).transpose(1, 2).flatten(2)
            torch.testing.assert_close(got.float(), expected, rtol=0.02, atol=0.02)
    assert counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]


def recorded(run, device):
    """A capture without a card: the same buffers are filled again by running again."""
    outputs = run()

    def replay():
        for out, fresh in zip(outputs, run(), strict=True):
            out.copy_(fresh)

    return replay, outputs


def test_what_is_replayed_is_what_would_have_run(packed, monkeypatch):
    """Objects come, so that sizes change; results are kept while later frames are worked on."""
    as_it_is = follow("published", 64)
    replays = []

    def record(run, device):
        replay, outputs = recorded(run, device)
        return lambda: (replays.append(1), replay()), outputs

    monkeypatch.setattr(capture, "record", record)
    monkeypatch.setattr(capture, "ready", lambda device: True)
    replayed = follow("published", 64)
    assert len(replays) > LENGTH
    for mine, theirs in zip(replayed, as_it_is, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-3)


def test_memory_given_back_takes_the_graphs_with_it(monkeypatch):
    captures = []

    def record(run, device):
        captures.append(1)
        return recorded(run, device)

    monkeypatch.setattr(capture, "record", record)
    monkeypatch.setattr(capture, "ready", lambda device: True)
    double = capture.Captured("doubling", lambda x: (2 * x,), rows=(0,))
    given = torch.arange(3.0)
    for _ in range(3):
        assert torch.equal(double(given)[0], 2 * given)
    assert len(captures) == 1
    free_memory()
    for _ in range(3):
        assert torch.equal(double(given)[0], 2 * given)
    assert len(captures) == 2


def test_a_capture_that_fails_is_told_once_and_the_work_goes_on(monkeypatch, caplog):
    def refuse(run, device):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(capture, "record", refuse)
    monkeypatch.setattr(capture, "ready", lambda device: True)
    double = capture.Captured("doubling", lambda x: (2 * x,), rows=(0,))
    for count in (3, 3, 3, 2, 3):
        given = torch.arange(float(count))
        assert torch.equal(double(given)[0], 2 * given)
    assert [record.getMessage() for record in caplog.records] == [
        "doubling is not captured for [(3,)]: operation not permitted when stream is capturing"
    ]


def test_turning_is_a_complex_product():
    torch.manual_seed(0)
    tokens, angle = torch.randn(2, 5, 1, 8), torch.rand(5, 1, 4)
    expected = torch.view_as_complex(tokens.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angle), angle)
    halves = tokens.to(torch.bfloat16)
    packed_attention.turn_halves(halves[..., ::2], halves[..., 1::2], angle.cos(), angle.sin())
    got = torch.view_as_complex(halves.float().unflatten(-1, (-1, 2)))
    assert (got - expected).abs().max() < 3 * 2**-8 * expected.abs().max()


def test_normalising_over_few_channels_is_the_models():
    torch.manual_seed(0)
    layer_norm = tiny_model(1).tracker_model.memory_encoder.mask_downsampler.layers[0].layer_norm
    images = torch.randn(3, 4, 9, 7)
    torch.testing.assert_close(normed(images, layer_norm), layer_norm(images))
