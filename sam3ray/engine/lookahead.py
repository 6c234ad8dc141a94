"""The part of a frame's work that does not depend on earlier frames: vision backbone, detector, tracker features.

It runs one batch of frames ahead of the tracker, on a GPU two. This keeps the device busy while Python decides about
the frame before. A thread prepares the frames' images meanwhile: on a GPU it copies each frame into pinned memory and
resizes it in a stream of its own, which the model's stream waits for, but not the launching thread. No more images are
held than the session's lag.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

import torch

from sam3ray.engine.beside import Beside
from sam3ray.engine.checkpoint import Checkpoint
from sam3ray.engine.concepts import Asked
from sam3ray.engine.detector import DetectorLike, Proposals
from sam3ray.engine.frames import Preprocessor
from sam3ray.engine.transfer import mark
from sam3ray.engine.vision import FrameFeatures, Sight, TrackerNeck
from sam3ray.video import Frame, FrameStamp

_Image = tuple[torch.Tensor, torch.cuda.Event | None]  # (1, 3, size, size), and when another stream may read it

LENGTH_HORIZON = 16  # clips shorter than this are tracked with fewer object pointers, so the length must be known


@dataclass(frozen=True, eq=False)
class FrameWork:
    """One frame, ready for the tracker.

    Attributes:
        position: counted from 0, the first frame on which phrases were looked for.
        phrases: what was looked for, by phrase or exemplar, in the order of `proposals`.
        features: None if the frame is not looked at.
        proposals: None if nothing is looked for.
        is_first: whether it is the first of the frames that went through the backbone together.
    """

    stamp: FrameStamp
    position: int
    phrases: tuple[Asked, ...] = ()
    features: FrameFeatures | None = None
    proposals: Proposals | None = None
    is_first: bool = True


class LookAhead:
    """A queue of a clip's frames: pushed as they come, popped in order.

    Args:
        batch: frames per call of the backbone.
        at_once: prepare a frame when it is pushed, not in a separate thread.
        sight: shared with other sessions on the same frame.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        neck: TrackerNeck,
        detector: DetectorLike,
        batch: int,
        *,
        at_once: bool = False,
        sight: Sight | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._see = neck.see if sight is None else partial(sight.see, neck)
        self._detector = detector
        self._batch = batch
        self._preprocess = Preprocessor(checkpoint)
        self._beside = Beside(checkpoint.device, "prepare-frames", at_once=at_once)
        self._waiting: deque[tuple[FrameWork, Future[_Image] | None]] = deque()
        self._ready: deque[FrameWork] = deque()
        # On CUDA one more batch is in flight. Its scores are on the host when needed, because waiting for the frame
        # before it included them.
        self._enough = 1 + (batch if checkpoint.device.type == "cuda" else 0)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._ready)

    @property
    def is_between_batches(self) -> bool:
        return not self._ready or self._ready[0].is_first

    def push(self, frame: Frame, position: int, phrases: tuple[Asked, ...], *, is_looked_at: bool = True) -> None:
        """Adds the next frame, with the phrases to look for on it."""
        image = self._beside.submit(partial(self._prepare, frame)) if is_looked_at else None
        self._waiting.append((FrameWork(FrameStamp.of(frame), position, phrases), image))

    def clear(self) -> None:
        """Drops frames that were pushed but not popped."""
        self._beside.close()
        self._waiting.clear()
        self._ready.clear()

    def pop(self) -> FrameWork:
        self.fill()
        return self._ready.popleft()

    def fill(self) -> None:
        """Starts the next frames, unless enough are in flight."""
        if len(self._ready) >= self._enough or not self._waiting:
            return
        first, image = self._waiting[0]
        if image is None:
            self._waiting.popleft()
            self._ready.append(first)
            return
        chunk: list[tuple[FrameWork, Future[_Image]]] = []
        while self._waiting and len(chunk) < self._batch:
            work, image = self._waiting[0]
            if image is None or work.phrases != first.phrases:
                break
            chunk.append((work, image))
            self._waiting.popleft()
        self._ready.extend(self._run(chunk))

    def _prepare(self, frame: Frame) -> _Image:
        try:
            image = self._preprocess(frame)
        except Exception as error:
            # It surfaces some frames later in another thread. Its kind decides the reason; the note tells the place.
            error.add_note(f"while frame {frame.index} was prepared for the model")
            raise
        return image, None if self._beside.stream is None else mark(image.device)

    @torch.inference_mode()
    def _run(self, chunk: list[tuple[FrameWork, Future[_Image]]]) -> list[FrameWork]:
        first = chunk[0][0]
        images = [_in_turn(*image.result()) for _, image in chunk]
        with self._checkpoint.precision():
            pixels = images[0] if len(images) == 1 else torch.cat(images)
            hidden, features = self._see(pixels)
            found: list[Proposals] | None = None
            if first.phrases:
                found = self._detector.propose(hidden, first.phrases, first.position)
        return [
            replace(work, features=features[n], proposals=found[n] if found else None, is_first=n == 0)
            for n, (work, _) in enumerate(chunk)
        ]


def _in_turn(image: torch.Tensor, ready: torch.cuda.Event | None) -> torch.Tensor:
    if ready is not None:
        stream = torch.cuda.current_stream(image.device)
        ready.wait(stream)
        image.record_stream(stream)
    return image
