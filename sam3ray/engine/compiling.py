"""`torch.compile`, layer by layer.

A vision transformer's layers all look alike, so what one of them is compiled to serves the others; the backbone as a
whole would be compiled 32 layers long. Every shape is compiled by itself and without choices that
are timed on the machine, so that a worker's numbers do not depend on what it has seen before. Layers whose shapes
depend on the number of objects stay as they are, since each size would be compiled. A function of theirs that is
compiled once for all sizes asks for it with `compiled`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import _dynamo
from transformers import Sam3VideoModel

from sam3ray.failures import JobStopped
from sam3ray.faults.causes import first_line

_models: WeakSet[Sam3VideoModel] = WeakSet()
_MOST_SHAPES = 64  # of one kind of layer, before torch gives up on it: frames x phrases of a batch


def compile_layers(model: Sam3VideoModel, device: torch.device, backend: str = "inductor") -> None:
    """Compiles the layers that see a whole frame: those of the backbone, and of the detector's encoder, decoder and
    pixel decoder. They are compiled when they are first called.

    Raises:
        JobStopped: nothing can be compiled on this machine.
    """
    _check(device, backend)
    _dynamo.config.recompile_limit = max(_dynamo.config.recompile_limit, _MOST_SHAPES)
    detector = model.detector_model
    layers = (
        *detector.vision_encoder.backbone.layers,
        *detector.detr_encoder.layers,
        *detector.detr_decoder.layers,
        detector.mask_decoder.pixel_decoder,
    )
    for layer in layers:
        layer.forward = _compiled(layer.forward, backend, dynamic=False)
    _models.add(model)


def compiled(model: Sam3VideoModel, function: Callable[..., Any]) -> Callable[..., Any]:
    """A pure function of tensors, one for all their sizes if the model's layers are compiled; otherwise as it is."""
    return _compiled(function, "inductor", dynamic=True) if model in _models else function


def _compiled(function: Callable[..., Any], backend: str, *, dynamic: bool) -> Callable[..., Any]:
    options: dict[str, Any] = {"deterministic": True} if backend == "inductor" else {}
    return torch.compile(function, dynamic=dynamic, backend=backend, options=options or None)


def _check(device: torch.device, backend: str) -> None:
    """Compiles a sum: a machine without a C compiler, or a GPU without Triton, says so here and not at each clip."""
    try:
        torch.compile(torch.add, backend=backend)(torch.ones(8, device=device), 1)
    except (RuntimeError, OSError) as error:
        raise JobStopped(
            f"model.compile is true, but torch.compile does not work on this machine: {first_line(error, 300)}; "
            f"install a C++ compiler (and Triton for a GPU), or omit model.compile"
        ) from error
