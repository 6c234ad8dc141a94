"""Explains why torch cannot use a GPU in this process, in one sentence that says what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# The oldest Linux driver that runs programs built with each major release of CUDA ("minor version compatibility" in
# NVIDIA's CUDA documentation). constraints.txt pins a torch built with CUDA 13.2.
OLDEST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}

_DRIVER_FILES = ("/proc/driver/nvidia/version", "/sys/module/nvidia/version")


@dataclass(frozen=True)
class GpuFacts:
    """What this process knows about GPUs.

    Attributes:
        torch: torch's version.
        cuda: the CUDA release that torch was built with, such as "13.2"; None if it cannot use NVIDIA GPUs.
        driver: version of the NVIDIA driver, such as "580.65.06"; None if none is loaded.
        visible: CUDA_VISIBLE_DEVICES; None if not set.
        usable: whether torch can use a GPU.
        capability: compute capability of the first usable GPU.
        built_for: compute capabilities for which torch has code.
        error: torch's message if it cannot use a GPU.
    """

    torch: str
    cuda: str | None
    driver: str | None = None
    visible: str | None = None
    usable: bool = False
    capability: tuple[int, int] | None = None
    built_for: Sequence[tuple[int, int]] = ()
    error: str = ""


def gpu_facts() -> GpuFacts:
    """Asks torch, the driver's files and the environment. Creates a CUDA context if there is a GPU."""
    import torch

    usable = torch.cuda.is_available()
    error = ""
    if not usable:
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as raised:  # the latter: a torch without CUDA
            error = " ".join(str(raised).split())
    return GpuFacts(
        torch=torch.__version__,
        cuda=torch.version.cuda or (f"ROCm {torch.version.hip}" if torch.version.hip else None),
        driver=_driver_version(),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        usable=usable,
        capability=torch.cuda.get_device_capability() if usable and torch.version.cuda else None,
        built_for=[
            (int(match[1]), int(match[2]))
            for name in (torch.cuda.get_arch_list() if usable and torch.version.cuda else [])
            if (match := re.fullmatch(r"(?:sm|compute)_(\d+)(\d)[a-z]?", name))
        ],
        error=error,
    )


def gpu_problem(facts: GpuFacts) -> str | None:
    """Why torch cannot use a GPU here, and what to do; None if it can."""
    if facts.usable:
        if facts.capability is None or not facts.built_for or facts.capability >= min(facts.built_for):
            return None
        return (
            f"the GPU has compute capability {_dotted(facts.capability)}, and torch {facts.torch} is built for "
            f"{_dotted(min(facts.built_for))} and above: use a newer GPU, or a torch that supports this one"
        )
    if facts.cuda is None:
        return f"torch {facts.torch} was built without CUDA: install a build with CUDA"
    if facts.visible is not None and facts.visible.split(",")[0].strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES is {facts.visible!r}, which hides all GPUs from this process"
    major = facts.cuda.split(".")[0]
    oldest = OLDEST_DRIVER.get(int(major)) if major.isdigit() else None
    needs = (
        f"torch {facts.torch}, built with CUDA {facts.cuda}, needs NVIDIA driver {oldest} or newer" if oldest else ""
    )
    if facts.driver is None and oldest:
        return f"no NVIDIA driver is loaded; {needs}"
    if facts.driver is not None and oldest and _numbers(facts.driver) < _numbers(oldest):
        return f"the NVIDIA driver is {facts.driver}; {needs}"
    return f"torch {facts.torch} says: {facts.error[:300] or 'no GPU is usable'}"


def _driver_version() -> str | None:
    for name in _DRIVER_FILES:
        try:
            text = Path(name).read_text(errors="replace")
        except OSError:
            continue
        if match := re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text):
            return match[0]
    return None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
