"""Decides which clips must be labelled from start to end, and so cannot be cut into parallel windows."""

from __future__ import annotations

from sam3ray.config import JobConfig
from sam3ray.values.clip import Clip


def sequential_reason(clip: Clip, config: JobConfig) -> str | None:
    """Why a whole clip is sequential, including its phrases; None if it is not.

    Every window can look for a phrase again. But a click or a box around an example is in one window only.
    """
    if clip.visual_prompts:
        return "visual prompts"
    if any(not each.phrase for each in clip.exemplars):
        return "an exemplar without a phrase"
    if clip.exemplars and config.tracking.exemplars == "everywhere":
        return "tracking.exemplars: everywhere"
    return None
