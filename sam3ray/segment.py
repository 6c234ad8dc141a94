"""From frames to annotations: one loaded model, one clip after another. Works without Ray."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sam3ray.annotations import FrameAnnotations
from sam3ray.config import ModelConfig, TrackingConfig, VideoConfig
from sam3ray.video import Frame, VideoReader

if TYPE_CHECKING:
    from os import PathLike


class Segmenter:
    """A loaded model that labels clips. Load once, use for many clips, one at a time.

    Attributes:
        model_info: what the model is: checkpoint, revision, dtype, device, rules, thresholds.
        stats: of the clip under way or ended last: `dropped_objects` counts the objects that
            `tracking.max_num_objects` left no room for.
    """

    def __init__(self, model: ModelConfig, tracking: TrackingConfig | None = None) -> None:
        """Loads the checkpoint onto its device.

        Raises:
            JobStopped: it cannot be loaded; the message says what to do.
        """
        from sam3ray.engine import TextEngine, load_checkpoint

        checkpoint = load_checkpoint(model)
        self._text = TextEngine(checkpoint, tracking)
        self.model_info: dict[str, Any] = checkpoint.info | self._text.info

    @property
    def stats(self) -> dict[str, int]:
        return {"dropped_objects": self._text.tally.dropped}

    def segment(
        self,
        frames: Iterable[Frame],
        height: int,
        width: int,
        prompts: Sequence[str] = (),
    ) -> Iterator[FrameAnnotations]:
        """Labels one clip.

        Args:
            frames: of one size, in display order; read only as far ahead as needed.
            height, width: of the frames, in pixels.
            prompts: phrases; every instance of each is found and followed.

        Yields:
            One value per frame, in order, some frames late: a new object is watched for
            `hotstart_delay` frames before it is believed.
        """
        return self._text.annotate(frames, height, width, prompts)


def segment_video(
    path: str | PathLike[str],
    prompts: Sequence[str],
    *,
    checkpoint: str = "facebook/sam3",
    start_s: float | None = None,
    end_s: float | None = None,
    fps: float | None = None,
    model: ModelConfig | None = None,
    tracking: TrackingConfig | None = None,
    limits: VideoConfig | None = None,
) -> Iterator[FrameAnnotations]:
    """Finds and follows every instance of some phrases in a local video.

    Args:
        path: a video file, or a folder of numbered JPEG or PNG frames.
        prompts: phrases such as "person" or "red car".
        checkpoint: hub id or folder; `embedded` is the tiny one in the package. Ignored where `model` is given.
        start_s, end_s: range in seconds from the video's start, end exclusive.
        fps: sample at this rate; None takes every frame.

    Yields:
        One value per frame, in display order.

    Raises:
        ClipError: the video cannot be read.
        JobStopped: the checkpoint cannot be loaded.
        UserError: a phrase is too long.
    """
    segmenter = Segmenter(model or ModelConfig(checkpoint=checkpoint), tracking)
    with VideoReader(path, start_s=start_s, end_s=end_s, fps=fps, limits=limits or VideoConfig()) as reader:
        yield from segmenter.segment(reader, reader.info.height, reader.info.width, prompts)
