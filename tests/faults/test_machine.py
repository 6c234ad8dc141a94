"""Errors as libraries word them, and whose fault they are."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from sam3ray.failures import ClipError, Reason
from sam3ray.faults.machine import machine_fault
from sam3ray.job.mishaps import classify

DEVICE = [
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: device-side assert triggered",
    "CUDA error: unspecified launch failure",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: no kernel image is available for execution on the device",
    "CUDA error: misaligned address",
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    "GET was unable to find an engine to execute this computation: CUDNN_STATUS_NOT_SUPPORTED",
    "cuFFT error: CUFFT_INTERNAL_ERROR",
    "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`",
    "nvrtc: error: failed to open libnvrtc-builtins.so.13.0: NVRTC_ERROR_BUILTIN_OPERATION_FAILURE",
    "NCCL error in: ProcessGroupNCCL.cpp:1970, unhandled cuda error",
    "No CUDA GPUs are available",
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
    "The NVIDIA driver on your system is too old (found version 11040)",
    "CUDA driver version is insufficient for CUDA runtime version",
    "CUDA driver initialization failed, you might not have a CUDA gpu.",
    "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
    "CUDA unknown error - this may be due to an incorrectly set up environment",
    "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    "CUDA error: MPS client failed to connect to the MPS control daemon or the MPS server",
    "NVML: Driver/library version mismatch",
    "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost. Reboot the system to recover this GPU",
    "Triton Error [CUDA]: an illegal instruction was encountered",
    "Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False.",
    "HIP error: the operation cannot be performed in the present state",
    "miopenStatusUnknownError",
]
MEMORY = [
    "CUDA out of memory. Tried to allocate 2.00 GiB.",
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "Triton Error [CUDA]: out of memory",
    "HIP out of memory. Tried to allocate 20.00 MiB",
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8",
]
DEFECTS = [
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    ValueError("a phrase that says CUDA error"),
    KeyError("device"),
    OSError(errno.EIO, "An error occurred (SlowDownPlease) when calling the PutObject operation"),  # s3fs's EIO
    OSError(errno.EINVAL, os.strerror(errno.EINVAL)),
]
DISK = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x"),
    OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    OSError(errno.EROFS, os.strerror(errno.EROFS)),
    OSError(errno.EIO, os.strerror(errno.EIO), "/tmp/x"),
    OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"),  # pyarrow
    pa.ArrowInvalid("IOError: [errno 30] Read-only file system"),
]
SHORT = [
    OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/x"),
    OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS)),
    BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
    RuntimeError("can't start new thread"),
]


@pytest.mark.parametrize("text", DEVICE)
def test_a_device_fails(text: str) -> None:
    assert classify(RuntimeError(text))[0] is Reason.DEVICE
    fault = machine_fault(RuntimeError(text))
    assert fault is not None
    assert not fault.passing


@pytest.mark.parametrize("text", MEMORY)
def test_memory_is_the_clips_to_save(text: str) -> None:
    assert classify(RuntimeError(text))[0] is Reason.OUT_OF_MEMORY


@pytest.mark.parametrize("error", DEFECTS, ids=str)
def test_what_is_no_fault_of_the_machine(error: Exception) -> None:
    assert classify(error)[0] is Reason.INTERNAL


@pytest.mark.parametrize("error", DISK, ids=str)
def test_a_disk_fails(error: Exception) -> None:
    assert classify(error)[0] is Reason.LOCAL_DISK
    outer = ValueError("the writer failed")
    outer.__cause__ = error
    assert classify(outer)[0] is Reason.LOCAL_DISK


@pytest.mark.parametrize("error", SHORT, ids=str)
def test_a_shortage_passes(error: Exception) -> None:
    fault = machine_fault(error)
    assert fault is not None
    assert fault.passing
    assert not fault.reason.is_charged


def test_memory_that_a_neighbour_holds_is_no_fault_of_the_clip() -> None:
    text = (
        "CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 79.18 GiB of which 20.00 MiB "
        "is free. Process 77 has {} memory in use. Including non-PyTorch memory, this process has {} memory in use."
    )
    assert classify(RuntimeError(text.format("70.10 GiB", "9.00 GiB")))[0] is Reason.DEVICE
    assert classify(RuntimeError(text.format("1.00 GiB", "78.00 GiB")))[0] is Reason.OUT_OF_MEMORY
    # Two actors share the GPU: each may have half.
    assert classify(RuntimeError(text.format("39.00 GiB", "40.00 GiB")), gpu_share=0.5)[0] is Reason.OUT_OF_MEMORY


def test_what_was_classified_stays_so() -> None:
    error = ClipError(Reason.UNREADABLE_VIDEO, "No space left on device")
    assert classify(error)[0] is Reason.UNREADABLE_VIDEO


def test_what_the_system_raises_when_it_is_out_of_something(tmp_path: Path) -> None:
    """Real limits in a process of its own: file size, open files, processes."""
    code = """
import errno, os, resource, threading, sys
import pyarrow as pa, pyarrow.parquet as pq
from sam3ray.faults.machine import machine_fault
def fault(call):
    try:
        call()
    except Exception as error:
        found = machine_fault(error)
        return (found.reason.value, found.passing) if found else repr(error)
    return "nothing was raised"
def files():
    kept = []
    while True:
        kept.append(open(os.devnull))
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
print(fault(files))
print(fault(lambda: open("/dev/full", "wb", buffering=0).write(b"x")))
full = open("/dev/full", "wb", buffering=0)  # by its name, pyarrow would remove it after the failure
print(fault(lambda: pq.write_table(pa.table({"a": range(100000)}), full)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines() == ["('device', True)", "('local_disk', False)", "('local_disk', False)"], (
        done.stderr
    )
