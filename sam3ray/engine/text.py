"""Every instance of some phrases, found and followed through a clip.

Frames are taken lazily and results leave `hotstart_delay` - 1 frames later, so that an object which turns out to be
spurious is shown on no frame at all: the behaviour of a whole-video run in constant memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from sam3ray.annotations import FrameAnnotations
from sam3ray.config import TrackingConfig
from sam3ray.engine.checkpoint import Checkpoint
from sam3ray.engine.detector import Detector, DetectorLike
from sam3ray.engine.lookahead import LookAhead
from sam3ray.engine.outputs import FrameMasks, finish
from sam3ray.engine.postprocess import DESCRIPTION
from sam3ray.engine.propagation import Propagation, Step, Tally
from sam3ray.engine.rules import Rules
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.vision import neck_of
from sam3ray.video import Frame

_FINISHING = 4  # frames whose masks are being finished while the model runs on


class TextEngine:
    """Segments clips by phrases. One clip at a time; nothing of a clip is left when it ends.

    Args:
        checkpoint: the loaded model.
        tracking: thresholds and batch sizes.
        detector: stands in for the checkpoint's own.

    Attributes:
        rules: the thresholds in force.
        tally: counts of the clip under way or ended last.

    Raises:
        ValueError: the thresholds contradict each other or the checkpoint's.
    """

    def __init__(
        self, checkpoint: Checkpoint, tracking: TrackingConfig | None = None, detector: DetectorLike | None = None
    ) -> None:
        tracking = tracking or TrackingConfig()
        self.rules = Rules.of(checkpoint.model.config, tracking)
        self.tally = Tally()
        self._checkpoint = checkpoint
        self._tracking = tracking
        self._neck = neck_of(checkpoint.model, folded=self.rules.published)
        self._own_detector = Detector(checkpoint, tracking.prompt_batch, tracking.geometry_token)
        self._detector = detector or self._own_detector

    @property
    def info(self) -> dict[str, Any]:
        """What to record with the annotations: rules, thresholds, post-processing, versions."""
        return {
            "rules": "published" if self.rules.published else "transformers",
            "thresholds": {name: value for name, value in asdict(self.rules).items() if name != "published"},
            "postprocessing": DESCRIPTION if self.rules.fill_hole_area else f"{DESCRIPTION}; hole filling is off",
            "torch": version("torch"),
            "transformers": version("transformers"),
        }

    def annotate(
        self, frames: Iterable[Frame], height: int, width: int, prompts: Sequence[str], first_object_id: int = 1
    ) -> Iterator[FrameAnnotations]:
        """As `segment`, with the phrases themselves in the rows."""
        phrases = tuple(dict.fromkeys(prompts))
        return (masks.annotations(phrases) for masks in self.segment(frames, height, width, phrases, first_object_id))

    def segment(
        self, frames: Iterable[Frame], height: int, width: int, prompts: Sequence[str], first_object_id: int = 1
    ) -> Iterator[FrameMasks]:
        """Segment one clip.

        Args:
            frames: of one size, in display order; read only as far ahead as needed.
            height, width: of the frames, in pixels.
            prompts: phrases; a repeated one counts once.
            first_object_id: ids count up from here, across phrases.

        Returns:
            One value per frame, in order; `prompts` in it are indices of the distinct phrases.

        Raises:
            UserError: a phrase is too long.
            ValueError: no phrase.
        """
        phrases = tuple(dict.fromkeys(prompts))
        if not phrases:
            raise ValueError("there must be at least one prompt, got none")
        self._own_detector.check(phrases)
        return self._segment(frames, height, width, phrases, first_object_id)

    def _segment(
        self, frames: Iterable[Frame], height: int, width: int, prompts: tuple[str, ...], first_object_id: int
    ) -> Iterator[FrameMasks]:
        checkpoint, tracking = self._checkpoint, self._tracking
        ahead = LookAhead(checkpoint, self._neck, self._detector, frames, prompts, tracking.frame_batch)
        tracker = Tracker(
            checkpoint.model,
            tracking.rules,
            tracking.object_batch,
            ahead.short_length,
            offload_state=tracking.offload_state,
            video_size=(height, width),
        )
        propagation = Propagation(tracker, self.rules, first_object_id)
        self.tally = propagation.tally

        with _Finisher(checkpoint, height, width) as finisher:
            held = _Held(self.rules.hotstart_delay)
            for work in ahead:
                with torch.inference_mode(), checkpoint.precision():
                    step = propagation.step(work, meanwhile=ahead.fill)
                del work
                for due, shown in held.push(step):
                    yield from finisher.push(due, shown)
            for due, shown in held.flush():
                yield from finisher.push(due, shown)
            yield from finisher.flush()


class _Held:
    """The frames held back, and the objects that hotstart removed while they were.

    Args:
        delay: frames held at most; the oldest leaves as soon as there are so many.
    """

    def __init__(self, delay: int) -> None:
        self._delay = delay
        self._steps: deque[Step] = deque()
        self._removed: deque[frozenset[int]] = deque()  # one per held frame, of that frame

    def push(self, step: Step) -> Iterator[tuple[Step, list[int]]]:
        self._steps.append(step)
        self._removed.append(step.removed if self._delay else frozenset())
        if len(self._steps) >= self._delay:
            yield self._pop()

    def flush(self) -> Iterator[tuple[Step, list[int]]]:
        while self._steps:
            yield self._pop()

    def _pop(self) -> tuple[Step, list[int]]:
        """The oldest frame, and the places of the objects to show on it.

        An object can only have been removed by a frame that is still held: removal takes less than `delay` frames
        from its first, and earlier removals left it out of this frame's result already.
        """
        gone = frozenset().union(*self._removed)
        step = self._steps.popleft()
        self._removed.popleft()
        ids = step.result.object_ids
        return step, [place for place, each in enumerate(ids) if each not in gone and each not in step.hidden]


class _Finisher(AbstractContextManager["_Finisher"]):
    """Makes final masks in a thread (and on a GPU in a stream) of its own, in order."""

    def __init__(self, checkpoint: Checkpoint, height: int, width: int) -> None:
        self._size = height, width
        self._pending: deque[Future[FrameMasks]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="finish-masks")
        on_gpu = checkpoint.device.type == "cuda"
        self._stream = torch.cuda.Stream(checkpoint.device) if on_gpu else None

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def push(self, step: Step, shown: list[int]) -> Iterator[FrameMasks]:
        self._pending.append(self._pool.submit(self._finish, step, shown))
        while self._pending and (len(self._pending) > _FINISHING or self._pending[0].done()):
            yield self._pending.popleft().result()

    def flush(self) -> Iterator[FrameMasks]:
        while self._pending:
            yield self._pending.popleft().result()

    def _finish(self, step: Step, shown: list[int]) -> FrameMasks:
        with torch.inference_mode(), torch.cuda.stream(self._stream) if self._stream else nullcontext():
            return finish(step.result, shown, *self._size)
