"""Labels a local video in one call, from a path to annotations. Needs no Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sam3ray.config import ModelConfig, TrackingConfig, VideoConfig
from sam3ray.failures import UserError
from sam3ray.model import Model
from sam3ray.prompts import describe, resolve_exemplars, resolve_prompts
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.exemplars import exemplar_problem, named_exemplars
from sam3ray.values.phrases import as_phrases
from sam3ray.values.prompts import ExemplarPrompt, VisualPrompt
from sam3ray.video import ClipFrames, VideoReader

if TYPE_CHECKING:
    from os import PathLike

    from sam3ray.engine.policy import Direction, Refine

Segmenter = Model


def segment_video(
    path: str | PathLike[str],
    prompts: str | Sequence[str] = (),
    *,
    exemplars: Sequence[ExemplarPrompt] = (),
    start_frame: int | None = None,
    direction: Direction = "forward",
    checkpoint: str | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    fps: float | None = None,
    model: Model | ModelConfig | None = None,
    tracking: TrackingConfig | None = None,
    limits: VideoConfig | None = None,
) -> Iterator[FrameAnnotations]:
    """Finds and follows every instance of some concepts in a local video.

    Args:
        path: a video file, or a folder of numbered JPEG, PNG or WebP frames.
        prompts: a phrase, or a list such as ["person", "red car"].
        exemplars: concepts shown by boxes around instances, alone or with a phrase.
        start_frame: index of the frame on which concepts are first looked for, and from which `direction` counts. None:
            the first frame, or the last if the direction is "backward", or with "both" the first frame of an exemplar.
        checkpoint: hub id or folder; `embedded` is the small one in the package. None: facebook/sam3.
        start_s, end_s: range in seconds from the video's start, end exclusive.
        fps: sample at this rate; None takes every frame.
        model: a loaded model (`sam3ray.load`), or how to load one; instead of `checkpoint`.

    Returns:
        One value per frame, in display order. Errors in the arguments are raised at once, by the call itself.

    Raises:
        ClipError: the video cannot be read.
        JobStopped: the checkpoint cannot be loaded.
        UserError: a phrase is too long, or arguments contradict each other.
        ValueError: there is no prompt, or an exemplar does not fit the video.
    """
    prompts = as_phrases(prompts)
    if direction == "both" and start_frame is None and not exemplars:
        raise UserError('direction is "both", but start_frame is absent: there is nothing before the first frame')
    _check_model(checkpoint, model, tracking)
    with ExitStack() as stack:
        if start_frame is None and direction == "forward" and not exemplars:
            reader = stack.enter_context(
                VideoReader(path, start_s=start_s, end_s=end_s, fps=fps, limits=limits or VideoConfig())
            )
            results = _loaded(checkpoint, model, tracking).segment(
                reader, reader.info.height, reader.info.width, prompts
            )
        else:
            source = ClipFrames(path, start_s=start_s, end_s=end_s, fps=fps, limits=limits or VideoConfig())
            shown = _resolved(exemplars, source)
            if direction == "both" and start_frame is None:
                start_frame = min(each.frame_index for each in shown)
            results = _loaded(checkpoint, model, tracking).segment(
                source,
                source.height,
                source.width,
                prompts,
                start_frame=start_frame,
                phrase_direction=direction,
                exemplars=shown,
            )
        return _closing(results, stack.pop_all())


def track_video(
    path: str | PathLike[str],
    visual_prompts: Sequence[VisualPrompt],
    *,
    prompts: str | Sequence[str] = (),
    exemplars: Sequence[ExemplarPrompt] = (),
    direction: Direction = "forward",
    refine: Refine = "onward",
    checkpoint: str | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    fps: float | None = None,
    model: Model | ModelConfig | None = None,
    tracking: TrackingConfig | None = None,
    limits: VideoConfig | None = None,
) -> Iterator[FrameAnnotations]:
    """Follows objects in a local video that are given by clicks, boxes and masks.

    Args:
        visual_prompts: several prompts of one object, also on several frames, refine it.
        prompts: phrases to look for as well, forward. Their objects get ids above those of the visual prompts.
        exemplars: concepts shown by boxes, looked for like phrases.
        direction: "forward" from each object's first prompt, "backward" from its last, or "both".
        refine: "onward": a later prompt changes the object from there on; "throughout": on all frames.

    The other arguments and the return value are the same as for `segment_video`.

    Raises:
        ValueError: there is no visual prompt, or one does not fit the video.
        ClipError, JobStopped, UserError: as `segment_video`.
    """
    prompts = as_phrases(prompts)
    _check_model(checkpoint, model, tracking)
    if not visual_prompts:
        raise ValueError("at least one visual prompt is required")
    source = ClipFrames(path, start_s=start_s, end_s=end_s, fps=fps, limits=limits or VideoConfig())
    resolved = resolve_prompts(visual_prompts, source.width, source.height, source.frame_at)
    return _loaded(checkpoint, model, tracking).segment(
        source,
        source.height,
        source.width,
        prompts,
        resolved,
        direction=direction,
        refine=refine,
        exemplars=_resolved(exemplars, source),
    )


def _resolved(exemplars: Sequence[ExemplarPrompt], source: ClipFrames) -> tuple[ExemplarPrompt, ...]:
    for each in named_exemplars(exemplars):
        if problem := exemplar_problem(each):
            raise ValueError(f"{describe(each)}: {problem}")
    return resolve_exemplars(named_exemplars(exemplars), source.width, source.height, source.frame_at)


def _check_model(checkpoint: str | None, model: Model | ModelConfig | None, tracking: TrackingConfig | None) -> None:
    if model is not None and checkpoint is not None:
        raise UserError(f"checkpoint is {checkpoint!r}, but model is given as well; pass only one of the two")
    if isinstance(model, Model) and tracking is not None:
        raise UserError("tracking cannot be changed for a loaded model; pass it to sam3ray.load(tracking=...)")


def _loaded(checkpoint: str | None, model: Model | ModelConfig | None, tracking: TrackingConfig | None) -> Model:
    if isinstance(model, Model):
        return model
    return Model(model or ModelConfig(checkpoint=checkpoint or "facebook/sam3"), tracking)


def _closing(results: Iterator[FrameAnnotations], stack: ExitStack) -> Iterator[FrameAnnotations]:
    with stack:
        yield from results
