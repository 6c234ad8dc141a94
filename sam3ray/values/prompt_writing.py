"""Writes visual prompts in a manifest's form, which `parse_visual_prompts` reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sam3ray.values.prompts import UNRESOLVED, BoxPrompt, PointPrompt, VisualPrompt


def prompt_items(prompts: Iterable[VisualPrompt]) -> list[dict[str, Any]]:
    """One JSON object per prompt. If the frame is known, it replaces the time."""
    return [_item(prompt) for prompt in prompts]


def _item(prompt: VisualPrompt) -> dict[str, Any]:
    item: dict[str, Any] = {"object_id": prompt.object_id}
    if prompt.label:
        item["label"] = prompt.label
    if prompt.time_s is not None and prompt.frame_index == UNRESOLVED:
        item["time_s"] = prompt.time_s
    else:
        item["frame"] = prompt.frame_index
    if isinstance(prompt, PointPrompt):
        points, labels = [list(point) for point in prompt.points], [int(label) for label in prompt.labels]
        return item | {"units": prompt.units, "points": points, "labels": labels}
    if isinstance(prompt, BoxPrompt):
        return item | {"units": prompt.units, "box": list(prompt.box)}
    if not prompt.png:
        return item | {"mask": {"size": [prompt.height, prompt.width], "counts": prompt.rle}}
    return item | {"mask": {"png": prompt.png} | ({"sha256": prompt.sha256} if prompt.sha256 else {})}
