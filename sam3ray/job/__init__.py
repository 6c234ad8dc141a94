"""Running a job: scheduler (pure), worker (plain class), driver (Ray), progress, metrics, logs.

`run_job`, `render_run` and `refine` are imported on first use, because the driver imports Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sam3ray.job.progress import make_progress
from sam3ray.job.result import ClipResult, JobSummary

if TYPE_CHECKING:
    from sam3ray.job.driver import run_job
    from sam3ray.job.refining import refine
    from sam3ray.job.rendering import render_run

__all__ = ["ClipResult", "JobSummary", "make_progress", "refine", "render_run", "run_job"]


_HOMES = {"refine": "refining", "run_job": "driver", "render_run": "rendering"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"sam3ray.job.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
