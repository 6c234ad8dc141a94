"""Under bfloat16 weights every position is that of float32, at the size of the real model."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import Sam3VideoModel

from benchmarks.models import processor
from sam3ray.config import ModelConfig
from sam3ray.engine.checkpoint import load_checkpoint
from sam3ray.engine.detr import DetectionTransformer
from sam3ray.engine.mask_head import MaskHead
from sam3ray.engine.memory_attention import MemoryAttention
from sam3ray.engine.positions import restore
from sam3ray.engine.vision import TrackerNeck
from tests.engine import tiny

ROUNDED = 2.0**-8  # one rounding of a value up to 2 to bfloat16


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Sam3VideoModel, Sam3VideoModel]:
    """One small model of 1008 pixels, loaded in float32 and in bfloat16."""
    folder = tmp_path_factory.mktemp("checkpoint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "IMAGE", 1008)
        patch.setattr(tiny, "PATCH", 14)
        torch.manual_seed(0)
        Sam3VideoModel(tiny.tiny_config()).save_pretrained(folder)
    processor(1008).save_pretrained(folder)
    exact, rounded = (
        load_checkpoint(ModelConfig(checkpoint=str(folder), dtype=dtype, device="cpu")).model
        for dtype in ("float32", "bfloat16")
    )
    return exact, rounded


def test_buffers_are_those_of_float32_whatever_was_loaded(models):
    exact, rounded = models
    given = dict(exact.named_buffers())
    for name, value in rounded.named_buffers():
        assert not value.is_floating_point() or value.dtype == torch.float32, name
        assert torch.equal(value, given[name]), name
    assert next(rounded.parameters()).dtype == torch.bfloat16


def test_what_is_saved_of_a_model_does_not_change(models):
    exact, rounded = models
    assert set(exact.state_dict()) == set(rounded.state_dict())


def test_rotary_positions_of_the_backbone_turn_by_the_right_angle(models):
    turned = []
    for model in models:
        layers = model.detector_model.vision_encoder.backbone.layers
        turned.append([layer.rotary_emb(layer.position_ids, layer.position_ids) for layer in layers])
    for (cos, sin), (cos_rounded, sin_rounded) in zip(*turned, strict=True):
        assert torch.equal(cos, cos_rounded)
        assert torch.equal(sin, sin_rounded)


@torch.inference_mode()
def test_positions_that_the_engine_makes_are_rounded_once(models):
    tables = []
    for model in models:
        weight = model.tracker_model.no_memory_embedding
        attention = MemoryAttention(model.tracker_model, weight.dtype)
        search = DetectionTransformer(model.detector_model, 72)
        tables.append(
            [
                search.positions,
                search._steps,
                TrackerNeck(model, folded=False)._position,
                attention.memory_positions,
                attention.turns.real,
                attention.turns.imag,
                MaskHead(model.tracker_model).image_positions,
            ]
        )
    for exact, rounded in zip(*tables, strict=True):
        assert rounded.dtype == torch.float32 or rounded.dtype == torch.bfloat16
        assert (exact - rounded.float()).abs().max() <= ROUNDED


@torch.inference_mode()
def test_a_click_is_where_it_was_set(models):
    """Its embedding is rounded when it is used, with the other tokens."""
    points = torch.tensor([[[[1001.0, 997.0], [3.0, 515.0]]]])
    labels = torch.ones(1, 1, 2, dtype=torch.int32)
    exact, rounded = (model.tracker_model.prompt_encoder(points, labels, None, None)[0] for model in models)
    shifted = models[0].tracker_model.prompt_encoder(points + 1.0, labels, None, None)[0]
    assert (exact - rounded.float()).abs().max() < 0.1 * (exact - shifted).abs().max()


def test_a_model_that_was_cast_afterwards_is_put_right_but_for_its_weights(models):
    exact = models[0]
    cast = copy.deepcopy(exact).to(torch.bfloat16)
    restore(cast)
    given = dict(exact.named_buffers())
    for name, value in cast.named_buffers():
        tolerance = 2**-8 if name.endswith("positional_embedding") else 0
        torch.testing.assert_close(value, given[name], rtol=tolerance, atol=0)
