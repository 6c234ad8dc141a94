"""`model.compile`: the same rows from compiled layers, one compilation for layers that look alike."""

import pytest
import torch
from torch._dynamo.utils import counters

from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.engine.checkpoint import Checkpoint, load_checkpoint
from sam3ray.engine.compiling import compile_layers
from sam3ray.engine.engine import Engine
from sam3ray.failures import JobStopped
from sam3ray.shapes import ClipSpec, clip_phrases, draw_clip
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.video import Frame

CPU = torch.device("cpu")


def embedded() -> Checkpoint:
    return load_checkpoint(ModelConfig(checkpoint="embedded", device="cpu"))


def found(checkpoint: Checkpoint, spec: ClipSpec) -> list[FrameAnnotations]:
    frames = [Frame(each.index, each.index, each.index / spec.fps, each.image) for each in draw_clip(spec)]
    engine = Engine(checkpoint, TrackingConfig())
    return list(engine.annotate(frames, spec.height, spec.width, clip_phrases(spec)))


def test_compiled_layers_give_the_same_rows_and_share_what_they_are_compiled_to():
    spec = ClipSpec(seed=1, width=160, height=120, frames=3, look="plain")
    plain, compiled = embedded(), embedded()
    counters.clear()
    compile_layers(compiled.model, CPU, backend="eager")
    rows = found(compiled, spec)
    assert sum(len(frame.objects) for frame in rows) > 0
    assert rows == found(plain, spec)
    layers = sum("forward" in vars(module) for module in compiled.model.modules())
    assert 4 <= counters["stats"]["unique_graphs"] < layers
    assert not counters["graph_break"]


def test_a_machine_that_cannot_compile_says_so_when_the_model_is_loaded(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no working C++ compiler found\nand much more")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    with pytest.raises(JobStopped, match=r"model.compile is true, but .*: no working C\+\+ compiler found; install"):
        load_checkpoint(ModelConfig(checkpoint="embedded", device="cpu", compile=True))
