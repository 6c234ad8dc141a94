"""Running a job: scheduler (pure), worker (plain class), driver (Ray), progress, metrics, logs.

`run_job` and `render_run` are imported where they are used first: the driver brings Ray along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sam3ray.job.progress import make_progress
from sam3ray.job.result import ClipResult, JobSummary

if TYPE_CHECKING:
    from sam3ray.job.driver import run_job
    from sam3ray.job.rendering import render_run

__all__ = ["ClipResult", "JobSummary", "make_progress", "render_run", "run_job"]


def __getattr__(name: str) -> Any:
    if name == "run_job":
        from sam3ray.job.driver import run_job

        return run_job
    if name == "render_run":
        from sam3ray.job.rendering import render_run

        return render_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
