"""Recognises errors that are the machine's fault: of its GPU, its disk, or a temporary shortage.

Libraries describe the same fault in many ways, so messages count as well as classes. Does not import torch.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from dataclasses import dataclass

from sam3ray.failures import Reason
from sam3ray.faults.causes import causes

# A disk that is full or not writable. EIO also comes from disks, but stores use it for anything: see
# `_is_eio`.
_DISK = {
    errno.ENOSPC: "is full",
    errno.EDQUOT: "has no quota left",
    errno.EROFS: "is read-only",
}
_DISK_TEXTS = {
    # fsspec, pyarrow ("[errno 28] ..."), PyAV, sqlite and safetensors pass on the system's message.
    "no space left on device": "is full",
    "enospc": "is full",
    "disk quota exceeded": "has no quota left",
    "read-only file system": "is read-only",
    "database or disk is full": "is full",
    "no usable temporary directory": "has no temporary folder that can be written",
}
# Resources that all processes of a node share, and that may be available again in a minute.
_SHORT = {
    errno.EMFILE: "open files",
    errno.ENFILE: "open files",
    errno.ENOBUFS: "network buffers",
    errno.EADDRNOTAVAIL: "network ports",
}
_SHORT_TEXTS = {
    "can't start new thread": "threads",
    "unable to start new thread": "threads",
    "unable to create thread": "threads",
    "too many open files": "open files",
    "no buffer space available": "network buffers",
    "cannot assign requested address": "network ports",
}
_MEMORY = re.compile(
    r"out of memory|MemoryAllocation|_ALLOC_FAILED|ALLOCATION_FAILED|ERROR_OUT_OF_MEMORY|can't allocate memory", re.I
)
_DEVICE = re.compile(
    r"""
      \bCUDA\ error | \bCUDA\ driver | (?-i:\bcuda[A-Z]\w+) | \bCUDA_ERROR_ | CUDA\ kernel\ errors
    | \bCUDA-capable\ device | \bCUDA\ initialization | No\ CUDA\ GPUs | CUDA\ unknown\ error | cuda\ runtime\ error
    | \bCUDART\b | \bcuDNN | CUDNN_ | \bcuBLAS | CUBLAS_ | \bcuSOLVER | CUSOLVER_ | \bcuSPARSE | CUSPARSE_
    | \bcuFFT | CUFFT_ | \bcuRAND | CURAND_ | \bNVRTC | NVRTC_ERROR | \bNCCL
    | \bnccl[A-Z] | \bNVML | nvmlInit | NVIDIA\ driver | \bnvidia-smi | Driver/library\ version\ mismatch
    | libcuda\.so | libcudart | libcudnn | libcublas | libnvidia
    | Triton\ Error\ \[(CUDA|HIP) | \bHIP\ error | \bhipError | \bMIOpen | miopenStatus | rocBLAS | HSA_STATUS
    | device-side\ assert | illegal\ memory\ access | illegal\ instruction | misaligned\ address
    | unspecified\ launch\ failure | launch\ timed\ out | invalid\ device\ (ordinal|function)
    | uncorrectable\ (ECC|NVLink)\ error | \bECC\ error | hardware\ stack\ error | \bXid\b
    | GPU\ is\ lost | fallen\ off\ the\ bus | device\ handle\ for\ GPU | device\(s\)\ is/are\ busy\ or\ unavailable
    | \bMPS\ (client|server|daemon) | all\ CUDA-capable\ devices\ are\ busy | no\ kernel\ image
    | Torch\ not\ compiled\ with\ CUDA | on\ a\ CUDA\ device\ but\ torch\.cuda\.is_available | nvJPEG | nvdec
    """,
    re.X | re.I,
)
# Kinds that torch raises for a device. A ValueError or TypeError with such words is a defect of ours.
_DEVICE_KINDS = (RuntimeError, AssertionError, ImportError, OSError)
_USED = re.compile(r"this process has ([\d.]+) (\w+) memory in use")
_TOTAL = re.compile(r"total capacity of ([\d.]+) (\w+) of which ([\d.]+) (\w+) is free")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass(frozen=True)
class MachineFault:
    """A fault of the machine. `passing` says whether it is worth waiting on the same machine."""

    reason: Reason
    message: str
    passing: bool = False


def machine_fault(error: BaseException, *, gpu_share: float = 1.0) -> MachineFault | None:
    """The machine's fault behind an error or its causes; None if there is none.

    Args:
        gpu_share: this process's share of a GPU's memory. If others hold more than the rest, that is a shortage.
    """
    for cause in causes(error):
        fault = _disk(cause) or _short(cause) or _taken(cause, gpu_share) or _device(cause)
        if fault is not None:
            return fault
    return None


def disk_fault(error: BaseException) -> MachineFault | None:
    """The same for a file of this machine."""
    for cause in causes(error):
        fault = _disk(cause)
        if fault is not None:
            return fault
    return None


def is_passing(error: BaseException) -> bool:
    """Whether the node is short of something, such as open files, that may be available again in a minute."""
    return any(_short(cause) is not None for cause in causes(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host or a GPU is out of memory."""
    for cause in causes(error):
        if isinstance(cause, MemoryError) or "OutOfMemoryError" in {kind.__name__ for kind in type(cause).__mro__}:
            return True
        if isinstance(cause, RuntimeError) and _MEMORY.search(str(cause)):
            return True
    return False


def free_bytes(folder: str | os.PathLike[str]) -> int | None:
    """Free bytes on the disk of a folder; None if unknown."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free
    return None


def _disk(error: BaseException) -> MachineFault | None:
    if not isinstance(error, OSError):
        what = (
            _found(_DISK_TEXTS, str(error)) if isinstance(error, (RuntimeError, ValueError)) or _foreign(error) else ""
        )
    elif error.errno in _DISK:
        what = _DISK[error.errno]
    elif _is_eio(error):
        what = "fails"
    else:
        # Python's tempfile raises "not found" for a disk that is not writable.
        vague = error.errno is None or isinstance(error, FileNotFoundError)
        what = _found(_DISK_TEXTS, str(error)) if vague else ""
    if not what:
        return None
    name = getattr(error, "filename", None)
    where = f" of {os.fsdecode(name)}" if isinstance(name, (str, bytes)) and name else ""
    return MachineFault(Reason.LOCAL_DISK, f"the disk{where} {what}: {_one_line(error)}")


def _is_eio(error: OSError) -> bool:
    # s3fs raises EIO with its own message for unknown errors; PyAV raises it for damaged videos.
    return (
        error.errno == errno.EIO
        and error.strerror == os.strerror(errno.EIO)
        and not type(error).__module__.startswith("av")
    )


def _short(error: BaseException) -> MachineFault | None:
    number = error.errno if isinstance(error, OSError) else None
    what = _SHORT.get(number or 0, "")
    if number == errno.EAGAIN and isinstance(error, BlockingIOError) and not error.filename:
        what = "processes"  # fork(2)
    if number == errno.ENOMEM:
        what = "memory for another process"
    if not what and isinstance(error, (RuntimeError, OSError)):
        what = _found(_SHORT_TEXTS, str(error))
    if not what:
        return None
    return MachineFault(Reason.DEVICE, f"the node is short of {what}: {_one_line(error)}", passing=True)


def _taken(error: BaseException, share: float) -> MachineFault | None:
    """GPU memory held by other processes, according to torch's message."""
    used, total = _USED.search(str(error)), _TOTAL.search(str(error))
    if used is None or total is None or used[2] not in _UNITS or not {total[2], total[4]} <= _UNITS.keys():
        return None
    ours = float(used[1]) * _UNITS[used[2]]
    capacity, free = float(total[1]) * _UNITS[total[2]], float(total[3]) * _UNITS[total[4]]
    others = capacity - free - ours
    if others < (1.0 - min(share, 1.0)) * capacity + 0.1 * capacity:
        return None
    return MachineFault(
        Reason.DEVICE,
        f"other processes hold {others / 2**30:.1f} of {capacity / 2**30:.1f} GiB of the GPU's memory",
        passing=True,
    )


def _device(error: BaseException) -> MachineFault | None:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    named = bool(kinds & {"AcceleratorError", "CudaError", "CUDARuntimeError", "NVMLError"})
    text = _one_line(error)
    if not named and not (isinstance(error, _DEVICE_KINDS) and _DEVICE.search(text)):
        return None
    if is_out_of_memory(error):
        return None
    return MachineFault(Reason.DEVICE, text)


def _foreign(error: BaseException) -> bool:
    """Errors of libraries that wrap a system error without being one."""
    return type(error).__module__.partition(".")[0] in ("pyarrow", "safetensors", "sqlite3", "av", "huggingface_hub")


def _found(texts: dict[str, str], text: str) -> str:
    lower = text.lower()
    return next((what for words, what in texts.items() if words in lower), "")


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:600]
