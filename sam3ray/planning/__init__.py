"""The `plan` verb: what a job would do, and what it would cost."""

from sam3ray.planning._estimate import Estimate
from sam3ray.planning._plan import plan_job
from sam3ray.planning._probing import probe_all
from sam3ray.planning._report import plan_report
from sam3ray.planning._result import Plan, Unreadable
from sam3ray.planning._sequential import sequential_reason
from sam3ray.planning._sharing import Sharing, parallel_windows
from sam3ray.planning._start import Start, prepare
from sam3ray.planning._visual import check_visual_prompts
from sam3ray.planning._windows import LongClip, Windowing

__all__ = [
    "Estimate",
    "LongClip",
    "Plan",
    "Sharing",
    "Start",
    "Unreadable",
    "Windowing",
    "check_visual_prompts",
    "parallel_windows",
    "plan_job",
    "plan_report",
    "prepare",
    "probe_all",
    "sequential_reason",
]
