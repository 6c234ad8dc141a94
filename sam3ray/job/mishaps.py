"""Translates an exception in a worker into one of our reasons; frees memory after one."""

from __future__ import annotations

import gc
import sys
from typing import Any

from sam3ray.failures import ClipError, Reason
from sam3ray.faults.machine import is_out_of_memory, machine_fault


def classify(error: BaseException, *, gpu_share: float = 1.0) -> tuple[Reason, str, str]:
    """The exception of an attempt as (reason, message, where). `gpu_share`: see `machine_fault`."""
    if isinstance(error, ClipError):
        return error.reason, error.message, error.where
    fault = machine_fault(error, gpu_share=gpu_share)
    if fault is not None:
        return fault.reason, fault.message, ""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:1000]
    if is_out_of_memory(error):
        return Reason.OUT_OF_MEMORY, text, ""
    return Reason.INTERNAL, text, ""


def free_memory() -> None:
    """Frees memory that this process holds but does not use, on the host and on its GPU. No clip may be running."""
    capture = sys.modules.get("sam3ray.engine.capture")
    if capture is not None:
        capture.release()
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


def device_name() -> str:
    """Name of the model's device: a GPU's name, or `cpu`."""
    torch = _torch()
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "cpu"


def _torch() -> Any:
    """The torch module if it has been imported, else None."""
    return sys.modules.get("torch")
