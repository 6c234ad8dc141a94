"""Estimates what is gained by cutting long clips into windows for several actors (`windows.mode: parallel`)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sam3ray.config import JobConfig
from sam3ray.planning._foresight import foreseen, work_of
from sam3ray.planning._sequential import sequential_reason
from sam3ray.values.clip import Clip
from sam3ray.values.cutting import cuts
from sam3ray.video import VideoInfo

# The published checkpoint's values, because a plan loads no checkpoint. Others move the cuts by a few frames.
HOTSTART_DELAY = 15
RECONDITION_EVERY = 16
# Frames that a window processes after its overlap, including those that make the last rows final. How long a window
# runs on for objects that it does not show depends on the video. Measured on clips whose objects often leave and come
# back (`python -m benchmarks.stitching`), so most videos need fewer.
RUN_ON = 80


@dataclass(frozen=True)
class Sharing:
    """The job with and without cutting clips, assuming that `cluster.actors.max` actors are always busy.

    Attributes:
        mode: `windows.mode` of the configuration.
        clips: clips to do that would be cut.
        windows: total number of their windows.
        extra_frames: frames that two windows process: the overlap, and about `RUN_ON` after it.
        whole_hours: duration of the job if every clip stays in one piece; None if no speed is known.
        cut_hours: duration of the job if long clips are cut; None if no speed is known.
    """

    mode: str
    clips: int
    windows: int
    extra_frames: int
    whole_hours: float | None
    cut_hours: float | None


@dataclass
class Loads:
    """The job's pieces of work in seconds, gathered clip by clip; in frames if no speed is known.

    Attributes:
        whole: each clip that stays in one piece.
        long: each clip that would be cut: (the whole clip, its windows).
    """

    whole: list[float] = field(default_factory=list)
    long: list[tuple[float, list[float]]] = field(default_factory=list)
    extra_frames: int = 0

    def add(self, frames: int, seconds: float, config: JobConfig, *, sequential: bool) -> int:
        """Adds one clip. Returns the number of windows that it would be cut into, 0 if it stays whole."""
        windows = () if sequential else windows_of_clip(frames, config)
        if not windows:
            self.whole.append(seconds)
            return 0
        self.long.append((seconds, [seconds * each / frames for each in windows]))
        self.extra_frames += sum(windows) - frames
        return len(windows)

    def sharing(self, config: JobConfig, scale: float, *, timed: bool) -> Sharing:
        """Sums up. `scale` is the number of clips to do for each clip probed."""
        actors = config.cluster.actors.max
        pieces = [piece for _, windows in self.long for piece in windows]
        whole = _ends([*self.whole, *(seconds for seconds, _ in self.long)], actors, scale) if timed else None
        cut = _ends([*self.whole, *pieces], actors, scale) if timed else None
        return Sharing(
            config.windows.mode,
            round(scale * len(self.long)),
            round(scale * len(pieces)),
            round(scale * self.extra_frames),
            None if whole is None else whole / 3600,
            None if cut is None else cut / 3600,
        )


def windows_of_clip(frames: int, config: JobConfig) -> Sequence[int]:
    """Frames that each window of a clip would process, about; empty if the clip stays in one piece."""
    windows, tracking = config.windows, config.tracking
    every = tracking.detect_every
    delay = HOTSTART_DELAY if tracking.hotstart_delay is None else tracking.hotstart_delay
    recondition = tracking.recondition_every_nth_frame or RECONDITION_EVERY
    found = cuts(frames, windows.frames, windows.overlap, delay * every, math.lcm(recondition, every))
    most = [min(each.reach + each.end - each.until, frames) for each in found]
    return [max(each.end, min(each.until + RUN_ON, end)) - each.start for each, end in zip(found, most, strict=True)]


def parallel_windows(clip: Clip, facts: VideoInfo, config: JobConfig) -> int:
    """How many windows a clip will be cut into, according to its video's headers; 0 if none, or unknown."""
    work = None if foreseen(clip, facts, config) or sequential_reason(clip, config) else work_of(clip, facts, config)
    return len(windows_of_clip(work[0], config)) if work is not None else 0


def _ends(pieces: Iterable[float], actors: int, scale: float) -> float:
    """When the last piece ends if the longest start first; a rough figure for `scale` times as many pieces."""
    ordered = sorted(pieces, reverse=True)
    if not ordered:
        return 0.0
    if scale > 1:
        return max(ordered[0], scale * math.fsum(ordered) / actors)
    busy = [0.0] * min(actors, len(ordered))
    for piece in ordered:
        heapq.heapreplace(busy, busy[0] + piece)
    return max(busy)
