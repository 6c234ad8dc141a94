"""Small tensors between host and device, without waiting for the device.

On CUDA, `torch.tensor(list, device=...)` and `.tolist()` each wait for all work queued so far; both ways go through
pinned memory here. On a CPU nothing is copied that need not be.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_host(tensor: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A copy on the host, complete once the event has passed; None where it is complete now."""
    if tensor.device.type != "cuda":
        return tensor.cpu(), None
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived


def indices(values: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Whole numbers as an int64 tensor on `device`, in order for whatever is queued after."""
    tensor = torch.tensor(values, dtype=torch.int64)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
