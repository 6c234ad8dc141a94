"""How a long clip is cut into windows that several actors work on at once. Numbers only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cut:
    """One window. Positions count the clip's sampled frames from 0; ends are exclusive.

        start          stop            until          end
        |---- own -----|--- overlap ---|--- run-out --|
                       |---- own of the next window -----

    Attributes:
        index: from 0.
        start, stop: the frames that the window has to itself and gives the clip's rows.
        until: the end of its rows. [stop, until) is the overlap, which the next window works on, too.
        end: the end of its work: hotstart decides on the last rows only on the frames after them.
    """

    index: int
    start: int
    stop: int
    until: int
    end: int

    def __post_init__(self) -> None:
        if self.index < 0 or not 0 <= self.start < self.stop <= self.until <= self.end:
            raise ValueError(f"a window needs 0 <= start < stop <= until <= end, got {self}")


def cuts(num_frames: int, frames: int, overlap: int, hotstart_delay: int, multiple_of: int) -> tuple[Cut, ...]:
    """The windows of a clip in order; none if the clip fits into one, which is not cut.

    Window k starts at the last multiple of `multiple_of` that is not above k * `frames`. What would remain for a last
    window, if it is shorter than the overlap, belongs to the one before it.

    Args:
        num_frames: that the clip is sampled to.
        frames: that a window has to itself.
        overlap: frames after them that two windows share; at most half of `frames`.
        hotstart_delay: of the rules in force: rows are final so many frames later, less one.
        multiple_of: frames on which a window may start: those on which the rules recondition and detect.
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
    found = []
    for index, (start, stop) in enumerate(zip(starts, [*starts[1:], num_frames], strict=True)):
        until = min(stop + overlap, num_frames)
        found.append(Cut(index, start, stop, until, min(until + max(hotstart_delay - 1, 0), num_frames)))
    return tuple(found)
