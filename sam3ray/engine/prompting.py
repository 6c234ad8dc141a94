"""Applies clicks, boxes and masks of one frame to their objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sam3ray.engine.interaction import Round
from sam3ray.engine.memory import ObjectMemory
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.tracker_values import Clicks, Prompted, TrackedMasks
from sam3ray.engine.vision import FrameFeatures


def run_rounds(
    tracker: Tracker,
    features: FrameFeatures,
    position: int,
    due: Sequence[tuple[ObjectMemory, tuple[Round, ...]]],
    earlier: Mapping[int, Tensor],
    *,
    reverse: bool = False,
) -> TrackedMasks:
    """Runs the rounds of all objects prompted on this frame, then writes their memories together.

    Args:
        tracker: a tracker that knows the size of the source's frames; prompts are in these pixels.
        earlier: (h, h) logits of objects already tracked on the frame, by place in `due`.
    """
    if tracker.rules == "transformers":
        # The last round includes all clicks, and would use nothing else of the rounds before it.
        due = [(memory, rounds[-1:]) for memory, rounds in due]
    latest: dict[int, Prompted] = {}
    for turn in range(max(len(rounds) for _, rounds in due)):
        now = [(place, rounds[turn]) for place, (_, rounds) in enumerate(due) if turn < len(rounds)]
        masked = [(place, each.mask) for place, each in now if each.mask is not None]
        if masked:
            masks = torch.stack([torch.from_numpy(mask) for _, mask in masked]).to(tracker.device)
            memories = [due[place][0] for place, _ in masked]
            result = tracker.set_masks(features, position, memories, _as_prompt(tracker, masks))
            latest.update((place, result.of([i])) for i, (place, _) in enumerate(masked))
        clicked = [(place, each) for place, each in now if each.mask is None]
        if clicked:
            clicks = [
                Clicks(
                    _to_model(tracker, each.points),
                    torch.tensor(each.labels, dtype=torch.int32),
                    latest[place].masks[0] if place in latest else earlier.get(place),
                )
                for place, each in clicked
            ]
            memories = [due[place][0] for place, _ in clicked]
            result = tracker.set_clicks(features, position, memories, clicks, reverse=reverse)
            latest.update((place, result.of([i])) for i, (place, _) in enumerate(clicked))
    result = Prompted.joined([latest[place] for place in range(len(due))])
    tracker.encode_prompts(features, position, [memory for memory, _ in due], result)
    return TrackedMasks.joined([result])


def _to_model(tracker: Tracker, points: Sequence[tuple[float, float]]) -> Tensor:
    """(n, 2) pixels of the source -> pixels of the model's image."""
    assert tracker.video_size is not None
    height, width = tracker.video_size
    # transformers' processor divides by a tensor, which torch computes in these two steps.
    scale = torch.tensor([width, height], dtype=torch.float32).reciprocal() * tracker.image_size
    return torch.tensor(points, dtype=torch.float32) * scale


def _as_prompt(tracker: Tracker, masks: Tensor) -> Tensor:
    """Masks (N, H, W), bool, of the source, thresholded at the image's size as by transformers' processor."""
    size = (tracker.image_size, tracker.image_size)
    if tracker.rules == "published" or tuple(masks.shape[-2:]) == size:
        return masks
    soft = F.interpolate(masks.float().unsqueeze(1), size=size, mode="bilinear", align_corners=False, antialias=True)
    return soft.squeeze(1) >= 0.5
