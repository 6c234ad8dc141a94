"""SAM 3 on video: the only package that knows transformers' internals.

`rules` lists every difference from transformers, and why. Names are imported on first use, because torch and
transformers take seconds to import.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sam3ray.engine.importing import uncollected

# Intel's MKL, which torch uses on CPUs, otherwise rounds by the shape and the alignment of its operands on some
# processors (seen on AMD EPYC): the same clip could give other rows. It reads this before its first product.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

# oneDNN, and torch's layer over it, each keep what they have prepared for the latest 1024 shapes, up to .6 MB each, and
# shapes change with the objects that there are: hundreds of MB in live video. A frame needs some 60 of them.
for _kept in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_kept, "128")

if TYPE_CHECKING:
    from sam3ray.engine.checkpoint import Checkpoint, checkpoint_identity, load_checkpoint
    from sam3ray.engine.engine import Engine
    from sam3ray.engine.session import Session
    from sam3ray.engine.vision import Sight

__all__ = ["Checkpoint", "Engine", "Session", "Sight", "checkpoint_identity", "load_checkpoint"]

_HOMES = {
    "Checkpoint": "checkpoint",
    "Engine": "engine",
    "Session": "session",
    "Sight": "vision",
    "checkpoint_identity": "checkpoint",
    "load_checkpoint": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with uncollected():
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
