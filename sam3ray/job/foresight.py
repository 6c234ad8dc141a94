"""Predicts the number of a clip's parallel windows before it is opened, so that enough actors load a model."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from sam3ray.config import JobConfig
from sam3ray.failures import JobStopped
from sam3ray.planning import parallel_windows, probe_all
from sam3ray.store import RunStore
from sam3ray.store.cut_clip import windows_done
from sam3ray.values.clip import Clip
from sam3ray.video import VideoInfo

_LOG = logging.getLogger(__name__)

HANG_S = 60.0  # the limit for reading headers; further videos are skipped


def foresee(
    clips: Sequence[Clip], config: JobConfig, store: RunStore, told: Callable[[Mapping[int, int]], None]
) -> None:
    """Reads the headers of the clips' videos in a thread, and calls `told` there once if any clip will be cut."""

    def look() -> None:
        try:
            found = windows_expected(clips, config, store)
        except JobStopped as error:
            _LOG.info("which clips will be cut is only known once they are opened: %s", error)
        else:
            if found:
                told(found)

    threading.Thread(target=look, name="sam3ray-foresight", daemon=True).start()


def windows_expected(clips: Sequence[Clip], config: JobConfig, store: RunStore) -> dict[int, int]:
    """For each clip that will be cut according to its header: its index, and its windows still to be done."""
    facts = probe_all(
        list(dict.fromkeys(clip.uri for clip in clips)), config.video, config.storage, processes=1, hang_s=HANG_S
    )
    kept = windows_done(store.storage)
    found = {}
    for index, clip in enumerate(clips):
        about = facts[clip.uri]
        windows = parallel_windows(clip, about, config) if isinstance(about, VideoInfo) else 0
        if windows:
            found[index] = max(1, windows - kept.get(clip.clip_id, 0))
    return found
