"""Which clips must be gone through from one end to the other, and cannot be cut into windows that run at once."""

from __future__ import annotations

from sam3ray.config import JobConfig
from sam3ray.values.clip import Clip


def sequential_reason(clip: Clip, config: JobConfig) -> str | None:
    """Why a clip is sequential as a whole, its phrases included; None where it is not.

    A window can look for a phrase again. It cannot point at an object again, nor show a box that lies in another one.
    """
    if clip.visual_prompts:
        return "visual prompts"
    if any(not each.phrase for each in clip.exemplars):
        return "an exemplar without a phrase"
    if clip.exemplars and config.tracking.exemplars == "everywhere":
        return "tracking.exemplars: everywhere"
    return None
