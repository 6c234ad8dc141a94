"""The part of a frame's work that needs no past: preprocessing, vision backbone, detector, tracker features.

It runs ahead of the tracker, by one batch of frames; on a GPU by two. This keeps the device busy while Python
decides what becomes of the frame before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from sam3ray.engine.checkpoint import Checkpoint
from sam3ray.engine.detector import DetectorLike, Proposals
from sam3ray.engine.exemplars import Asked
from sam3ray.engine.frames import Preprocessor
from sam3ray.engine.outputs import FrameStamp
from sam3ray.engine.vision import FrameFeatures, TrackerNeck
from sam3ray.video import Frame

LENGTH_HORIZON = 16  # clips shorter than this are tracked with fewer object pointers, so the length must be known


@dataclass(frozen=True, eq=False)
class FrameWork:
    """One frame, ready for the tracker.

    Attributes:
        position: 0-based, counted from the first frame on which phrases were looked for.
        phrases: what was looked for, in words or by exemplars, in the order of `proposals`.
        features: None where nobody looks at the frame.
        proposals: None where no phrase is looked for.
    """

    stamp: FrameStamp
    position: int
    phrases: tuple[Asked, ...] = ()
    features: FrameFeatures | None = None
    proposals: Proposals | None = None


@dataclass(frozen=True, eq=False)
class _Waiting:
    stamp: FrameStamp
    position: int
    phrases: tuple[Asked, ...]
    pixels: torch.Tensor | None


class LookAhead:
    """Frames of a clip, in order: pushed as they come, popped when their turn has come.

    Args:
        checkpoint: the loaded model.
        neck: makes the tracker's features.
        detector: what detects on each frame.
        batch: frames per call of the backbone.
    """

    def __init__(self, checkpoint: Checkpoint, neck: TrackerNeck, detector: DetectorLike, batch: int) -> None:
        self._checkpoint = checkpoint
        self._neck = neck
        self._detector = detector
        self._batch = batch
        self._preprocess = Preprocessor(checkpoint)
        self._waiting: deque[_Waiting] = deque()
        self._ready: deque[FrameWork] = deque()
        # On CUDA one batch more is under way: its scores are on the host when they are asked for, since the wait for
        # the frame before it was a wait for them, too.
        self._enough = 1 + (batch if checkpoint.device.type == "cuda" else 0)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._ready)

    def push(self, frame: Frame, position: int, phrases: tuple[Asked, ...], *, is_looked_at: bool = True) -> None:
        """The next frame, and the phrases to look for on it."""
        pixels = self._preprocess(frame) if is_looked_at else None
        self._waiting.append(_Waiting(FrameStamp.of(frame), position, phrases, pixels))

    def each(self, frames: Iterable[Frame], phrases: tuple[str, ...]) -> Iterator[FrameWork]:
        """All frames of a clip, of which the same is asked throughout."""
        for position, frame in enumerate(frames):
            self.push(frame, position, phrases)
            while len(self) > 2 * self._batch:
                yield self.pop()
        while len(self):
            yield self.pop()

    def clear(self) -> None:
        self._waiting.clear()
        self._ready.clear()

    def pop(self) -> FrameWork:
        self.fill()
        return self._ready.popleft()

    def fill(self) -> None:
        """Start on the next frames unless enough are under way."""
        if len(self._ready) >= self._enough or not self._waiting:
            return
        first = self._waiting[0]
        if first.pixels is None:
            self._waiting.popleft()
            self._ready.append(FrameWork(first.stamp, first.position))
            return
        chunk: list[tuple[_Waiting, torch.Tensor]] = []
        while self._waiting and len(chunk) < self._batch:
            each = self._waiting[0]
            if each.pixels is None or each.phrases != first.phrases:
                break
            chunk.append((self._waiting.popleft(), each.pixels))
        self._ready.extend(self._run(chunk))

    @torch.inference_mode()
    def _run(self, chunk: list[tuple[_Waiting, torch.Tensor]]) -> list[FrameWork]:
        first = chunk[0][0]
        with self._checkpoint.precision():
            pixels = chunk[0][1] if len(chunk) == 1 else torch.cat([pixels for _, pixels in chunk])
            hidden, features = self._neck.see(pixels)
            found: list[Proposals] | None = None
            if first.phrases:
                found = self._detector.propose(hidden, first.phrases, first.position)
        return [
            FrameWork(each.stamp, each.position, each.phrases, features[n], found[n] if found else None)
            for n, (each, _) in enumerate(chunk)
        ]
