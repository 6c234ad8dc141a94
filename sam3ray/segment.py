"""From frames to annotations: one loaded model, one clip after another. Works without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sam3ray.annotations import FrameAnnotations
from sam3ray.config import ModelConfig, TrackingConfig, VideoConfig
from sam3ray.engine.source import FrameSource, OnePass
from sam3ray.prompts import VisualPrompt, resolve_prompts
from sam3ray.video import ClipFrames, Frame, VideoReader

if TYPE_CHECKING:
    from os import PathLike

    from sam3ray.engine.visual import Direction, Refine


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
        from sam3ray.engine import load_checkpoint

        self._checkpoint = load_checkpoint(model)
        self._tracking = tracking or TrackingConfig()
        self._rung = -1
        self.set_memory_rung(0)
        self.model_info: dict[str, Any] = self._checkpoint.info | self._text.info

    @property
    def stats(self) -> dict[str, int]:
        return {"dropped_objects": self._text.tally.dropped}

    def set_memory_rung(self, rung: int) -> None:
        """Trades speed for memory in the clips to come.

        0 is the configuration's own; 2 works on one frame and an eighth of the objects at a time; 3
        also keeps what objects remember in host memory; 4 also asks for one phrase at a time. Batch
        shapes change the last bits of floating point numbers, so the rung belongs into a clip's metadata.
        """
        from sam3ray.engine import TextEngine, VisualEngine

        if rung == self._rung:
            return
        self._rung = rung
        tracking = self._tracking
        if rung >= 2:
            tracking = tracking.model_copy(
                update={
                    "frame_batch": 1,
                    "object_batch": max(1, tracking.object_batch // 8),
                    "offload_state": tracking.offload_state or rung >= 3,
                    "prompt_batch": 1 if rung >= 4 else tracking.prompt_batch,
                }
            )
        self._text = TextEngine(self._checkpoint, tracking)
        self._visual = VisualEngine(self._checkpoint, tracking)

    def segment(
        self,
        frames: Iterable[Frame] | FrameSource,
        height: int,
        width: int,
        prompts: Sequence[str] = (),
        visual_prompts: Sequence[VisualPrompt] = (),
        *,
        direction: Direction | None = None,
        refine: Refine | None = None,
        start_frame: int | None = None,
        progress: Callable[[], None] | None = None,
    ) -> Iterator[FrameAnnotations]:
        """Labels one clip.

        Args:
            frames: of one size, in display order, read only as far ahead as needed. A `FrameSource`
                (`sam3ray.video.ClipFrames`) where they are looked at more than once: for phrases
                and visual prompts together, backward, or `refine="throughout"`.
            height, width: of the frames, in pixels.
            prompts: phrases; every instance of each is found and followed.
            visual_prompts: clicks, boxes and masks, resolved (`sam3ray.prompts.resolve_prompts`);
                their objects keep their ids, and those of phrases count up from above them.
            direction, refine: of the visual prompts (see `sam3ray.engine.visual`); None takes the
                configuration's.
            start_frame: index of the frame on which phrases are first looked for; `direction` then holds
                for them, too. None: from the first frame on.
            progress: called after each frame that was worked on: what is found backward comes late.

        Yields:
            One value per frame, in order. With phrases some frames late: a new object is watched
            for `hotstart_delay` frames before it is believed.

        Raises:
            ValueError: neither phrases nor visual prompts, or visual prompts that do not fit.
            UserError: a phrase is too long.
        """
        first_text_id = max((each.object_id for each in visual_prompts), default=0) + 1
        if not visual_prompts and start_frame is None:
            return self._text.annotate(_once(frames), height, width, prompts, first_text_id)
        source = frames if isinstance(frames, FrameSource) else OnePass(frames, height, width)
        way = direction or self._tracking.direction
        named = self._named(source, prompts, first_text_id, start_frame, way, progress) if prompts else None
        if not visual_prompts and named is not None:
            return named
        pointed = self._visual.annotate(
            source, visual_prompts, direction=way, refine=refine or self._tracking.refine, progress=progress
        )
        return pointed if named is None else _joined(pointed, named)

    def _named(
        self,
        source: FrameSource,
        prompts: Sequence[str],
        first_object_id: int,
        start_frame: int | None,
        direction: Direction,
        progress: Callable[[], None] | None,
    ) -> Iterator[FrameAnnotations]:
        """The objects that phrases find."""
        from sam3ray.engine.text_direction import segment_from

        if start_frame is None:
            return self._text.annotate(source.read(), source.height, source.width, prompts, first_object_id)
        phrases = tuple(dict.fromkeys(prompts))
        results = segment_from(
            self._text, source, phrases, start_frame, direction, first_object_id, progress or (lambda: None)
        )
        return (masks.annotations(phrases) for masks in results)


def _once(frames: Iterable[Frame] | FrameSource) -> Iterable[Frame]:
    return frames.read() if isinstance(frames, FrameSource) else frames


def _joined(pointed: Iterator[FrameAnnotations], named: Iterator[FrameAnnotations]) -> Iterator[FrameAnnotations]:
    """Both kinds of objects of each frame; the ids of the first are all below those of the second."""
    for first, second in zip(pointed, named, strict=True):
        if first.frame_index != second.frame_index:
            raise RuntimeError(
                f"the clip changed between two readings: frame {first.frame_index}, {second.frame_index}"
            )
        yield replace(first, objects=first.objects + second.objects)


def segment_video(
    path: str | PathLike[str],
    prompts: Sequence[str],
    *,
    start_frame: int | None = None,
    direction: Direction = "forward",
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
        path: a video file, or a folder of numbered JPEG, PNG or WebP frames.
        prompts: phrases such as "person" or "red car".
        start_frame: index of the frame on which they are first looked for, and from which `direction`
            says where to go; None: from the first frame on.
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
    if start_frame is not None:
        source = ClipFrames(path, start_s=start_s, end_s=end_s, fps=fps, limits=limits or VideoConfig())
        yield from segmenter.segment(
            source, source.height, source.width, prompts, direction=direction, start_frame=start_frame
        )
        return
    with VideoReader(path, start_s=start_s, end_s=end_s, fps=fps, limits=limits or VideoConfig()) as reader:
        yield from segmenter.segment(reader, reader.info.height, reader.info.width, prompts)


def track_video(
    path: str | PathLike[str],
    visual_prompts: Sequence[VisualPrompt],
    *,
    prompts: Sequence[str] = (),
    direction: Direction = "forward",
    refine: Refine = "onward",
    checkpoint: str = "facebook/sam3",
    start_s: float | None = None,
    end_s: float | None = None,
    fps: float | None = None,
    model: ModelConfig | None = None,
    tracking: TrackingConfig | None = None,
    limits: VideoConfig | None = None,
) -> Iterator[FrameAnnotations]:
    """Follows the objects that clicks, boxes and masks point out in a local video.

    Args:
        visual_prompts: several per object, and on several frames, refine it.
        prompts: phrases to look for besides; their objects' ids count up from above the prompted ones'.
        direction: "forward" from each object's first prompt, "backward" from its last, or "both".
        refine: "onward": a later prompt changes the object from there on; "throughout": everywhere.

    The other arguments, and what is yielded, are those of `segment_video`.

    Raises:
        ValueError: a prompt does not fit the video.
        ClipError, JobStopped, UserError: as `segment_video`.
    """
    segmenter = Segmenter(model or ModelConfig(checkpoint=checkpoint), tracking)
    source = ClipFrames(path, start_s=start_s, end_s=end_s, fps=fps, limits=limits or VideoConfig())
    resolved = resolve_prompts(visual_prompts, source.width, source.height, source.frame_at)
    yield from segmenter.segment(
        source, source.height, source.width, prompts, resolved, direction=direction, refine=refine
    )
