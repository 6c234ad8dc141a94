"""Trains the embedded checkpoint on drawn clips, and makes checkpoints with random weights.

Not needed to use sam3ray: `python -m tools.training --help`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .layout import random_checkpoint

__all__ = ["random_checkpoint"]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import, so they are imported only when needed.
    if name == "random_checkpoint":
        from .layout import random_checkpoint

        return random_checkpoint
    raise AttributeError(name)
