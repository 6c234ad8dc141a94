"""Copies and events between host and device, without waiting for the device.

On CUDA, `torch.tensor(list, device=...)`, `.to(device)` from ordinary memory and `.tolist()` each wait for all queued
work. Here both directions go through pinned memory. On a CPU nothing is copied unnecessarily. Only this module and
`capture` need a real GPU: a test replaces `pinned`, `fetched` and `recorded`, and runs the rest on fake tensors
(`benchmarks/ghost.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pinned(tensor: Tensor) -> Tensor:
    """A copy in pinned memory, from which a GPU can read by itself."""
    return tensor.pin_memory()


def fetched(tensor: Tensor) -> Tensor:
    """A copy in host memory, which a GPU fills by itself once its queue gets there."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def recorded(device: torch.device) -> torch.cuda.Event:
    """An event on the current stream of this device, which need not be the current device."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def mark(device: torch.device) -> torch.cuda.Event | None:
    """An event that passes when all work queued now is done; None on devices without a queue."""
    return recorded(device) if device.type == "cuda" else None


def to_host(tensor: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A copy on the host, complete once the event has passed; the event is None if it is complete now."""
    if tensor.device.type != "cuda":
        return tensor.cpu(), None
    return fetched(tensor), mark(tensor.device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on `device`, ready for work queued later."""
    if device.type != "cuda":
        return tensor.to(device)
    return pinned(tensor).to(device, non_blocking=True)


def indices(values: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Whole numbers as an int64 tensor on `device`, ready for work queued later."""
    return to_device(torch.tensor(values, dtype=torch.int64), device)
