"""A clip of drifting discs, and detections and tracks of exactly those discs.

Random weights find nothing. So the modules run as usual, but their output is replaced, in both pipelines and at the
same two places: the detector's output, and the tracker's masks before any rule sees them. Every disc is then found on
each frame, as one object from beginning to end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Sam3VideoModel

from sam3ray.engine.detector import Detector, Proposals
from sam3ray.engine.tracker import TrackedMasks, Tracker
from sam3ray.video import VideoWriter

HEIGHT, WIDTH = 360, 640
PHASES = 16  # the discs drift with this period, so that masks can be made beforehand
SCORE = 0.9


def centres(objects: int, phase: int) -> np.ndarray:
    """(objects, 2) y, x as fractions of the frame: a grid, all moving on small circles."""
    side = int(np.ceil(np.sqrt(objects)))
    grid = np.array([((k // side + 0.5) / side, (k % side + 0.5) / side) for k in range(objects)])
    angle = 2 * np.pi * phase / PHASES
    return grid + 0.1 / side * np.array([np.sin(angle), np.cos(angle)])


def radius(objects: int) -> float:
    """As a fraction of the frame, such that discs do not touch, and are at most a quarter of the frame across."""
    return min(0.125, 0.35 / np.ceil(np.sqrt(objects)))


def write_clip(path: Path, frames: int, objects: int, height: int = HEIGHT, width: int = WIDTH) -> None:
    y, x = np.mgrid[:height, :width]
    colours = np.random.default_rng(0).integers(60, 255, (objects, 3), dtype=np.uint8)
    images = []
    for phase in range(PHASES):
        image = np.full((height, width, 3), 30, dtype=np.uint8)
        for (cy, cx), colour in zip(centres(objects, phase), colours, strict=True):
            inside = ((y / height - cy) ** 2 + (x / width - cx) ** 2) < radius(objects) ** 2
            image[inside] = colour
        images.append(image)
    with VideoWriter(path, width, height, Fraction(1, 25), Fraction(25)) as writer:
        for t in range(frames):
            writer.write(images[t % PHASES], t)


class Scene:
    """Mask logits of all discs at every phase, on the device."""

    def __init__(self, objects: int, size: int, device: torch.device, dtype: torch.dtype) -> None:
        self.objects = objects
        axis = (torch.arange(size, device=device) + 0.5) / size
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        phases = []
        for phase in range(PHASES):
            at = torch.tensor(centres(objects, phase), device=device, dtype=torch.float32)
            distance = ((y - at[:, 0, None, None]) ** 2 + (x - at[:, 1, None, None]) ** 2).sqrt()
            phases.append((12 * (1 - distance / radius(objects))).clamp(-8, 8).to(dtype))
        self._phases = phases

    def masks(self, frame: int) -> torch.Tensor:
        return self._phases[frame % PHASES].clone()


class FindsDiscs:
    """Runs the checkpoint's detector for its cost, but returns the discs for the first phrase."""

    def __init__(self, detector: Detector, scene: Scene) -> None:
        self._detector = detector
        self._scene = scene

    def propose(self, backbone: torch.Tensor, prompts: Sequence[str], first_position: int) -> list[Proposals]:
        return [
            self._with_discs(proposals, first_position + n)
            for n, proposals in enumerate(self._detector.propose(backbone, prompts, first_position))
        ]

    def _with_discs(self, proposals: Proposals, frame: int) -> Proposals:
        """Never waits for the device: the scores are known, but arrive with the detector's own."""
        count, queries = proposals.probs.shape
        discs = self._scene.objects
        probs = torch.zeros(count, max(queries, discs))
        probs[0, :discs] = SCORE

        def masks_of(prompts: Sequence[int]) -> torch.Tensor:
            # No other phrase finds anything, so these are the masks of the first.
            masks = proposals.masks_of(prompts)
            if discs > queries:
                masks = torch.nn.functional.pad(masks, (0, 0, 0, 0, 0, discs - queries))
            masks[0, :discs] = self._scene.masks(frame)
            return masks

        return Proposals(masks_of, probs, proposals.arrived)


def follow_discs(scene: Scene) -> Callable[[], None]:
    """Makes our tracker return the discs. Returns a function that undoes this."""
    track = Tracker.track

    def tracked(self: Tracker, features: Any, frame: int, memories: Any, **options: Any) -> TrackedMasks:
        found = track(self, features, frame, memories, **options)
        return replace(found, masks=scene.masks(frame)[: len(memories)])

    Tracker.track = tracked  # type: ignore[method-assign]

    def undo() -> None:
        Tracker.track = track  # type: ignore[method-assign]

    return undo


def patch_transformers(model: Sam3VideoModel, scene: Scene) -> None:
    """Makes the same replacements in transformers' loop: the detector's output and the tracker's masks."""
    detector, propagate = model.detector_model.forward, model.run_tracker_propagation
    frame = iter(range(10**9))

    def detect(*arguments: Any, **options: Any) -> Any:
        output = detector(*arguments, **options)
        discs, queries = scene.objects, output.pred_masks.shape[1]
        masks, logits = output.pred_masks, output.pred_logits
        if discs > queries:
            masks = torch.nn.functional.pad(masks, (0, 0, 0, 0, 0, discs - queries))
            logits = torch.nn.functional.pad(logits, (0, discs - queries))
        masks[:, :discs] = scene.masks(next(frame))
        logits[:] = -10.0
        logits[:, :discs] = float(np.log(SCORE / (1 - SCORE)))
        output.pred_masks, output.pred_logits = masks, logits
        output.pred_boxes = output.pred_boxes.new_zeros(1, masks.shape[1], 4)
        output.presence_logits = torch.full_like(output.presence_logits, 20.0)
        return output

    def follow(inference_session: Any, frame_idx: int, reverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
        masks, scores = propagate(inference_session, frame_idx, reverse)
        return (scene.masks(frame_idx)[: len(masks)] if len(masks) else masks), scores

    model.detector_model.forward = detect
    model.run_tracker_propagation = follow
