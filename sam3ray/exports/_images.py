"""Extracts the exported frames of a clip as images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sam3ray.config import VideoConfig
from sam3ray.exports._folder import Folder
from sam3ray.exports._labels import ClipLabels
from sam3ray.failures import ClipError, Reason
from sam3ray.store import RunStore
from sam3ray.video import VideoCache, VideoReader

if TYPE_CHECKING:
    import numpy as np

    from sam3ray.values.clip import Clip

_JPEG_QUALITY = 95


def extract_images(
    store: RunStore, clip: Clip, labels: ClipLabels, name: Callable[[int, int], str], folder: Folder
) -> None:
    """Writes the exported frames as JPEGs, decoded once, in order.

    Args:
        name: returns an image's name from the frame's index and its place among the exported frames.
    """
    options, limits = store.storage.options, VideoConfig()
    wanted = set(labels.frames)
    with ExitStack() as resources:
        work = resources.enter_context(tempfile.TemporaryDirectory())
        cache = resources.enter_context(VideoCache(work, limits.cache_bytes, options, limits=limits))
        source = resources.enter_context(cache.open(clip.uri))
        reader = resources.enter_context(VideoReader(source, start_s=clip.start_s, end_s=clip.end_s, fps=clip.fps))
        for frame in reader:
            if frame.index in wanted:
                wanted.discard(frame.index)
                folder.bytes(name(frame.index, labels.place[frame.index]), _jpeg(frame.image))
            if not wanted:
                break
    if wanted:
        raise ClipError(Reason.UNREADABLE_VIDEO, f"frame {min(wanted)} is not in the video", f"frame {min(wanted)}")


def _jpeg(image: np.ndarray) -> bytes:
    import cv2

    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    return bytes(data.tobytes())
