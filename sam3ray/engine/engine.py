"""A loaded model with its rules: labels whole clips, and has what the sessions of all clips share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch

from sam3ray.config import TrackingConfig
from sam3ray.engine.checkpoint import Checkpoint
from sam3ray.engine.detector import Detector, DetectorLike
from sam3ray.engine.ids import Ids
from sam3ray.engine.postprocess import DESCRIPTION
from sam3ray.engine.propagation import Propagation
from sam3ray.engine.recorder import Recorder
from sam3ray.engine.rules import Rules
from sam3ray.engine.session import Session
from sam3ray.engine.source import FrameSource, OnePass
from sam3ray.engine.tally import Tally
from sam3ray.engine.tracker import Tracker
from sam3ray.engine.versions import version_of
from sam3ray.engine.vision import neck_of
from sam3ray.engine.walk import Walk, Wanted
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.prompts import VisualPrompt
from sam3ray.video import Frame


class Engine:
    """Labels clips, one at a time. Nothing of a clip stays when it ends.

    Args:
        detector: stands in for the checkpoint's own.

    Attributes:
        counted: the current or last clip, or window of a clip.

    Raises:
        ValueError: the thresholds contradict each other or the checkpoint's.
    """

    def __init__(
        self, checkpoint: Checkpoint, tracking: TrackingConfig | None = None, detector: DetectorLike | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.tracking = tracking or TrackingConfig()
        self.rules = Rules.of(checkpoint.model.config, self.tracking)
        self.neck = neck_of(checkpoint.model, folded=self.rules.published)
        self._own_detector = Detector(checkpoint, self.tracking.prompt_batch, self.tracking.geometry_token)
        self.detector = detector or self._own_detector
        self.counted: Walk | Session | None = None

    @property
    def info(self) -> dict[str, Any]:
        """What to record with the annotations: rules, thresholds, post-processing, versions."""
        return {
            "rules": "published" if self.rules.published else "transformers",
            "thresholds": {name: value for name, value in asdict(self.rules).items() if name != "published"},
            "postprocessing": DESCRIPTION if self.rules.fill_hole_area else f"{DESCRIPTION}; hole filling is off",
            "torch": version_of("torch"),
            "transformers": version_of("transformers"),
        }

    @cached_property
    def weights(self) -> str:
        """A digest that distinguishes these weights from others: names, shapes and first values of every parameter."""
        digest, first = hashlib.sha256(), []
        for name, parameter in self.checkpoint.model.named_parameters():
            digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
            first.append(parameter.detach().flatten()[:8].float())
        digest.update(torch.cat(first).cpu().numpy().tobytes())
        return digest.hexdigest()

    @property
    def tally(self) -> Tally:
        """Counts for the current or last clip, or window of a clip."""
        return self.counted.tally if self.counted is not None else Tally()

    def annotate(
        self,
        frames: Iterable[Frame] | FrameSource,
        height: int,
        width: int,
        phrases: Sequence[str] = (),
        visual: Sequence[VisualPrompt] = (),
        *,
        progress: Callable[[], None] | None = None,
        recorder: Recorder | None = None,
        **how: Any,
    ) -> Iterator[FrameAnnotations]:
        """Labels one clip.

        Args:
            frames: of one size, in display order; read only as far ahead as needed. Must be a `FrameSource` if frames
                are needed more than once: backward, or with `refine="throughout"`.
            height, width: of the frames, in pixels.
            progress, recorder: see `walk.Walk`.
            how: the other fields of `walk.Wanted`.

        Returns:
            One value per frame, in display order.

        Raises:
            ValueError, UserError, ClipError: see `walk.Walk`; also if the frames can be read only once. Later also
                ClipError (empty_range), if the frame of a prompt is not among those read.
        """
        source = frames if isinstance(frames, FrameSource) else OnePass(frames, height, width)
        self.counted = walk = Walk(self, source, Wanted(phrases, visual, **how), progress, recorder)
        return walk.results()

    def check_phrases(self, phrases: Sequence[str]) -> None:
        """Raises UserError if a phrase is longer than the text encoder takes."""
        self._own_detector.check(phrases)

    def tracker(self, size: tuple[int, int], num_frames: int | None) -> Tracker:
        """A new tracker for one clip with frames of (height, width). The clip's length matters only below 16."""
        tracking = self.tracking
        return Tracker(
            self.checkpoint.model,
            tracking.rules,
            tracking.object_batch,
            num_frames,
            offload_state=tracking.offload_state,
            memory_frames=self.rules.memory_frames,
            video_size=size,
        )

    def propagation(self, size: tuple[int, int], num_frames: int | None, ids: Ids) -> Propagation:
        return Propagation(self.tracker(size, num_frames), self.rules, ids)
