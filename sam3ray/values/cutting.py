"""Decides how a long clip is cut into windows for several actors. Works on numbers only."""

from __future__ import annotations

from dataclasses import dataclass

# Rows without an object after which a window no longer continues for it, and the most rows by which it continues. No
# key of the configuration: longer windows make it cheap, and linking by memory covers longer absences.
MOST_FOLLOWED = 120


@dataclass(frozen=True, slots=True)
class Cut:
    """One window. Positions count the clip's sampled frames from 0; ends are exclusive.

        start          stop            until                 reach
        |---- own -----|--- overlap ---|~~~~ runs on ~~~~~~~~|
                       |---- own of the next window ---------------

    Attributes:
        index: from 0.
        start, stop: the window's own frames.
        until: the end of the overlap. [stop, until) is processed by the next window, too.
        end: as far as the window works at least, because hotstart decides about rows only on later frames.
        reach: the furthest end of its rows. From `until` on, the window runs on for the objects that it does not show
            (`sam3ray.stitching.Following`), at most to the end of the next window's overlap. The clip takes the
            window's rows up to the row at which it stops, and then those of the next window.
    """

    index: int
    start: int
    stop: int
    until: int
    end: int
    reach: int

    def __post_init__(self) -> None:
        if self.index < 0 or not 0 <= self.start < self.stop <= self.until <= self.end or self.reach < self.until:
            raise ValueError(f"a window needs 0 <= start < stop <= until <= end and until <= reach, got {self}")


def cuts(num_frames: int, frames: int, overlap: int, hotstart_delay: int, multiple_of: int) -> tuple[Cut, ...]:
    """The windows of a clip in order; none if the clip fits into one window and is not cut.

    Window k starts at the last multiple of `multiple_of` that is not above k * `frames`. If a last window would be
    shorter than the overlap, its frames belong to the previous window.

    Args:
        num_frames: number of frames of the clip, after sampling.
        frames: number of a window's own frames.
        overlap: number of frames after these that two windows share; at most half of `frames`.
        hotstart_delay: the value in use; rows are final `hotstart_delay` - 1 frames later.
        multiple_of: windows start at multiples of this, the frames on which the rules recondition and detect.
    """
    for name, value, least in (
        ("num_frames", num_frames, 0),
        ("frames", frames, 1),
        ("overlap", overlap, 0),
        ("hotstart_delay", hotstart_delay, 0),
        ("multiple_of", multiple_of, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    if 2 * overlap > frames:
        raise ValueError(f"overlap is {overlap}; it must be at most half of frames ({frames})")
    starts = sorted({at // multiple_of * multiple_of for at in range(0, num_frames, frames)})
    if len(starts) > 1 and num_frames - starts[-1] < overlap:
        starts.pop()
    if len(starts) < 2:
        return ()
    stops = [*starts[1:], num_frames]
    untils = [min(stop + overlap, num_frames) for stop in stops]
    ends = [min(until + max(hotstart_delay - 1, 0), num_frames) for until in untils]
    reaches = [min(until + MOST_FOLLOWED, then) for until, then in zip(untils, [*untils[1:], num_frames], strict=True)]
    return tuple(map(Cut, range(len(starts)), starts, stops, untils, ends, reaches))
