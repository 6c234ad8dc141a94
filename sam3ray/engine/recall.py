"""What remembered objects look like on frames that their own tracker never saw."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from sam3ray.engine.frames import Preprocessor
from sam3ray.engine.memory import ObjectMemory
from sam3ray.engine.postprocess import fill_holes
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.vision import FrameFeatures
from sam3ray.masks import MaskRuns
from sam3ray.video import Frame

if TYPE_CHECKING:
    from sam3ray.engine.engine import Engine

_FEATURES = 12  # frames whose features are kept
_MEMORIES = 128  # objects whose memories are kept in the banks


class Recall:
    """Finds remembered objects on single frames.

    Args:
        engine: whose sessions made the memories.
        size: (height, width) of the source's frames.
    """

    def __init__(self, engine: Engine, size: tuple[int, int]) -> None:
        self._engine, self._size = engine, size
        self._preprocess = Preprocessor(engine.checkpoint)
        self._tracker = engine.tracker(size, None)
        self._features: OrderedDict[int, FrameFeatures] = OrderedDict()
        self._memories: OrderedDict[Hashable, ObjectMemory] = OrderedDict()

    def memory(self, key: Hashable, load: Callable[[Tracker], ObjectMemory]) -> ObjectMemory:
        """What the object `key` remembers, loaded where it is not there yet."""
        memory = self._memories.pop(key, None)
        memory = self._memories[key] = load(self._tracker) if memory is None else memory
        while len(self._memories) > _MEMORIES:
            self._tracker.forget([self._memories.popitem(last=False)[1]])
        return memory

    @torch.inference_mode()
    def features(self, position: int, frame: Callable[[int], Frame]) -> FrameFeatures:
        """Of the frame at a position of the clip."""
        features = self._features.pop(position, None)
        if features is None:
            with self._engine.checkpoint.precision():
                (features,) = self._engine.neck.see(self._preprocess(frame(position)))[1]
        self._features[position] = features
        while len(self._features) > _FEATURES:
            self._features.popitem(last=False)
        return features

    @torch.inference_mode()
    def masks(
        self, features: FrameFeatures, frame: int, memories: Sequence[ObjectMemory]
    ) -> list[tuple[MaskRuns | None, float]]:
        """Where each object is on a frame, at the source's size, and the tracker's probability that it is there at all.

        Args:
            frame: its number, counted as the memories count. None of them may be of a later frame.

        Returns:
            (None, 0) where the tracker does not believe that the object is there.
        """
        with self._engine.checkpoint.precision():
            found = self._tracker.look(features, frame, memories)
            low = fill_holes(found.masks, self._engine.rules.fill_hole_area).float()
        out: list[tuple[MaskRuns | None, float]] = []
        for n, presence in enumerate(found.score_logits.float().sigmoid().tolist()):
            if presence > 0.5:
                large = F.interpolate(low[n : n + 1].unsqueeze(1), self._size, mode="bilinear")[0, 0] > 0
                out.append((MaskRuns.of_mask(large.cpu().numpy()), presence))
            else:
                out.append((None, 0.0))
        return out
