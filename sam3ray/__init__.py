"""SAM 3 over video datasets, on Ray: RLE masks, boxes, scores and ids in Parquet, committed exactly once.

The public names are imported when first used: torch takes seconds to import, and reading annotations needs none of it.
"""

# No `from __future__ import annotations` here: it would hide the submodule of that name.
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam3ray.annotations import FrameAnnotations, ObjectAnnotation, decode_mask, read_annotations
    from sam3ray.config import JobConfig, ModelConfig, TrackingConfig, VideoConfig, load_config
    from sam3ray.engine.state import StateError
    from sam3ray.exports import export
    from sam3ray.failures import ClipError, Failure, JobStopped, Reason, UserError
    from sam3ray.job import JobSummary, run_job
    from sam3ray.model import Model, load
    from sam3ray.prompts import BoxPrompt, MaskPrompt, PointPrompt
    from sam3ray.segment import Segmenter, segment_video, track_video

__version__ = "0.2.0"

_HOMES = {
    "annotations": ("FrameAnnotations", "ObjectAnnotation", "decode_mask", "read_annotations"),
    "config": ("JobConfig", "ModelConfig", "TrackingConfig", "VideoConfig", "load_config"),
    "exports": ("export",),
    "failures": ("ClipError", "Failure", "JobStopped", "Reason", "UserError"),
    "job": ("JobSummary", "run_job"),
    "engine.state": ("StateError",),
    "model": ("Model", "load"),
    "prompts": ("BoxPrompt", "MaskPrompt", "PointPrompt"),
    "segment": ("Segmenter", "segment_video", "track_video"),
}

__all__ = [
    "BoxPrompt",
    "ClipError",
    "Failure",
    "FrameAnnotations",
    "JobConfig",
    "JobStopped",
    "JobSummary",
    "MaskPrompt",
    "Model",
    "ModelConfig",
    "ObjectAnnotation",
    "PointPrompt",
    "Reason",
    "Segmenter",
    "StateError",
    "TrackingConfig",
    "UserError",
    "VideoConfig",
    "decode_mask",
    "export",
    "load",
    "load_config",
    "read_annotations",
    "run_job",
    "segment_video",
    "track_video",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"sam3ray.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
