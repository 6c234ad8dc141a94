"""What a job would do and cost: the `plan` verb."""

from sam3ray.plan._estimate import Estimate
from sam3ray.plan._plan import Plan, Unreadable, make_plan
from sam3ray.plan._probing import probe_all
from sam3ray.plan._start import Start, prepare
from sam3ray.plan._visual import check_visual_prompts

__all__ = ["Estimate", "Plan", "Start", "Unreadable", "check_visual_prompts", "make_plan", "prepare", "probe_all"]
