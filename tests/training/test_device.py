"""Training runs on a GPU if there is one. Without one, tensors that say they are elsewhere stand in for the GPU's."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import Sam3VideoModel
from typer.testing import CliRunner

from tools.training import detector, tracker, trunk
from tools.training.__main__ import app
from tools.training.layout import initialise, make_tokenizer, tiny_config
from tools.training.samples import draw_images, draw_track
from tools.training.unroll import unroll

ELSEWHERE = torch.device("meta")
#: What CUDA takes of both devices: copies, and indices from the CPU (and scalars).
ALLOWED = ("aten::_to_copy", "aten::copy_", "aten::index.Tensor", "aten::index_put")


class Far(torch.Tensor):
    """Says that it lives ELSEWHERE; `near` is what it holds."""

    @staticmethod
    def __new__(cls, near):
        return torch.Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), dtype=near.dtype, device=ELSEWHERE
        )

    def __init__(self, near):
        self.near = near.detach()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


class Machine(TorchDispatchMode):
    """Tensors asked for ELSEWHERE are made and moved there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return run(function, args, kwargs or {})


def run(function, args, kwargs):
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    elsewhere = any(isinstance(x, Far) for x in tensors)
    if elsewhere and function.name() not in ALLOWED:
        near = [tuple(x.shape) for x in tensors if not isinstance(x, Far) and x.ndim]
        assert not near, f"{function} is given tensors of both devices, from the CPU {near}"
    empty = [tuple(x.shape) for x in tensors if x.device == ELSEWHERE and not isinstance(x, Far)]
    assert not empty, f"{function} is given tensors made behind the stand-in's back: {empty}"
    if kwargs.get("device") is not None:
        elsewhere = torch.device(kwargs["device"]) == ELSEWHERE
        kwargs = {**kwargs, "device": torch.device("cpu")}
    args, kwargs = tree_map(lambda x: x.near if isinstance(x, Far) else x, (args, kwargs))
    out = function(*args, **kwargs)
    return tree_map(lambda x: Far(x) if isinstance(x, torch.Tensor) else x, out) if elsewhere else out


def send(module):
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(Far(value.detach()))
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = Far(value)
    return module


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """Two functions of torch that ELSEWHERE does not reach."""
    make = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda data, device=None, **kwargs: make(data, **kwargs).to(device or "cpu"))
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())


def make_model():
    model = Sam3VideoModel(tiny_config())
    model.set_attn_implementation("eager")
    initialise(model, 0)
    return model.train()


def of_trunk(place):
    torch.manual_seed(0)
    backbone = place(make_model().detector_model.vision_encoder.backbone)
    heads = place(trunk.Heads(backbone.config.hidden_size))
    drawn = trunk.draw_scene(10_000_000, 112)
    return backbone, trunk.losses_of(backbone, heads, drawn)


def of_detector(place):
    torch.manual_seed(0)
    model = place(make_model().detector_model)
    helpers = place(detector.Helpers(128))
    images = draw_images(10_000_001, 112, detector.PHRASES)
    return model.detr_decoder, detector.losses_of(model, helpers, make_tokenizer(), images, np.random.default_rng(0))


def of_tracker(place):
    torch.manual_seed(0)
    model = place(make_model())
    helpers = place(tracker.Helpers(128, 64))
    tracker.adopt_neck(model, torch.stack([image.pixels for image in draw_images(10_000_002, 112, 1)]))
    tracks = [draw_track(10_000_500, 112, 4, 2)]
    losses = {}
    for kind in ("mask", "click off"):
        generator = torch.Generator().manual_seed(1)
        outputs = unroll(model, tracks, 4, kind, generator, teach=False, blind=1, again=frozenset({2}))
        losses |= {f"{kind} {name}": value for name, value in tracker.tracking_losses(outputs, helpers).items()}
    return model.tracker_model, losses


@pytest.mark.parametrize("stage", [of_trunk, of_detector, of_tracker])
def test_a_step_of_each_stage_runs_where_the_model_is(stage):
    _, expected = stage(lambda module: module)
    with Machine():
        module, losses = stage(send)
        sum(losses.values()).backward()
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        assert isinstance(value, Far), name
        assert value.near.item() == pytest.approx(expected[name].item(), rel=1e-4), name
    learnt = [p.grad for p in module.parameters() if p.grad is not None]
    assert learnt
    assert all(isinstance(grad, Far) for grad in learnt)


def test_the_stand_in_refuses_tensors_of_two_devices():
    with Machine(), pytest.raises(AssertionError, match="both devices"):
        torch.zeros(3, device=ELSEWHERE) + torch.zeros(3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "tpu"])
def test_a_device_that_is_not_there_is_refused_in_a_sentence(tmp_path, device):
    result = CliRunner().invoke(app, ["train", str(tmp_path / "out"), "--device", device])
    assert result.exit_code == 2
    assert f"--device is '{device}'" in result.output
    assert not (tmp_path / "out").exists()
