"""What an exception in a worker means, as one of our reasons; and memory given back after one."""

from __future__ import annotations

import gc
import sys
from typing import Any

from sam3ray.failures import ClipError, Reason


def classify(error: BaseException) -> tuple[Reason, str, str]:
    """(reason, message, where) of what an attempt raised."""
    if isinstance(error, ClipError):
        return error.reason, error.message, error.where
    text = " ".join(f"{type(error).__name__}: {error}".split())[:1000]
    if isinstance(error, MemoryError) or _is_torch_oom(error):
        return Reason.OUT_OF_MEMORY, text, ""
    if _is_poisoned_gpu(error):
        return Reason.CRASHED, f"the GPU context is lost: {text}", ""
    return Reason.INTERNAL, text, ""


def _is_torch_oom(error: BaseException) -> bool:
    # By name and text: torch is not imported where no torch error can come from.
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OutOfMemoryError" in names:
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator: can't allocate memory" in text
        or "CUDA out of memory" in text
        or "CUBLAS_STATUS_ALLOC_FAILED" in text
    )


def _is_poisoned_gpu(error: BaseException) -> bool:
    """After such an error every later call on this process's GPU fails, too: the process must go."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "AcceleratorError" in names or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def free_memory() -> None:
    """Gives back what this process holds but does not use, on the host and on its GPU."""
    gc.collect()
    torch = _torch()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def reset_gpu_peak() -> None:
    torch = _torch()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def gpu_peak_bytes() -> int:
    torch = _torch()
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return 0


def _torch() -> Any:
    """torch, if something has imported it already."""
    return sys.modules.get("torch")
