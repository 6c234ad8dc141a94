"""Linear layers on a CPU: torch's own numbers, from a quicker library where it has them."""

import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.engine import host_linear
from sam3ray.engine.checkpoint import Checkpoint, load_checkpoint
from sam3ray.engine.engine import Engine
from sam3ray.engine.host_linear import HostLinear, piece_for
from sam3ray.shapes import ClipSpec, clip_phrases, draw_clip
from sam3ray.video import Frame


@pytest.fixture
def tried_anew(monkeypatch):
    monkeypatch.setattr(host_linear, "_known", {})
    piece_for.cache_clear()
    yield
    piece_for.cache_clear()


def pair(inputs: int, outputs: int) -> tuple[nn.Linear, nn.Sequential]:
    torch.manual_seed(inputs)
    plain, quick = nn.Linear(inputs, outputs), nn.Sequential(nn.Linear(inputs, outputs))
    quick[0].load_state_dict(plain.state_dict())
    host_linear.use(quick)
    return plain, quick


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 128), (128, 1), (200, 32), (256, 128), (500, 64)])
@pytest.mark.parametrize("shape", [(1,), (70,), (3, 1, 196), (2, 1500)])
@torch.inference_mode()
def test_the_numbers_are_torchs_own(inputs, outputs, shape):
    plain, quick = pair(inputs, outputs)
    rows = torch.randn(*shape, inputs)
    assert torch.equal(quick(rows), plain(rows))
    if len(shape) > 1:
        turned = torch.randn(*shape[:-1], inputs, shape[-1]).transpose(-1, -2)
        assert torch.equal(quick(turned), plain(turned))


@torch.inference_mode()
def test_a_machine_whose_libraries_differ_keeps_torchs_numbers(monkeypatch, tried_anew):
    def other(input, weight, bias, piece):
        return nn.functional.linear(input, weight, bias) * (1 + 1e-7)

    monkeypatch.setattr(host_linear, "by_onednn", other)
    plain, quick = pair(64, 128)
    rows = torch.randn(200, 64)
    assert torch.equal(quick(rows), plain(rows))
    assert piece_for(128, 64, torch.get_num_threads()) == 0


@torch.inference_mode()
def test_other_dtypes_and_weights_put_there_later_are_respected():
    plain, quick = pair(64, 128)
    rows = torch.randn(100, 64)
    quick(rows)
    for each in (plain, quick[0]):
        each.weight.copy_(torch.ones_like(each.weight))
    assert torch.equal(quick(rows), plain(rows))
    assert torch.equal(quick.double()(rows.double()), plain.double()(rows.double()))


def test_a_clips_rows_are_the_same_with_and_without():
    spec = ClipSpec(seed=1, width=160, height=120, frames=3, look="plain")
    frames = [Frame(each.index, each.index, each.index / spec.fps, each.image) for each in draw_clip(spec)]
    quick, plain = (load_checkpoint(ModelConfig(checkpoint="embedded", device="cpu")) for _ in range(2))
    changed = [module for module in plain.model.modules() if isinstance(module, HostLinear)]
    assert changed
    for module in changed:
        module.__class__ = nn.Linear

    def rows(checkpoint: Checkpoint) -> list:
        engine = Engine(checkpoint, TrackingConfig())
        return list(engine.annotate(frames, spec.height, spec.width, clip_phrases(spec)))

    assert sum(len(frame.objects) for frame in rows(plain)) > 0
    assert rows(quick) == rows(plain)


@torch.inference_mode()
def test_few_numbers_of_rows_have_code_of_their_own_and_all_have_torchs_numbers(monkeypatch, tried_anew):
    plain, quick = pair(64, 128)
    compiled = set()

    def counted(input, *rest):
        compiled.add(input.numel() // 64)
        return by_onednn(input, *rest)

    by_onednn = host_linear.by_onednn
    if not piece_for(128, 64, torch.get_num_threads()):
        pytest.skip("oneDNN's numbers are not torch's on this processor")
    monkeypatch.setattr(host_linear, "by_onednn", counted)
    for rows in (*range(64, 4200, 37), *range(64, 4200, 37)):
        numbers = torch.randn(rows, 64)
        assert torch.equal(quick(numbers), plain(numbers)), rows
    assert compiled == {64, 101, 138, 175, 256, 512, 1024}


_HEAP = """
import ctypes
import sam3ray.engine
import torch
from torch import nn
from sam3ray.engine import host_linear
from sam3ray.engine.host_linear import by_onednn

class Heap(ctypes.Structure):
    _fields_ = [(n, ctypes.c_size_t) for n in "arena ordblks smblks hblks hblkhd usm fsm used free keep".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Heap
weight, bias = torch.ones(64, 64), torch.ones(64)
layer = nn.Sequential(nn.Linear(64, 64).requires_grad_(False))
host_linear.use(layer)
sizes = []
with torch.inference_mode():
    for turn in range(480):
        CALL(torch.ones(520 + turn, 64))
        if turn in (AFTER, 479):
            heap = libc.mallinfo2()
            sizes.append(heap.used + heap.hblkhd)
print((sizes[1] - sizes[0]) / 2**20)
"""


@pytest.mark.parametrize(
    ("call", "after", "most_mb"),
    [("(lambda x: by_onednn(x, weight, bias, 64))", 199, 8), ("layer", 20, 0.5)],
    ids=["all of their own", "as a layer computes them"],
)
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="counts what glibc has given out")
def test_little_is_kept_of_hundreds_of_shapes(call, after, most_mb):
    """In a process of its own: oneDNN asks once how much it may keep."""
    environment = {k: v for k, v in os.environ.items() if "CACHE_CAPACITY" not in k}
    command = [sys.executable, "-c", _HEAP.replace("CALL", call).replace("AFTER", str(after))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert float(done.stdout) < most_mb
