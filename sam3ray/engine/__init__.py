"""SAM 3 on video: the only package that knows transformers' internals.

`rules` lists what is done otherwise than in transformers, and why. Names are imported when first used: torch and
transformers take seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam3ray.engine.checkpoint import Checkpoint, checkpoint_identity, load_checkpoint
    from sam3ray.engine.text import TextEngine
    from sam3ray.engine.visual import VisualEngine

__all__ = ["Checkpoint", "TextEngine", "VisualEngine", "checkpoint_identity", "load_checkpoint"]

_HOMES = {
    "Checkpoint": "checkpoint",
    "TextEngine": "text",
    "VisualEngine": "visual",
    "checkpoint_identity": "checkpoint",
    "load_checkpoint": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
