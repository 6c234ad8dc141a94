"""Runs `torch.compile` layer by layer.

A vision transformer's layers are alike, so the code compiled for one serves all; compiling the whole backbone would
take 32 times as long. Every shape is compiled separately, and without choices timed on the machine, so that a worker's
numbers do not depend on earlier clips. Layers whose shapes depend on the number of objects are not compiled, since
every number would need its own code. Single functions of theirs that suit all sizes use `compiled`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import torch
from torch import _dynamo
from torch.fx.experimental import _config
from transformers import Sam3VideoModel

from sam3ray.failures import JobStopped
from sam3ray.faults.causes import first_line

_models: WeakSet[Sam3VideoModel] = WeakSet()
_shapes: Any = _config  # torch adds `patch` to the module when it is imported
_MOST_SHAPES = 64  # of one kind of layer, before torch gives up on it: frames x phrases of a batch


def compile_layers(model: Sam3VideoModel, device: torch.device, backend: str = "inductor") -> None:
    """Compiles, on their first call, the layers that see a whole frame: those of the backbone and of the detector's
    encoder, decoder and pixel decoder.

    Raises:
        JobStopped: this machine cannot compile.
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


def compiled(
    model: Sam3VideoModel, function: Callable[..., Any], backend: str = "inductor"
) -> Callable[..., Any] | None:
    """A pure function of tensors, compiled once for all sizes and once for those of length 1, if the model's layers
    are compiled.
    """
    if model not in _models:
        return None
    run = _compiled(function, backend, dynamic=True)

    def called(*given: Any) -> Any:
        # Two sizes that happen to be equal are no reason to compile for sizes that are.
        with _shapes.patch(use_duck_shape=False):
            return run(*given)

    return called


def _compiled(function: Callable[..., Any], backend: str, *, dynamic: bool) -> Callable[..., Any]:
    options: dict[str, Any] = {"deterministic": True} if backend == "inductor" else {}
    return torch.compile(function, dynamic=dynamic, backend=backend, options=options or None)


def _check(device: torch.device, backend: str) -> None:
    """Compiles a sum, so that a machine without a C compiler, or a GPU without Triton, fails here and not at each
    clip.
    """
    try:
        torch.compile(torch.add, backend=backend)(torch.ones(8, device=device), 1)
    except (RuntimeError, OSError) as error:
        raise JobStopped(
            f"model.compile is true, but torch.compile does not work on this machine: {first_line(error, 300)}; "
            f"install a C++ compiler (and Triton for a GPU), or omit model.compile"
        ) from error
