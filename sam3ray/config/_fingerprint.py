"""The fingerprint: everything that determines a run's results. Runs with equal fingerprints have equal annotations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sam3ray.config._models import JobConfig, ModelConfig, TrackingConfig, VideoConfig
from sam3ray.values.clip import Clip
from sam3ray.values.clip_ids import unsigned
from sam3ray.values.exemplars import exemplar_items
from sam3ray.values.prompts import VisualPrompt
from sam3ray.values.versions import ENGINE_VERSION, LINKING_VERSION, SCHEMA_VERSION

# Batch sizes are omitted, though they can change the last bits of a sum, as another GPU model can. They are lowered
# when memory runs out, and recorded with each clip. A run may contain clips made with different ones.
_NOT_TRACKING = frozenset({"object_batch", "frame_batch", "prompt_batch", "offload_state"})


def fingerprint(
    config: JobConfig, clips: Iterable[Clip], checkpoint_identity: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Everything that changes results, under flat dotted keys, so that a difference can be named.

    Included: the checkpoint (by content, not by name), the resolved dtype, `compile` (fused kernels round differently),
        tracking, the configuration's prompts, exemplars and sampling, how clips are cut (with `windows.mode:
        parallel`), the versions of the annotations schema and of the engine, and one digest over all clips, which does
        not depend on their order: id, uri, range, rate and prompts of all kinds.

    Not included: limits, cluster, retry, render, storage, batch sizes, and the manifest's other columns.

    Args:
        checkpoint_identity: see `engine.checkpoint_identity`. Only its `sha256` counts, if it has one, else its name
            and commit. Without it, the names in the configuration count.
    """
    digest, count = manifest_digest(clips)
    flat: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "engine_version": ENGINE_VERSION,
        **_model_keys(config, checkpoint_identity or {}),
        "model.dtype": resolved_dtype(config),
        "model.compile": config.model.compile,
        "model.image_size": config.model.image_size,
        "prompts": list(config.prompts),
        "exemplars": [] if config.exemplars is None or isinstance(config.exemplars, str) else list(config.exemplars),
        "video.fps": config.video.fps,
        "video.folder_fps": config.video.folder_fps,
        "manifest.clips": count,
        "manifest.digest": digest,
    }
    if config.windows.mode == "parallel":  # the other modes give the same rows and share a fingerprint
        flat |= {"windows.frames": config.windows.frames, "windows.overlap": config.windows.overlap}
        flat["windows.linking"] = LINKING_VERSION
    for key, value in config.tracking.model_dump(mode="json").items():
        # Without relinking, rows are the same as before relinking existed, and so is the fingerprint.
        if key not in _NOT_TRACKING and (key != "relink" or value):
            flat[f"tracking.{key}"] = value
    return flat


def _model_keys(config: JobConfig, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Identifies the weights, by content if known: the same files under another name are the same model."""
    if not identity:
        return {"model.checkpoint": config.model.checkpoint, "model.revision": config.model.revision}
    if "sha256" in identity:
        return {"checkpoint.sha256": identity["sha256"]}
    return {f"checkpoint.{key}": value for key, value in identity.items()}


def resolved_dtype(config: JobConfig) -> str:
    """The dtype that `auto` means for this job: bfloat16, float32 or autocast. The driver itself may have no GPU."""
    if config.model.dtype != "auto":
        return config.model.dtype
    on_cpu = config.model.device == "cpu" or (config.model.device == "auto" and config.cluster.gpus_per_actor == 0)
    return "float32" if on_cpu else "bfloat16"


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """One sentence for each key in which a job's fingerprint differs from a stored run's."""
    ours, theirs = _flat(ours), _flat(theirs)
    if ours.get("engine_version") == theirs.get("engine_version"):
        theirs = {key: value for key, value in _defaults().items() if key in ours} | theirs
    return [
        f"{key} is {_shown(ours, key)}, the run has {_shown(theirs, key)}"
        for key in sorted({*ours, *theirs})
        if (key in ours, ours.get(key)) != (key in theirs, theirs.get(key))
    ]


def _defaults() -> dict[str, Any]:
    """Defaults of keys that a stored run may lack because they were added later within the same engine version.

    A new key whose default changes rows needs a new engine version.
    """
    defaults = {
        "exemplars": [],
        "model.compile": ModelConfig().compile,
        "model.image_size": ModelConfig().image_size,
        "video.fps": VideoConfig().fps,
        "video.folder_fps": VideoConfig().folder_fps,
    }
    tracking = TrackingConfig().model_dump(mode="json")
    return defaults | {f"tracking.{key}": value for key, value in tracking.items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def manifest_digest(clips: Iterable[Clip]) -> tuple[str, int]:
    """SHA-256 over everything that determines the clips' annotations, in any order; and the number of clips.

    Signing parameters of addresses are ignored, so that a run can continue with newly signed addresses.
    """
    rows: list[str] = []
    for clip in clips:
        prompts = [[type(p).__name__, _prompt(p)] for p in clip.visual_prompts] if clip.visual_prompts else []
        # repr of a float is exact, and JSON quotes every text, so no two clips give the same line.
        uri = unsigned(clip.uri)
        numbers = [_real(clip.start_s), _real(clip.end_s), _real(clip.fps)]
        line: list[Any] = [clip.clip_id, uri, clip.prompts, *numbers, prompts]
        if clip.exemplars:
            line.append(exemplar_items(clip.exemplars))
        rows.append(json.dumps(line))
    rows.sort()
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.encode())
        digest.update(b"\n")
    return digest.hexdigest(), len(rows)


def _prompt(prompt: VisualPrompt) -> dict[str, Any]:
    values = asdict(prompt)
    values.pop("sha256", None)  # compared when the mask file is read; a resumed run does not read it again
    if values.get("png"):
        values["png"] = unsigned(values["png"])
    return values


def _real(value: float | None) -> float | None:
    return None if value is None else float(value)


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "nothing"
    text = json.dumps(values[key], ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
