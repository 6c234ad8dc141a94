"""Keeps positions and frequencies in float32, whatever the dtype of the weights.

transformers 5.23 computes some of them in the dtype in which a checkpoint is loaded. Under bfloat16, at 1008 pixels,
this shifts rotary positions of the vision backbone by up to 12.5% of a grid step in the layers that see the whole image
(5.24 computes them in float32), and a click by up to a pixel. float32 costs nothing, and Meta's code uses it.

In the modules of `Sam3VideoModel`:

* Rotary frequencies and positions of the backbone's layers and of the memory attention are recomputed here.
* The Gaussian matrix behind the positions of clicks and of the tracker's image is a weight. It stays in float32 as
  loaded, so that coordinates are not rounded before they are multiplied by it.
* Sine positions are functions of a size, not buffers: see `vision.sine_positions`, `detr`, `memory_attention`.
* Integer buffers and learned embeddings of positions need nothing.
"""

from __future__ import annotations

from typing import Any

import torch

FREQUENCIES = ("inv_freq", "original_inv_freq")


def restore(model: torch.nn.Module) -> None:
    """Corrects every position and frequency buffer of a SAM 3 model, in place."""
    for module in model.modules():
        buffers = dict(module.named_buffers(recurse=False))
        for name, value in buffers.items():
            if not value.is_floating_point() or value.dtype == torch.float32:
                continue
            exact = _exact(module, name)
            fresh = value.float() if exact is None else exact.to(value.device, torch.float32)
            module.register_buffer(name, fresh, persistent=name not in module._non_persistent_buffers_set)


def _exact(module: Any, name: str) -> torch.Tensor | None:
    """The buffer as its module computes it; None if it is a weight."""
    if name in FREQUENCIES:
        frequencies: torch.Tensor = module.compute_axial_rope_parameters(module.config)[0]
        return frequencies
    if name == "position_ids":
        window = (module.window_size,) if hasattr(module, "window_size") else ()
        positions: torch.Tensor = module.precompute_positions(module.config, *window)
        return positions
    return None
