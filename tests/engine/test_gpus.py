"""Why there is no GPU to use, in words."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path

import pytest

from sam3ray.engine.device_memory import grow_in_place
from sam3ray.engine.gpus import OLDEST_DRIVER, GpuFacts, gpu_facts, gpu_problem

FACTS = GpuFacts("2.15.0+cu132", "13.2", driver="580.65.06")


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (replace(FACTS, cuda=None, torch="2.15.0+cpu"), "built without CUDA"),
        (replace(FACTS, driver=None), "no NVIDIA driver is loaded; .* needs NVIDIA driver 580.65.06 or newer"),
        (replace(FACTS, driver="570.211.01"), "the NVIDIA driver is 570.211.01; .* needs NVIDIA driver 580.65.06"),
        (replace(FACTS, driver="580.9"), "the NVIDIA driver is 580.9; "),
        (replace(FACTS, cuda="12.8", driver="470.1"), "needs NVIDIA driver 525.60.13 or newer"),
        (replace(FACTS, visible=""), "CUDA_VISIBLE_DEVICES is '', which hides all GPUs"),
        (replace(FACTS, visible="-1"), "CUDA_VISIBLE_DEVICES is '-1', which hides all GPUs"),
        (replace(FACTS, error="ECC error"), "says: ECC error"),
        (replace(FACTS, cuda="ROCm 7.0"), "no GPU is usable"),
        (
            replace(FACTS, usable=True, capability=(7, 0), built_for=[(8, 0), (7, 5), (12, 0)]),
            r"compute capability 7\.0, and torch 2.15.0\+cu132 is built for 7\.5 and above",
        ),
    ],
)
def test_the_sentence_names_the_cause(facts: GpuFacts, says: str) -> None:
    import re

    problem = gpu_problem(facts)
    assert problem is not None
    assert re.search(says, problem)


@pytest.mark.parametrize("capability", [(7, 5), (9, 0), (12, 1), None])
def test_a_usable_gpu_is_no_problem_whatever_the_driver_calls_itself(capability: tuple[int, int] | None) -> None:
    """Forward-compatibility packages make newer torch run on older drivers."""
    usable = replace(FACTS, usable=True, capability=capability, built_for=[(7, 5), (9, 0)], driver="470.1")
    assert gpu_problem(usable) is None


def test_this_machine_is_described() -> None:
    import torch

    assert (gpu_problem(gpu_facts()) is None) == torch.cuda.is_available()


def test_the_documented_driver_is_that_of_the_pinned_torch() -> None:
    """The release of CUDA that torch is built with comes from its own requirements."""
    built_with = {
        line.split("==")[1].split(".")[0] for line in requires("torch") or () if line.startswith("cuda-toolkit")
    }
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text()
    for major in built_with:
        assert OLDEST_DRIVER[int(major)] in page


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_how_gpu_memory_is_allocated_is_the_users_to_say(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "max_split_size_mb:128")
    before = dict(os.environ)
    grow_in_place()
    assert dict(os.environ) == before
    monkeypatch.delenv(name)
    grow_in_place()
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
