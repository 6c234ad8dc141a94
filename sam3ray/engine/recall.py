"""Finds remembered objects on frames that their own tracker never saw."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from sam3ray.engine.frames import Preprocessor
from sam3ray.engine.memory import ObjectMemory
from sam3ray.engine.postprocess import fill_holes
from sam3ray.engine.suppression import SURE_LOGIT, suppress_shrunk
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.vision import FrameFeatures
from sam3ray.masks import MaskRuns
from sam3ray.video import Frame

if TYPE_CHECKING:
    from sam3ray.engine.engine import Engine

_FEATURES = 12  # frames whose features are kept
_MEMORIES = 128  # objects whose memories are kept in the banks


class Recall:
    """Follows objects remembered by the engine's sessions through other frames, of `size` (height, width)."""

    def __init__(self, engine: Engine, size: tuple[int, int]) -> None:
        self._engine, self._size = engine, size
        self._preprocess = Preprocessor(engine.checkpoint)
        self._tracker = engine.tracker(size, None)
        self._features: OrderedDict[int, FrameFeatures] = OrderedDict()
        self._memories: OrderedDict[Hashable, ObjectMemory] = OrderedDict()

    @property
    def rows_in_use(self) -> tuple[int, int]:
        """See `Tracker.rows_in_use`."""
        return self._tracker.rows_in_use

    def memory(self, key: Hashable, load: Callable[[Tracker], ObjectMemory]) -> ObjectMemory:
        """The memory of the object `key`, loaded on demand."""
        memory = self._memories.pop(key, None)
        memory = self._memories[key] = load(self._tracker) if memory is None else memory
        while len(self._memories) > _MEMORIES:
            self._tracker.forget([self._memories.popitem(last=False)[1]])
        return memory

    @torch.inference_mode()
    def features(self, position: int, frame: Callable[[int], Frame]) -> FrameFeatures:
        """The features of the frame at a position of the clip."""
        features = self._features.pop(position, None)
        if features is None:
            with self._engine.checkpoint.precision():
                (features,) = self._engine.neck.see(self._preprocess(frame(position)))[1]
        self._features[position] = features
        while len(self._features) > _FEATURES:
            self._features.popitem(last=False)
        return features

    @contextlib.contextmanager
    def following(self, memories: Sequence[ObjectMemory]) -> Iterator[list[ObjectMemory]]:
        """Copies of memories, to which `follow` adds. What they share with the originals does not change; the rest is
        freed.
        """
        copies = [ObjectMemory(dict(each.conditioning), dict(each.tracked)) for each in memories]
        try:
            yield copies
        finally:
            new = [
                ObjectMemory(tracked={t: entry for t, entry in copy.tracked.items() if t not in each.tracked})
                for copy, each in zip(copies, memories, strict=True)
            ]
            self._tracker.forget(new)

    @torch.inference_mode()
    def follow(
        self, features: FrameFeatures, groups: Sequence[tuple[int, Sequence[ObjectMemory]]]
    ) -> list[tuple[MaskRuns | None, float]]:
        """Tracks objects of one phrase on a frame after all that they remember. Each remembers what is found.

        The objects compete as tracked objects do: each pixel goes to the highest logit, and an object left with few
        pixels is absent.

        Args:
            groups: the frame's number, counted as in the group's memories, and the group's objects.

        Returns:
            For each object its mask at the source's size, and the tracker's probability that it is present; (None, 0)
            if it is absent.
        """
        tracker = self._tracker
        with self._engine.checkpoint.precision():
            found = [tracker.track(features, frame, memories) for frame, memories in groups]
            low = torch.cat([fill_holes(each.masks, self._engine.rules.fill_hole_area) for each in found])
            logits = torch.cat([each.score_logits for each in found])
            is_published = tracker.rules == "published"
            remembered = low.clone()
            if is_published:
                size = (tracker.memory_mask_size, tracker.memory_mask_size)
                remembered = F.interpolate(low.unsqueeze(1), size, mode="bilinear").squeeze(1)
            remembered, is_there = suppress_shrunk(remembered, [range(len(low))], lone=is_published)
            sure = torch.where(is_there, SURE_LOGIT, -SURE_LOGIT).to(remembered.dtype)
            done = 0
            for frame, memories in groups:
                part = slice(done, done + len(memories))
                tracker.encode_memory(features, frame, memories, remembered[part], sure[part])
                done += len(memories)
            logits = torch.where(is_there, logits.float(), torch.full_like(logits, -torch.inf).float())
            return self._shown(low, logits)

    def _shown(self, low: torch.Tensor, score_logits: torch.Tensor) -> list[tuple[MaskRuns | None, float]]:
        out: list[tuple[MaskRuns | None, float]] = []
        for n, presence in enumerate(score_logits.float().sigmoid().tolist()):
            if presence > 0.5:
                large = F.interpolate(low[n : n + 1].float().unsqueeze(1), self._size, mode="bilinear")[0, 0] > 0
                out.append((MaskRuns.of_mask(large.cpu().numpy()), presence))
            else:
                out.append((None, 0.0))
        return out
