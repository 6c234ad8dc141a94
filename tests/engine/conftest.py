from __future__ import annotations

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
