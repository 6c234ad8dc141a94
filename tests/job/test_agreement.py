"""Driver and worker compare before the first clip; each difference is one sentence with both values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sam3ray.config import JobConfig, ModelConfig
from sam3ray.failures import WorkerUnfit
from sam3ray.job.agreement import (
    Agreement,
    agreement,
    check_model,
    check_software,
    noted_changes,
    resolved_model,
)

SOFTWARE = {"sam3ray": "1.0", "transformers": "5.23.0", "torch": "2.15.0+cu132", "av": "18.1"}
AGREED = Agreement(SOFTWARE, 7, "bfloat16", "cuda", {"sha256": "aaa"})
FROM_HUB = replace(AGREED, checkpoint={"name": "facebook/sam3", "commit": "c1", "sha256": "aaa"})


def job(gpus: float, **model: str) -> JobConfig:
    return JobConfig(manifest="m", output="/o", model=model, cluster={"gpus_per_actor": gpus})


def test_the_same_versions_agree_whatever_the_build() -> None:
    check_software(AGREED, {**AGREED.software, "torch": "2.15.0+cpu", "av": "17.0"}, 7)


@pytest.mark.parametrize(
    ("name", "here", "says"),
    [
        ("torch", "2.14.1", "torch 2.14.1 is installed here, and 2.15.0 where"),
        ("transformers", "5.24.0", "transformers 5.24.0 is installed here, and 5.23.0 where"),
        ("sam3ray", "", "sam3ray none is installed here, and 1.0 where"),
    ],
)
def test_other_versions_are_named_with_both(name: str, here: str, says: str) -> None:
    with pytest.raises(WorkerUnfit, match=says):
        check_software(AGREED, {**AGREED.software, name: here}, 7)


def test_another_engine_is_named_with_both() -> None:
    with pytest.raises(WorkerUnfit, match="the engine here is version 8, the driver's is 7"):
        check_software(AGREED, AGREED.software, 8)


@pytest.mark.parametrize(
    ("agreed", "info", "digest", "says"),
    [
        (AGREED, {"dtype": "float32"}, "aaa", "the dtype is float32 here, and bfloat16 for the run"),
        (AGREED, {"device_kind": "cpu"}, "aaa", "the device is cpu here, and cuda for the run"),
        (AGREED, {}, "bbb", "the SHA-256 of the checkpoint is bbb here, and aaa for the run"),
        (FROM_HUB, {"commit": "c2"}, None, "the commit of the checkpoint is c2 here, and c1 for the run"),
        (FROM_HUB, {"commit": None}, None, "the commit of the checkpoint is unknown here, and c1 for the run"),
    ],
)
def test_another_model_is_named_with_both(agreed: Agreement, info: dict, digest: str | None, says: str) -> None:
    loaded = {"dtype": "bfloat16", "device_kind": "cuda", "commit": "c1"}
    check_model(agreed, loaded, digest and "aaa")
    with pytest.raises(WorkerUnfit, match=says):
        check_model(agreed, {**loaded, **info}, digest)


@pytest.mark.parametrize(
    ("config", "checkpoint", "expected"),
    [
        (job(1), {"name": "facebook/sam3", "commit": "c1"}, ("bfloat16", "cuda", "c1")),
        (job(0.5, dtype="float32", device="cuda:0"), {"sha256": "a"}, ("float32", "cuda:0", "main")),
        # Ray hides no GPU from an actor that asks for none: `auto` would take one, and bfloat16 with it.
        (job(0), {"sha256": "a"}, ("float32", "cpu", "main")),
    ],
)
def test_workers_have_nothing_left_to_decide(
    config: JobConfig, checkpoint: dict[str, str], expected: tuple[str, str, str]
) -> None:
    resolved: ModelConfig = resolved_model(config.model, agreement(config, checkpoint))
    assert (resolved.dtype, resolved.device, resolved.revision) == expected


def test_a_run_that_goes_on_with_other_libraries_says_so() -> None:
    begun = {"torch": "2.14.0+cu130", "transformers": "5.23.0", "av": "18.0"}
    assert noted_changes(begun, AGREED.software) == ["torch 2.14.0 then, 2.15.0 now", "av 18.0 then, 18.1 now"]
    assert noted_changes({}, AGREED.software) == []
