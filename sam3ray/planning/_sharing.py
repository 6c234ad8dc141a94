"""What it would bring to cut long clips into windows that several actors work on at once (`windows.mode: parallel`)."""

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

# Of the published checkpoint; a plan loads none. Another one moves the cuts by a few frames.
HOTSTART_DELAY = 15
RECONDITION_EVERY = 16


@dataclass(frozen=True)
class Sharing:
    """In one piece or cut, with `cluster.actors.max` actors all the time.

    Attributes:
        mode: of the configuration.
        clips: to do that would be cut, and into how many `windows` in all.
        extra_frames: that are worked on twice, or to make the last rows of a window final.
        whole_hours: until the job ends, if every clip stays in one piece; None where no speed is known.
        cut_hours: likewise, if they are cut.
    """

    mode: str
    clips: int
    windows: int
    extra_frames: int
    whole_hours: float | None
    cut_hours: float | None


@dataclass
class Loads:
    """The pieces of work of a job, in seconds, gathered clip by clip; frames where no speed is known.

    Attributes:
        whole: clips that stay in one piece.
        long: clips that would be cut: in one piece, and its windows.
    """

    whole: list[float] = field(default_factory=list)
    long: list[tuple[float, list[float]]] = field(default_factory=list)
    extra_frames: int = 0

    def add(self, frames: int, seconds: float, config: JobConfig, *, sequential: bool) -> int:
        """One clip. Returns the number of windows that it would be cut into, 0 where it would not."""
        windows = () if sequential else windows_of_clip(frames, config)
        if not windows:
            self.whole.append(seconds)
            return 0
        self.long.append((seconds, [seconds * each / frames for each in windows]))
        self.extra_frames += sum(windows) - frames
        return len(windows)

    def sharing(self, config: JobConfig, scale: float, *, timed: bool) -> Sharing:
        """`scale`: clips to do for each that was looked at."""
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
    """Frames that each window of a clip would be worked on for; none where it stays in one piece."""
    windows, tracking = config.windows, config.tracking
    every = tracking.detect_every
    delay = HOTSTART_DELAY if tracking.hotstart_delay is None else tracking.hotstart_delay
    recondition = tracking.recondition_every_nth_frame or RECONDITION_EVERY
    found = cuts(frames, windows.frames, windows.overlap, delay * every, math.lcm(recondition, every))
    return [each.end - each.start for each in found]


def parallel_windows(clip: Clip, facts: VideoInfo, config: JobConfig) -> int:
    """How many windows a clip will be cut into, as far as the headers of its video tell; 0: none, or not known."""
    work = None if foreseen(clip, facts, config) or sequential_reason(clip, config) else work_of(clip, facts, config)
    return len(windows_of_clip(work[0], config)) if work is not None else 0


def _ends(pieces: Iterable[float], actors: int, scale: float) -> float:
    """When the last of these ends, the longest given out first; `scale` times as many of each, roughly."""
    ordered = sorted(pieces, reverse=True)
    if not ordered:
        return 0.0
    if scale > 1:
        return max(ordered[0], scale * math.fsum(ordered) / actors)
    busy = [0.0] * min(actors, len(ordered))
    for piece in ordered:
        heapq.heapreplace(busy, busy[0] + piece)
    return max(busy)
