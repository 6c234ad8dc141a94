"""Collects the facts that linking needs about a window's objects, in one pass over its rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sam3ray.engine.returning import STEPS
from sam3ray.masks import MaskRuns, read_rle
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.cutting import Cut


@dataclass(frozen=True)
class Window:
    """One processed window of a clip.

    Attributes:
        frames: the result of `segment_window`, one value per position from `cut.start` on, in order, at least up to
            `cut.until` - 1 and at most up to `cut.reach` - 1.
        ending: the file that it wrote; None: no window follows, or objects are not to be found by memory.
    """

    cut: Cut
    frames: Iterable[FrameAnnotations]
    ending: Path | None = None


@dataclass
class Track:
    """One object of one window.

    Positions count in the clip. Up to the end of the previous window's rows, the clip shows that window.

    Attributes:
        first, last: position and time of the first and the last row of it that the clip shows; -1 if there is none.
        begun: position of its first row, whichever window shows it.
        sure, sure_first, sure_first_s, sure_score: rows whose score has reached `new_det_thresh`: position of the
            first, position and time of the first that the clip shows, and the score; -1 if there is none.
        head: masks by position on the window's first frames, up to the `head` of `tracks_of`.
        tail: masks by position from the next window's start on.
        probed: masks by position on frames on which lost objects are looked for, ascending.
        steps: number of `STEPS` reached.
    """

    window: int
    object_id: int
    prompt: str
    score: float
    first: int = -1
    last: int = -1
    first_s: float = 0.0
    last_s: float = 0.0
    begun: int = -1
    sure: int = -1
    sure_first: int = -1
    sure_first_s: float = 0.0
    sure_score: float = 0.0
    steps: int = 0
    head: dict[int, MaskRuns] = field(default_factory=dict)
    tail: dict[int, MaskRuns] = field(default_factory=dict)
    probed: dict[int, MaskRuns] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int]:
        return self.window, self.object_id

    @property
    def is_shown(self) -> bool:
        return self.first >= 0

    def wants(self, position: int) -> bool:
        """Whether its mask at this position, the next with a mask, must be compared with lost objects."""
        return self.steps < len(STEPS) and position >= self.first + STEPS[self.steps]

    def take(self, position: int, mask: MaskRuns) -> None:
        """Keeps a mask that it `wants`."""
        self.steps += 1
        self.probed[position] = mask


def tracks_of(window: Window, shown: int = 0, enough: float = 0.0, head: int = 0) -> tuple[dict[int, Track], int]:
    """The objects of a window by id, and the end of its rows (exclusive).

    Args:
        shown: the end of the previous window's rows; from here on the clip shows this window.
        enough: score from which a track is sure.
        head: position up to which `Track.head` has masks, if it lies after `shown`.

    Raises:
        ValueError: rows do not belong to the window, or an object changes its phrase.
    """
    cut = window.cut
    head = max(shown, head)
    found: dict[int, Track] = {}
    position = cut.start - 1
    for position, frame in enumerate(window.frames, cut.start):
        if position >= cut.reach:
            break
        for item in frame.objects:
            track = found.get(item.object_id)
            if track is None:
                track = Track(cut.index, item.object_id, item.prompt, item.score, begun=position)
                found[item.object_id] = track
            if track.prompt != item.prompt:
                raise ValueError(
                    f"window {cut.index}: object {item.object_id} is {track.prompt!r:.60} and {item.prompt!r:.60}"
                )
            is_sure = item.score >= enough
            if is_sure and track.sure < 0:
                track.sure, track.sure_score = position, item.score
            mask: MaskRuns | None = None
            if position < head or position >= cut.stop:
                mask = read_rle(item.rle, frame.height, frame.width)
                if position < head:
                    track.head[position] = mask
                if position >= cut.stop:
                    track.tail[position] = mask
            if position < shown:
                continue
            if not track.is_shown:
                track.first, track.first_s = position, frame.time_s
            if is_sure and track.sure_first < 0:
                track.sure_first, track.sure_first_s = position, frame.time_s
            track.last, track.last_s = position, frame.time_s
            if track.wants(position):
                track.take(position, mask or read_rle(item.rle, frame.height, frame.width))
    end = position + 1
    check_end(cut, end)
    return found, end


def check_end(cut: Cut, end: int) -> None:
    """Raises ValueError if a window's rows cannot end here."""
    if not cut.until <= end <= cut.reach:
        count = f"{end - cut.start}" if end <= cut.reach else f"more than {cut.reach - cut.start}"
        least, most = cut.until - cut.start, cut.reach - cut.start
        allowed = f"{least}" if least == most else f"{least} to {most}"
        raise ValueError(f"window {cut.index} has {count} frames; it should have {allowed}")
