"""Turns visual prompts into rounds for the tracker, per object and frame, in the model's coordinates.

The prompts of one object on one frame, in the order given, are rounds of one interaction. Each round includes all
earlier clicks. A box followed by clicks is one round, as in Meta's code and transformers; so are the points of one
`PointPrompt`. A mask starts over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sam3ray.masks import decode_rle
from sam3ray.values.prompts import BoxPrompt, MaskPrompt, PointPrompt, VisualPrompt

OFF, ON, TOP_LEFT, BOTTOM_RIGHT = 0, 1, 2, 3  # point labels of the prompt encoder


@dataclass(frozen=True, eq=False)
class Round:
    """One call of the model with an object's prompts.

    Attributes:
        points: all (x, y) so far, in pixels of the source frame; a box is its two corners, first.
        labels: one per point: OFF, ON, TOP_LEFT, BOTTOM_RIGHT.
        mask: bool, (height, width) of the source frame; then there are no points.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    mask: np.ndarray | None = None

    @property
    def shows_the_object(self) -> bool:
        return self.mask is not None or any(label != OFF for label in self.labels)


def make_rounds(prompts: Sequence[VisualPrompt], height: int, width: int) -> tuple[Round, ...]:
    """The rounds for the prompts of one object on one frame."""
    rounds: list[Round] = []
    box: tuple[tuple[float, float], ...] = ()
    clicks: list[tuple[float, float]] = []
    labels: list[int] = []
    after_box = False
    for prompt in prompts:
        if isinstance(prompt, MaskPrompt):
            box, clicks, labels, after_box = (), [], [], False
            rounds.append(Round(mask=decode_rle(prompt.rle, prompt.height, prompt.width)))
            continue
        scale_x, scale_y = (width, height) if prompt.units == "relative" else (1, 1)
        if isinstance(prompt, BoxPrompt):
            left, top, right, bottom = prompt.box
            box = ((left * scale_x, top * scale_y), (right * scale_x, bottom * scale_y))
        else:
            clicks += [(x * scale_x, y * scale_y) for x, y in prompt.points]
            labels += [ON if label else OFF for label in prompt.labels]
            if after_box:
                rounds.pop()
        after_box = isinstance(prompt, BoxPrompt)
        corners = (TOP_LEFT, BOTTOM_RIGHT) if box else ()
        rounds.append(Round((*box, *clicks), (*corners, *labels)))
    return tuple(rounds)


def check_prompt(prompt: VisualPrompt, height: int, width: int) -> None:
    """Raises ValueError if the prompt does not fit frames of this size."""
    where = f"prompt of object {prompt.object_id} on frame {prompt.frame_index}"
    if prompt.object_id < 1:
        raise ValueError(f"{where}: object ids start at 1")
    if prompt.frame_index < 0:
        raise ValueError(f"{where}: its frame is not known yet; allowed: a frame index from 0")
    if isinstance(prompt, MaskPrompt):
        if (prompt.height, prompt.width) != (height, width):
            raise ValueError(
                f"{where}: the mask is {prompt.width}x{prompt.height} pixels, the frame is {width}x{height}"
            )
        return
    right, bottom = (1, 1) if prompt.units == "relative" else (width, height)
    if isinstance(prompt, PointPrompt):
        if not prompt.points or len(prompt.points) != len(prompt.labels):
            raise ValueError(f"{where}: {len(prompt.points)} points with {len(prompt.labels)} labels")
        for x, y in prompt.points:
            if not (0 <= x <= right and 0 <= y <= bottom):
                raise ValueError(f"{where}: point ({x:g}, {y:g}) is outside the frame, which is {right}x{bottom}")
        return
    x0, y0, x1, y1 = prompt.box
    if not (0 <= x0 < x1 <= right and 0 <= y0 < y1 <= bottom):
        raise ValueError(
            f"{where}: box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is not one of (xmin, ymin, xmax, ymax) in {right}x{bottom}"
        )
