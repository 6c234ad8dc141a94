"""Prompted objects on one frame after another: prompts applied, the others tracked, memories written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sam3ray.engine.interaction import PromptedObject, Round
from sam3ray.engine.memory import ObjectMemory
from sam3ray.engine.tracked import Clicks, Prompted, TrackedMasks, join_prompted
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.transfer import indices
from sam3ray.engine.vision import FrameFeatures


@dataclass(eq=False)
class Followed:
    """One object of the clip under way.

    Attributes:
        born: position of the frame whose prompt started it; None before.
        shown: masks of its prompted frames by position, where a second pass has to show them again.
    """

    spec: PromptedObject
    memory: ObjectMemory = field(default_factory=ObjectMemory)
    born: int | None = None
    shown: dict[int, TrackedMasks] = field(default_factory=dict)


class Following:
    """Drives the tracker for the prompted objects of one clip.

    Args:
        size: (height, width) of the source's frames, in which the prompts are given.
        keep_for_second_pass: keep all prompted frames and what they showed, until `begin_second_pass`.
    """

    def __init__(self, tracker: Tracker, size: tuple[int, int], *, keep_for_second_pass: bool = False) -> None:
        self._tracker = tracker
        self._size = size
        self._rehearsing = keep_for_second_pass

    def step(
        self,
        features: FrameFeatures,
        position: int,
        active: Sequence[Followed],
        due: Sequence[tuple[Followed, tuple[Round, ...]]],
        *,
        reverse: bool = False,
    ) -> tuple[list[Followed], TrackedMasks | None]:
        """One frame.

        Args:
            active: objects to find on this frame by what they remember, or as shown before.
            due: objects prompted on it, with their rounds. One that is active too is being refined.

        Returns:
            The objects, and their masks and scores in the same order (None: no object).
        """
        tracker = self._tracker
        prompted = {id(followed) for followed, _ in due}
        known = [followed for followed in active if position in followed.shown]
        found = [followed for followed in active if position not in followed.shown]
        tracked = tracker.track(features, position, [each.memory for each in found], reverse=reverse)
        plain = [i for i, followed in enumerate(found) if id(followed) not in prompted]
        if plain:
            part = tracked if len(plain) == len(found) else _rows(tracked, plain)
            tracker.encode_memory(
                features, position, [found[i].memory for i in plain], tracker.upsample(part.masks), part.score_logits
            )
        objects, results = [found[i] for i in plain], [_rows(tracked, plain)] if plain else []
        if due:
            earlier = {id(followed): tracked.masks[i] for i, followed in enumerate(found)}
            objects += [followed for followed, _ in due]
            results.append(self._prompt(features, position, due, earlier, reverse))
        for followed in known:
            objects.append(followed)
            results.append(followed.shown[position])
        tracker.prune(
            position,
            [followed.memory for followed in objects],
            reverse=reverse,
            keep_conditioning=self._rehearsing,
        )
        if not objects:
            return [], None
        return objects, results[0] if len(results) == 1 else _joined(results)

    def begin_second_pass(self, memories: Sequence[ObjectMemory]) -> None:
        """Forgets all but the prompted frames."""
        self._tracker.forget_tracked(memories)
        self._rehearsing = False

    def _prompt(
        self,
        features: FrameFeatures,
        position: int,
        due: Sequence[tuple[Followed, tuple[Round, ...]]],
        earlier: dict[int, Tensor],
        reverse: bool,
    ) -> TrackedMasks:
        """Runs the rounds of all objects prompted on this frame, then writes their memories together."""
        tracker = self._tracker
        if tracker.rules == "transformers":
            # The last round carries all clicks, and nothing of the rounds before it would go in.
            due = [(followed, rounds[-1:]) for followed, rounds in due]
        latest: dict[int, Prompted] = {}
        for turn in range(max(len(rounds) for _, rounds in due)):
            now = [(followed, rounds[turn]) for followed, rounds in due if turn < len(rounds)]
            masked = [(followed, each.mask) for followed, each in now if each.mask is not None]
            if masked:
                masks = torch.stack([torch.from_numpy(mask) for _, mask in masked]).to(tracker.device)
                memories = [followed.memory for followed, _ in masked]
                result = tracker.set_masks(features, position, memories, self._as_prompt(masks))
                latest.update((id(followed), _row(result, i)) for i, (followed, _) in enumerate(masked))
            clicked = [(followed, each) for followed, each in now if each.mask is None]
            if clicked:
                clicks = [
                    Clicks(
                        self._to_model(each.points),
                        torch.tensor(each.labels, dtype=torch.int32),
                        latest[id(followed)].tracked.masks[0] if id(followed) in latest else earlier.get(id(followed)),
                    )
                    for followed, each in clicked
                ]
                memories = [followed.memory for followed, _ in clicked]
                result = tracker.set_clicks(features, position, memories, clicks, reverse=reverse)
                latest.update((id(followed), _row(result, i)) for i, (followed, _) in enumerate(clicked))
        joined = join_prompted([latest[id(followed)] for followed, _ in due])
        tracker.encode_prompts(features, position, [followed.memory for followed, _ in due], joined)
        for i, (followed, _) in enumerate(due):
            if followed.born is None:
                followed.born = position
            if self._rehearsing:
                followed.shown[position] = _rows(joined.tracked, [i])
        return joined.tracked

    def _to_model(self, points: Sequence[tuple[float, float]]) -> Tensor:
        """(n, 2) pixels of the source -> pixels of the model's image."""
        height, width = self._size
        # transformers' processor divides by a tensor, which torch does in these two steps.
        scale = torch.tensor([width, height], dtype=torch.float32).reciprocal() * self._tracker.image_size
        return torch.tensor(points, dtype=torch.float32) * scale

    def _as_prompt(self, masks: Tensor) -> Tensor:
        """Masks (N, H, W), bool, of the source: transformers' processor makes them hard at the image's size."""
        side = self._tracker.image_size
        if self._tracker.rules == "published" or tuple(masks.shape[-2:]) == (side, side):
            return masks
        size = (side, side)
        soft = F.interpolate(
            masks.float().unsqueeze(1), size=size, mode="bilinear", align_corners=False, antialias=True
        )
        return soft.squeeze(1) >= 0.5


def _rows(tracked: TrackedMasks, rows: Sequence[int]) -> TrackedMasks:
    at = indices(list(rows), tracked.masks.device)
    return TrackedMasks(tracked.masks[at], tracked.score_logits[at], tracked.iou_scores[at])


def _row(prompted: Prompted, row: int) -> Prompted:
    return Prompted(_rows(prompted.tracked, [row]), prompted.memory_logits[row : row + 1])


def _joined(parts: Sequence[TrackedMasks]) -> TrackedMasks:
    return TrackedMasks(
        torch.cat([part.masks for part in parts]),
        torch.cat([part.score_logits for part in parts]),
        torch.cat([part.iou_scores for part in parts]),
    )
