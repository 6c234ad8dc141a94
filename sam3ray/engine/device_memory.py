"""Sets how torch keeps freed GPU memory."""

from __future__ import annotations

import os

_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the first from torch 2.10 on


def grow_in_place() -> None:
    """Lets torch's segments of GPU memory grow, unless the user has configured its allocator. Call it before a GPU is
    used.

    Tensor sizes change with the number of objects and of memories. Without this, a block that is slightly too small
    stays unused beside a new one.
    """
    if not any(os.environ.get(name) for name in _SETTINGS):
        os.environ[_SETTINGS[1]] = "expandable_segments:True"
