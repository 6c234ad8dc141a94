from __future__ import annotations

from typing import Any

import pytest
import torch

from sam3ray.engine.mask_head import resize
from sam3ray.engine.tracker import Tracker
from sam3ray.video import Frame
from tests.engine.pipeline import clip
from tests.engine.prompted import LENGTH


@pytest.fixture
def same_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resizes masks as transformers does: with all three candidates, although the best one is chosen already.

    On one thread torch has a kernel of its own for exactly three channels, which rounds differently.
    """

    def three_channels(self: Tracker, masks: torch.Tensor) -> torch.Tensor:
        size = (self.image_size, self.image_size)
        return resize(masks.unsqueeze(1).repeat(1, 3, 1, 1), size)[:, 0]

    monkeypatch.setattr(Tracker, "upsample", three_channels)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    """Blocks that drift over noise."""
    return clip(LENGTH)


@pytest.fixture
def objects_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What phrases find stays where it was found."""
    add, track = Tracker.add_masks, Tracker.track
    kept: dict[int, tuple[Any, torch.Tensor]] = {}

    def added(self: Tracker, features: Any, frame: int, memories: Any, masks: torch.Tensor, **options: Any) -> Any:
        size = (self.image_size // 2, self.image_size // 2)
        small = torch.nn.functional.interpolate(masks[:, None].float(), size)[:, 0]
        kept.update({id(memory): (memory, mask) for memory, mask in zip(memories, small, strict=True)})
        return add(self, features, frame, memories, masks, **options)

    def tracked(self: Tracker, features: Any, frame: int, memories: Any, **options: Any) -> Any:
        found = track(self, features, frame, memories, **options)
        for place, memory in enumerate(memories):
            if id(memory) in kept:
                found.masks[place] = kept[id(memory)][1] * 16 - 8
        return found

    monkeypatch.setattr(Tracker, "add_masks", added)
    monkeypatch.setattr(Tracker, "track", tracked)
