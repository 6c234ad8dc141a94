"""Estimates cheaply how long clips will take, so that the longest go first."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sam3ray.config import JobConfig
from sam3ray.files import is_local, local_path
from sam3ray.values.clip import Clip
from sam3ray.video import video_size

BYTES_PER_S = 500_000  # of an ordinary video; only the order depends on it
BUDGET_S = 10.0  # limit on the time for requests to remote stores
THREADS = 32
ASK_AT_MOST = 20_000  # limit on their number


def lengths_of(clips: Sequence[Clip], config: JobConfig) -> list[float]:
    """Seconds of video to process, sampling included, as far as known.

    From the clip's range, else from the size of its file; asking a remote store for sizes takes at most `BUDGET_S`. A
    clip of unknown length counts as average: a wrong order only costs a little time at the end of the job.
    """
    sizes: dict[str, float | None] = {}
    remote: list[str] = []
    for clip in clips:
        if clip.end_s is None and clip.uri not in sizes:
            sizes[clip.uri] = _local_size(clip.uri) if is_local(clip.uri) else None
            if not is_local(clip.uri) and len(remote) < ASK_AT_MOST:
                remote.append(clip.uri)
    sizes |= _remote_sizes(remote, config)
    found = [_length(clip, sizes.get(clip.uri), config.video.fps) for clip in clips]
    known = sorted(length for length in found if length is not None)
    middle = known[len(known) // 2] if known else 0.0
    return [middle if length is None else length for length in found]


def _length(clip: Clip, size: float | None, fps: float | None) -> float | None:
    start = clip.start_s or 0.0
    if clip.end_s is not None:
        seconds = clip.end_s - start
    elif size is not None:
        seconds = max(0.0, size / BYTES_PER_S - start)
    else:
        return None
    rate = clip.fps or fps
    return seconds * min(1.0, rate / 30.0) if rate else seconds


def _local_size(uri: str) -> float | None:
    path = local_path(uri)
    try:
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                # A folder of frames: each counts as a thirtieth of a second.
                return sum(1 for _ in entries) / 30.0 * BYTES_PER_S
        return float(os.path.getsize(path))
    except OSError:
        return None  # running the clip will report what is wrong


def _remote_sizes(uris: Sequence[str], config: JobConfig) -> dict[str, float | None]:
    deadline = time.monotonic() + BUDGET_S

    def ask(uri: str) -> float | None:
        if time.monotonic() > deadline:
            return None
        try:
            return video_size(uri, config.storage, config.video)
        except Exception:  # noqa: BLE001 - the order of the clips is all that depends on it; running the clip will tell
            return None

    if not uris:
        return {}
    with ThreadPoolExecutor(THREADS, "sam3ray-sizes") as pool:
        return dict(zip(uris, pool.map(ask, uris), strict=True))
