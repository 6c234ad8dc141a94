"""What the driver and every worker must agree on, so that every file of a run matches the run's description.

The driver resolves `auto`, `main` and similar values once and sends the result. A worker compares it with its own
versions, device and checkpoint before its first clip. If they differ, only the actor's start fails: no clip is at
fault, and another node may match.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sam3ray.config import JobConfig, ModelConfig, resolved_dtype
from sam3ray.engine.gpus import gpu_facts, gpu_problem
from sam3ray.failures import WorkerUnfit
from sam3ray.job.versions import software_versions
from sam3ray.planning import Start
from sam3ray.store import RunStore
from sam3ray.values.prompts import MaskPrompt
from sam3ray.values.versions import ENGINE_VERSION

_LOG = logging.getLogger(__name__)

# The driver and the workers must have equal versions of these: rows depend on them.
_DECISIVE = ("sam3ray", "transformers", "torch")


@dataclass(frozen=True)
class Agreement:
    """The driver's decisions.

    Attributes:
        software: version of each package.
        engine_version: version of the engine's own rules.
        dtype: bfloat16, float32 or autocast, never auto.
        device: "cuda" or "cpu": only the kind; a run may use several GPU models.
        checkpoint: as `checkpoint_identity`; empty where the model is not one of ours.
    """

    software: Mapping[str, str]
    engine_version: int
    dtype: str
    device: str
    checkpoint: Mapping[str, str]


def agreement(config: JobConfig, checkpoint: Mapping[str, str]) -> Agreement:
    """The decisions of this driver."""
    device = "cuda" if config.cluster.gpus_per_actor > 0 else "cpu"
    return Agreement(software_versions(), ENGINE_VERSION, resolved_dtype(config), device, dict(checkpoint))


def resolved_model(config: ModelConfig, agreed: Agreement) -> ModelConfig:
    """The fully resolved model configuration that a worker loads."""
    update: dict[str, Any] = {"dtype": agreed.dtype}
    if config.device == "auto":
        update["device"] = agreed.device
    if "commit" in agreed.checkpoint:
        update["revision"] = agreed.checkpoint["commit"]
    return config.model_copy(update=update)


def open_run(
    store: RunStore, config: JobConfig, start: Start, agreed: Agreement, facts: Mapping[str, Any] | None = None
) -> None:
    """Starts the run, or resumes the existing one. The caller must hold the lease.

    Args:
        facts: additional entries for `run.json`.

    Raises:
        UserError: another driver has meanwhile started a different run here.
    """
    store.discard_unstarted(start.fingerprint, start.clips)
    extra: dict[str, Any] = {
        "versions": agreed.software,
        "checkpoint": agreed.checkpoint,
        "device": agreed.device,
        **(facts or {}),
    }
    digests = [each.sha256 for clip in start.clips for each in clip.visual_prompts if isinstance(each, MaskPrompt)]
    if any(digests):
        extra["masks"] = {"files": len(digests), "sha256": hashlib.sha256("\n".join(digests).encode()).hexdigest()}
    store.create_or_open(start.fingerprint, config.model_dump(mode="json"), start.clips, extra=extra)
    changes = noted_changes((start.begun or {}).get("versions") or {}, agreed.software)
    if changes:
        _LOG.warning("this run was started with other versions: %s", "; ".join(changes))


def check_software(agreed: Agreement, versions: Mapping[str, str], engine_version: int) -> None:
    """Raise WorkerUnfit unless these are the driver's versions. A build's name (`2.15.0+cu132`) does not matter."""
    problems = [
        f"{name} {theirs or 'none'} is installed here, and {ours or 'none'} where the job was started"
        for name in _DECISIVE
        if (ours := public(agreed.software.get(name))) != (theirs := public(versions.get(name)))
    ]
    if engine_version != agreed.engine_version:
        problems.append(f"the engine here is version {engine_version}, the driver's is {agreed.engine_version}")
    if problems:
        raise WorkerUnfit(f"{'; '.join(problems)}: install the same versions on every node")


def check_device(agreed: Agreement) -> None:
    """Raise WorkerUnfit if the actor was given a GPU that torch cannot use. Imports torch."""
    if agreed.device != "cuda":
        return
    if problem := gpu_problem(gpu_facts()):
        raise WorkerUnfit(
            f"cluster.gpus_per_actor is above 0, but this worker has no usable GPU: {problem} "
            "(cluster.gpus_per_actor=0 runs on CPUs)"
        )


def check_model(agreed: Agreement, info: Mapping[str, Any], digest: str | None) -> None:
    """Raise WorkerUnfit unless the model that was loaded is the run's.

    Args:
        info: the loaded model's description.
        digest: SHA-256 of the checkpoint's folder; None: the checkpoint came from the hub.
    """
    pairs: list[tuple[str, Any, str | None]] = [
        ("dtype", info.get("dtype"), agreed.dtype),
        ("device", info.get("device_kind"), agreed.device),
    ]
    if digest is not None:
        pairs.append(("SHA-256 of the checkpoint", digest, agreed.checkpoint.get("sha256")))
    else:
        pairs.append(("commit of the checkpoint", info.get("commit"), agreed.checkpoint.get("commit")))
    problems = [
        f"the {name} is {here or 'unknown'} here, and {wanted} for the run"
        for name, here, wanted in pairs
        if wanted and here != wanted
    ]
    if problems:
        raise WorkerUnfit(f"{'; '.join(problems)}: its annotations could differ from the run's")


def noted_changes(begun: Mapping[str, Any], now: Mapping[str, str]) -> list[str]:
    """Differences between the libraries of a resumed run and those that it started with: logged, not refused."""
    return [
        f"{name} {public(str(begun[name]))} then, {public(now.get(name)) or 'none'} now"
        for name in (*_DECISIVE, "av")
        if name in begun and public(str(begun[name])) != public(now.get(name))
    ]


def public(version: str | None) -> str:
    """The version without its local part, which names a build: 2.15.0 for 2.15.0+cu132."""
    return (version or "").partition("+")[0]
