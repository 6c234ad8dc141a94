"""SAM 3 over video datasets, on Ray: RLE masks, boxes, scores and ids in Parquet, committed exactly once.

Public names are imported on first use, because torch takes seconds to import, and reading annotations does not need it.
"""

# No `from __future__ import annotations` here, because it would hide the submodule `annotations`.
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam3ray.annotations import FrameAnnotations, ObjectAnnotation, decode_mask, load_revision, read_annotations
    from sam3ray.cameras import LiveFrame, live
    from sam3ray.config import JobConfig, ModelConfig, TrackingConfig, VideoConfig, load_config
    from sam3ray.engine.header import StateError
    from sam3ray.evaluate import compare_runs, evaluate_run
    from sam3ray.exports import export, import_labels
    from sam3ray.failures import ClipError, Failure, JobStopped, Reason, UserError
    from sam3ray.job import JobSummary, refine, run_job
    from sam3ray.job.reporting import report
    from sam3ray.loading import ByClip, RunDataset, collate_frames, hugging_face_dataset
    from sam3ray.model import Model, load
    from sam3ray.planning import Plan, plan_job
    from sam3ray.prompts import BoxPrompt, ExemplarPrompt, MaskPrompt, PointPrompt
    from sam3ray.rendering import draw
    from sam3ray.runs import Run, Still
    from sam3ray.screening import triage
    from sam3ray.segment import Segmenter, segment_video, track_video
    from sam3ray.store import Status
    from sam3ray.verbs import compact, render, retry, status, verify

__version__ = "0.2.0"

_HOMES = {
    "annotations": ("FrameAnnotations", "ObjectAnnotation", "decode_mask", "load_revision", "read_annotations"),
    "cameras": ("LiveFrame", "live"),
    "config": ("JobConfig", "ModelConfig", "TrackingConfig", "VideoConfig", "load_config"),
    "rendering": ("draw",),
    "evaluate": ("compare_runs", "evaluate_run"),
    "exports": ("export", "import_labels"),
    "failures": ("ClipError", "Failure", "JobStopped", "Reason", "UserError"),
    "job": ("JobSummary", "refine", "run_job"),
    "job.reporting": ("report",),
    "engine.header": ("StateError",),
    "loading": ("ByClip", "RunDataset", "collate_frames", "hugging_face_dataset"),
    "model": ("Model", "load"),
    "planning": ("Plan", "plan_job"),
    "prompts": ("BoxPrompt", "ExemplarPrompt", "MaskPrompt", "PointPrompt"),
    "runs": ("Run", "Still"),
    "screening": ("triage",),
    "segment": ("Segmenter", "segment_video", "track_video"),
    "store": ("Status",),
    "verbs": ("compact", "render", "retry", "status", "verify"),
}

__all__ = [
    "BoxPrompt",
    "ByClip",
    "ClipError",
    "ExemplarPrompt",
    "Failure",
    "FrameAnnotations",
    "JobConfig",
    "JobStopped",
    "JobSummary",
    "LiveFrame",
    "MaskPrompt",
    "Model",
    "ModelConfig",
    "ObjectAnnotation",
    "Plan",
    "PointPrompt",
    "Reason",
    "Run",
    "RunDataset",
    "Segmenter",
    "StateError",
    "Status",
    "Still",
    "TrackingConfig",
    "UserError",
    "VideoConfig",
    "collate_frames",
    "compact",
    "compare_runs",
    "decode_mask",
    "draw",
    "evaluate_run",
    "export",
    "hugging_face_dataset",
    "import_labels",
    "live",
    "load",
    "load_config",
    "load_revision",
    "plan_job",
    "read_annotations",
    "refine",
    "render",
    "report",
    "retry",
    "run_job",
    "segment_video",
    "status",
    "track_video",
    "triage",
    "verify",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"sam3ray.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
