"""Renders annotated videos: the source with masks, boxes and `id prompt score` labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import chain

import cv2
import numpy as np

from sam3ray.config import RenderConfig, VideoConfig
from sam3ray.rendering._drawing import drawn_objects
from sam3ray.rendering._overlay import DrawnObject, draw_objects
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.clip import Clip
from sam3ray.video import Sampler, VideoReader, VideoSource, VideoWriter


def render_clip(
    source: VideoSource,
    annotations: Iterable[FrameAnnotations],
    output: str | os.PathLike[str],
    clip: Clip,
    config: RenderConfig | None = None,
    limits: VideoConfig | None = None,
    progress: Callable[[], None] = lambda: None,
) -> int:
    """Writes the annotated video of one clip. Returns its number of frames.

    The video shows the labelled frames at their own times, with the source's sound, and lasts as long as the clip: in a
    clip sampled at 5 frames a second, each frame is shown for a fifth of a second. With `config.every_frame` it shows
    every source frame of the range; frames between two samples have the annotations of the earlier one. Frames and
    annotations are processed one at a time, so memory does not grow with the video.

    The complete output appears when this returns. If it raises or the process dies, nothing is left.

    Args:
        source: video file or folder of frames.
        annotations: this clip's annotations, by ascending frame index; frames without objects may be missing.
        output: local .mp4 file to create or replace.
        progress: called after each frame.

    Raises:
        ClipError: see `VideoReader`; also unreadable_video if the source does not have the annotated size.
    """
    config, limits = config or RenderConfig(), limits or VideoConfig()
    upcoming = _Upcoming(annotations)
    rate = clip.fps or limits.fps
    shown_rate = None if config.every_frame else rate
    frames = 0
    with VideoReader(source, start_s=clip.start_s, end_s=clip.end_s, fps=shown_rate, limits=limits) as video:
        info = video.info
        width, height = _output_size(info.width, info.height, config.max_height)
        sampler = Sampler(info.time_base, clip.start_s, clip.end_s, rate)
        usual_rate = info.fps or Fraction(30)
        objects: list[DrawnObject] = []
        images = iter(video)
        first = next(images)
        with VideoWriter(
            output,
            width,
            height,
            info.time_base,
            usual_rate if shown_rate is None else min(usual_rate, Fraction(shown_rate)),
            pixel_aspect=info.pixel_aspect,
            audio_from=source if info.has_audio else None,
            audio_start_s=first.time_s,
            audio_end_s=clip.end_s,
        ) as writer:
            for frame in chain((first,), images):
                if not config.every_frame or sampler.wants(round(Fraction(frame.time_s) / info.time_base)):
                    found = upcoming.at(frame.index)
                    objects = [] if found is None else _prepare(found, frame.image.shape, width, height, clip)
                image = frame.image
                if image.shape[:2] != (height, width):
                    image = _scaled(image, width, height, cv2.INTER_AREA)
                draw_objects(image, objects)
                writer.write(image, frame.pts)
                frames += 1
                progress()
            ends_s = Fraction(video.reached_s - first.time_s) + 1 / usual_rate
            writer.show_until(first.pts + round(ends_s / info.time_base))
    return frames


class _Upcoming:
    """Looks up annotations by frame index, going forward only."""

    def __init__(self, annotations: Iterable[FrameAnnotations]) -> None:
        self._rest = iter(annotations)
        self._next = next(self._rest, None)

    def at(self, frame_index: int) -> FrameAnnotations | None:
        while self._next is not None and self._next.frame_index < frame_index:
            self._next = next(self._rest, None)
        return self._next if self._next is not None and self._next.frame_index == frame_index else None


def _output_size(width: int, height: int, max_height: int | None) -> tuple[int, int]:
    if max_height is None or height <= max_height:
        return width, height
    return max(2, round(width * max_height / height)), max_height


def _scaled(image: np.ndarray, width: int, height: int, interpolation: int) -> np.ndarray:
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)


def _prepare(found: FrameAnnotations, shape: tuple[int, ...], width: int, height: int, clip: Clip) -> list[DrawnObject]:
    found.check_source(shape, clip.uri)
    return drawn_objects(found.objects, (found.height, found.width), (height, width))
