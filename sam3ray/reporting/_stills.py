"""Makes contact sheets: some frames of a clip, with their masks drawn on the source video."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sam3ray.config import VideoConfig
from sam3ray.rendering import draw
from sam3ray.reporting._facts import Still
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import read_frames
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.clip import Clip
from sam3ray.video import VideoCache, frames_at

STILLS = 6
_HEIGHT = 200
_WIDTH = 420
_QUALITY = 74


@dataclass(frozen=True)
class StillsOrder:
    """The settings for making stills, sent to each process."""

    store: RunStore
    storage: Mapping[str, Any]
    video: VideoConfig
    count: int = STILLS


def stills_of(order: StillsOrder, clip: Clip, suspect: int | None) -> list[Still]:
    """Stills of a clip in ascending order, spread over its annotated frames and including the suspect frame.

    Decodes only the parts of the video around those frames.

    Raises:
        ClipError: the video cannot be read, or has changed since it was annotated.
    """
    chosen = _chosen(list(read_frames(order.store.read_clip(clip.clip_id))), order.count, suspect)
    limits = order.video
    found = []
    with (
        VideoCache(limits.cache_dir, limits.cache_bytes, order.storage, limits=limits) as cache,
        cache.open(clip.uri) as source,
    ):
        for frame, image in _images(source, chosen, limits):
            frame.check_source(image.shape, clip.uri)
            is_suspect = frame.frame_index == suspect
            found.append(Still(frame.frame_index, frame.time_s, _jpeg(draw(_scaled(image), frame)), is_suspect))
    return found


def _chosen(frames: Sequence[FrameAnnotations], count: int, suspect: int | None) -> list[FrameAnnotations]:
    if len(frames) <= count:
        return list(frames)
    places = {round(k * (len(frames) - 1) / (count - 1)) for k in range(count)} if count > 1 else {len(frames) // 2}
    marked = next((place for place, frame in enumerate(frames) if frame.frame_index == suspect), None)
    if marked is not None and marked not in places:
        places.remove(min(places, key=lambda place: (abs(place - marked), place)))
        places.add(marked)
    return [frames[place] for place in sorted(places)]


def _images(
    source: Path, frames: Sequence[FrameAnnotations], limits: VideoConfig
) -> Iterator[tuple[FrameAnnotations, np.ndarray]]:
    wanted = [(frame.frame_index, frame.time_s) for frame in frames]
    for frame, found in zip(frames, frames_at(source, wanted, limits), strict=True):
        yield frame, found.image


def _scaled(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    factor = min(1.0, _HEIGHT / height, _WIDTH / width)
    if factor == 1.0:
        return image
    size = max(2, round(width * factor)), max(2, round(height * factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg(image: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=_QUALITY, optimize=True)
    return data.getvalue()
