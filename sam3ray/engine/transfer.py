"""Between host and device without waiting for the device: copies, events, streams.

On CUDA, `torch.tensor(list, device=...)`, `.to(device)` from ordinary memory and `.tolist()` each wait for all work
queued so far; both ways go through pinned memory here. On a CPU nothing is copied that need not be. Only this module
and `capture` need a card: a test replaces `pinned`, `fetched` and `recorded`, and runs the rest on tensors that are not
there (`benchmarks/ghost.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def pinned(tensor: Tensor) -> Tensor:
    """A copy in memory from which a GPU reads on its own."""
    return tensor.pin_memory()


def fetched(tensor: Tensor) -> Tensor:
    """A copy in host memory, which a GPU fills on its own in the course of its work."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def recorded(device: torch.device) -> torch.cuda.Event:
    """An event on the current stream of this device, which need not be the current device."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def mark(device: torch.device) -> torch.cuda.Event | None:
    """An event that passes when all has been done that is queued now; None where nothing is ever queued."""
    return recorded(device) if device.type == "cuda" else None


def to_host(tensor: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A copy on the host, complete once the event has passed; None where it is complete now."""
    if tensor.device.type != "cuda":
        return tensor.cpu(), None
    return fetched(tensor), mark(tensor.device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on `device`, in order for whatever is queued after."""
    if device.type != "cuda":
        return tensor.to(device)
    return pinned(tensor).to(device, non_blocking=True)


def indices(values: Sequence[int] | Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Whole numbers as an int64 tensor on `device`, in order for whatever is queued after."""
    return to_device(torch.tensor(values, dtype=torch.int64), device)


def side_stream(device: torch.device) -> torch.cuda.Stream | None:
    """A stream beside the one that the model runs on; None where there are no streams."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def on_stream(stream: torch.cuda.Stream | None) -> AbstractContextManager[Any]:
    """Queue on `stream`; on the current one where it is None."""
    return torch.cuda.stream(stream) if stream is not None else nullcontext()
