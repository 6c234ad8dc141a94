"""How torch keeps the memory of a GPU that tensors have given back."""

from __future__ import annotations

import os

_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the first from torch 2.10 on


def grow_in_place() -> None:
    """Lets torch's segments of GPU memory grow, unless its user has said how it allocates. Before a GPU is first used.

    Otherwise a block that is a little too small for what comes next stays as it is beside a new one: each number of
    objects, and of memories, has tensors of other sizes.
    """
    if not any(os.environ.get(name) for name in _SETTINGS):
        os.environ[_SETTINGS[1]] = "expandable_segments:True"
