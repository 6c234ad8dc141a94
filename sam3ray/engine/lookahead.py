"""The part of a frame's work that needs no past: preprocessing, vision backbone, detector, tracker features.

It runs ahead of the tracker, by one batch of frames; on a GPU by two. This keeps the device busy while Python
decides what becomes of the frame before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from sam3ray.engine.checkpoint import Checkpoint
from sam3ray.engine.detector import DetectorLike, Proposals
from sam3ray.engine.frames import Preprocessor
from sam3ray.engine.outputs import FrameFacts
from sam3ray.engine.vision import FrameFeatures, TrackerNeck
from sam3ray.video import Frame

LENGTH_HORIZON = 16  # clips shorter than this are tracked with fewer object pointers, so the length must be known


@dataclass(frozen=True, eq=False)
class FrameWork:
    """One frame, ready for the tracker.

    Attributes:
        position: 0-based, in the sequence that is being segmented.
    """

    facts: FrameFacts
    position: int
    features: FrameFeatures
    proposals: Proposals


class LookAhead:
    """Frames of a clip, in order.

    Args:
        checkpoint: the loaded model.
        neck: makes the tracker's features.
        detector: what detects on each frame.
        frames: decoded frames; read lazily, at most `LENGTH_HORIZON` + `batch` ahead, on a GPU + 2 `batch`.
        prompts: phrases.
        batch: frames per call of the backbone.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        neck: TrackerNeck,
        detector: DetectorLike,
        frames: Iterable[Frame],
        prompts: Sequence[str],
        batch: int,
    ) -> None:
        self._checkpoint = checkpoint
        self._neck = neck
        self._detector = detector
        self._prompts = prompts
        self._batch = batch
        preprocess = Preprocessor(checkpoint)
        self._source = ((FrameFacts.of(frame), preprocess(frame)) for frame in frames)
        self._pixels: deque[tuple[FrameFacts, torch.Tensor]] = deque(islice(self._source, LENGTH_HORIZON))
        self._ready: deque[FrameWork] = deque()
        self._position = 0
        # On CUDA one batch more is under way: its scores are on the host when they are asked for, since the wait for
        # the frame before it was a wait for them, too.
        self._enough = 1 + (batch if checkpoint.device.type == "cuda" else 0)
        #: length of the clip, where it is shorter than `LENGTH_HORIZON`
        self.short_length = len(self._pixels) if len(self._pixels) < LENGTH_HORIZON else None

    def __iter__(self) -> Iterator[FrameWork]:
        while True:
            self.fill()
            if not self._ready:
                return
            yield self._ready.popleft()

    def fill(self) -> None:
        """Start on the next frames unless enough are under way."""
        if len(self._ready) >= self._enough:
            return
        chunk: list[tuple[FrameFacts, torch.Tensor]] = []
        while len(chunk) < self._batch:
            self._pixels.extend(islice(self._source, 1))
            if not self._pixels:
                break
            chunk.append(self._pixels.popleft())
        if chunk:
            self._ready.extend(self._run(chunk))

    @torch.inference_mode()
    def _run(self, chunk: list[tuple[FrameFacts, torch.Tensor]]) -> list[FrameWork]:
        with self._checkpoint.precision():
            pixels = chunk[0][1] if len(chunk) == 1 else torch.cat([pixels for _, pixels in chunk])
            hidden, features = self._neck.see(pixels)
            proposals = self._detector.propose(hidden, self._prompts, self._position)
        work = [
            FrameWork(facts, self._position + offset, features[offset], proposals[offset])
            for offset, (facts, _) in enumerate(chunk)
        ]
        self._position += len(chunk)
        return work
