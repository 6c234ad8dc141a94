"""Positions and frequencies in float32, whatever the dtype of the weights.

transformers 5.23 makes some of them in the dtype that a checkpoint is loaded with: under bfloat16 the rotary
positions of the vision backbone are off by up to 12.5% of a grid step in the layers that see the whole image at 1008
pixels (5.24 makes them in float32), and a click by up to a pixel. They cost nothing in float32, as in Meta's code.

Looked at, of all modules of `Sam3VideoModel`:

* rotary frequencies and positions of the backbone's layers and of the memory attention: recomputed here;
* the Gaussian matrix behind the positions of clicks and of the tracker's image: a weight, taken as it was loaded and
  kept in float32, so that coordinates are not rounded before they meet it;
* sine positions, which are functions of a size and no buffers: `vision.sine_positions`, `detr`, `memory_attention`;
* integer buffers and learned embeddings of positions: nothing to do.
"""

from __future__ import annotations

from typing import Any

import torch

FREQUENCIES = ("inv_freq", "original_inv_freq")


def restore(model: torch.nn.Module) -> None:
    """Puts every position and frequency buffer of a SAM 3 model right, in place."""
    for module in model.modules():
        buffers = dict(module.named_buffers(recurse=False))
        for name, value in buffers.items():
            if not value.is_floating_point() or value.dtype == torch.float32:
                continue
            exact = _exact(module, name)
            fresh = value.float() if exact is None else exact.to(value.device, torch.float32)
            module.register_buffer(name, fresh, persistent=name not in module._non_persistent_buffers_set)


def _exact(module: Any, name: str) -> torch.Tensor | None:
    """The buffer as its module makes it; None where it is a weight."""
    if name in FREQUENCIES:
        frequencies: torch.Tensor = module.compute_axial_rope_parameters(module.config)[0]
        return frequencies
    if name == "position_ids":
        window = (module.window_size,) if hasattr(module, "window_size") else ()
        positions: torch.Tensor = module.precompute_positions(module.config, *window)
        return positions
    return None
