"""Builds one increasing clock from the timestamps of any container. Does not use libav.

Timestamps of a file cannot be trusted: they restart where files were joined, wrap around, follow decoding instead of
display order (always in AVI), repeat, or are missing. The rules, in display order:

* Within a stretch of the file with a continuous clock (an epoch), the k-th frame shown has the k-th smallest stamp.
* A new epoch begins where stamps restart, or where a transport or program stream jumps ahead. Its first frame comes
  one frame after the last frame of the previous epoch; its other intervals are kept.
* Frames without a stamp, or with one that was already used, are spread evenly up to the next stamp. If none follows
  soon, they are one frame apart, at the stream's rate.

A good clock is not changed. The time of a frame depends only on the file up to shortly after the frame, never on the
caller's request, so ranges, samples and repeated readings agree.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

_REORDERED = 20  # after this many packets, a packet without a frame will show none: decoders reorder by at most 16
PACKETS_KNOWN = 160  # more frames than any decoder holds
_RECENT = 32  # number of stamps with which a new one is compared
_PATIENCE = 8  # frames that may wait for a timestamp that continues
_LEAP_S = 10.0  # FFmpeg's own limit (dts_delta_threshold) for a jump within a transport stream


@dataclass(frozen=True)
class Stamp:
    """A packet's timestamps in the container, in time-base units. `pts` is the intended time of its frame."""

    pts: int | None
    dts: int | None
    is_key: bool


@dataclass(frozen=True)
class Timed(Generic[Item]):
    """An item with its time: `pts` on the growing clock, `ticks` from the video's start."""

    item: Item
    pts: int
    ticks: int
    is_rebuilt: bool


@dataclass
class _Shown(Generic[Item]):
    item: Item
    epoch: int
    stamp: int | None
    said: int | None  # the frame's own stamp, even if its final time differs


class Clock(Generic[Item]):
    """Gives each shown frame its time.

    Call `sent` for each packet that goes into the decoder, `shown` for each frame that comes out, and `end` at the end.
    Frames are returned in display order, some of them later.

    Args:
        unit_s: seconds per unit of the stamps.
        step: units between frames at the stream's rate, at least 1.
        start: the stamp that counts as 0 s; None: the first frame's.
        leaps: whether a jump ahead is a splice (transport and program streams) instead of a pause.
    """

    def __init__(self, unit_s: float, step: int, start: int | None, *, leaps: bool = False) -> None:
        self._step = max(1, step)
        self._far = max(round(_LEAP_S / unit_s), _RECENT * self._step)
        self._start = start
        self._leaps = leaps
        # Of packets, in decoding order
        self._count = 0
        self._sent_epoch = 0
        self._recent: deque[int] = deque(maxlen=_RECENT)
        self._top: int | None = None
        self._last_dts: int | None = None
        self._inside: dict[int, tuple[int, int]] = {}  # packets without a frame so far: epoch and stamp
        self._known: dict[int, tuple[int, int | None]] = {}
        # Of frames, in display order
        self._waiting: deque[_Shown[Item]] = deque()
        self._stuck: list[_Shown[Item]] = []
        self._epoch = 0
        self._offset = 0
        self._last: int | None = None
        self._last_stamp: int | None = None
        self._runs_free = False
        self._anchored = True  # whether the offset belongs to the frame's epoch

    @property
    def packets(self) -> int:
        """The number of packets sent to the decoder."""
        return self._count

    @property
    def epochs(self) -> int:
        """The number of epochs so far."""
        return self._sent_epoch + 1

    @property
    def last_ticks(self) -> int | None:
        """Time of the last frame returned, in units from the start."""
        return None if self._last is None or self._start is None else self._last - self._start

    def sent(self, stamp: Stamp, *, shows: bool = True) -> int:
        """Notes a packet that goes into the decoder. Returns its number, which `shown` takes.

        `shows`: whether a frame is expected from it. With edit lists, some packets are only references for others, and
        have earlier times.
        """
        number = self._count
        self._count += 1
        if stamp.pts is not None and shows:
            if self._begins_epoch(stamp.pts, stamp):
                self._sent_epoch += 1
                self._recent.clear()
                self._top = None
            self._recent.append(stamp.pts)
            self._top = stamp.pts if self._top is None else max(self._top, stamp.pts)
            self._inside[number] = (self._sent_epoch, stamp.pts)
            self._last_dts = stamp.dts
        self._known[number] = (self._sent_epoch, stamp.pts)
        self._known.pop(number - PACKETS_KNOWN, None)
        self._inside.pop(number - _REORDERED, None)
        return number

    def _begins_epoch(self, pts: int, stamp: Stamp) -> bool:
        if self._top is None:
            return False
        if self._leaps and pts - self._top > self._far:
            return True
        back = self._top - pts
        if back < 2 * self._step:
            return False  # slightly irregular stamps
        if back > self._far:
            return True
        if self._leaps and stamp.dts is not None and self._last_dts is not None:
            # Decoding times of these containers are reliable.
            return stamp.dts <= self._last_dts - self._step
        return stamp.is_key and not self._fills_a_hole(pts)

    def _fills_a_hole(self, pts: int) -> bool:
        """Whether the stamp fits between recent ones: then stamps are out of order, and do not restart."""
        below = max((value for value in self._recent if value <= pts), default=None)
        above = min((value for value in self._recent if value > pts), default=None)
        if below is None or above is None:
            return False
        return below != pts and above - below > 1.5 * self._step

    def forget(self, number: int | None) -> None:
        """Notes that the packet's frame was skipped."""
        if number is not None:
            self._inside.pop(number, None)

    def shown(self, number: int | None, item: Item) -> Iterator[Timed[Item]]:
        """Notes a frame that comes out of the decoder, made from that packet (None: unknown)."""
        epoch, said = self._known.get(number, (self._epoch, None)) if number is not None else (self._epoch, None)
        self.forget(number)
        if self._waiting and epoch != self._waiting[-1].epoch:
            yield from self._release(wait=False)
        self._waiting.append(_Shown(item, epoch, said, said))
        yield from self._release(wait=True)

    def end(self) -> Iterator[Timed[Item]]:
        """Ends the video. Returns the remaining frames."""
        yield from self._release(wait=False)
        yield from self._give_up()

    def _release(self, *, wait: bool) -> Iterator[Timed[Item]]:
        while self._waiting:
            first = self._waiting[0]
            if first.stamp is not None:
                smallest = min(
                    (shown for shown in self._waiting if shown.stamp is not None and shown.epoch == first.epoch),
                    key=lambda shown: shown.stamp or 0,
                )
                assert smallest.stamp is not None
                if wait and any(e == first.epoch and s < smallest.stamp for e, s in self._inside.values()):
                    return
                first.stamp, smallest.stamp = smallest.stamp, first.stamp
            yield from self._place(self._waiting.popleft())

    def _place(self, shown: _Shown[Item]) -> Iterator[Timed[Item]]:
        """Turns stamps that should increase into times that do."""
        stamp = shown.stamp
        if self._last is None:
            self._begin(shown.epoch, stamp)
            assert self._start is not None
            yield self._at(shown, self._start if stamp is None else stamp)
            return
        if shown.epoch != self._epoch:
            yield from self._give_up()
            self._epoch = shown.epoch
            self._runs_free = self._anchored = False
        if stamp is not None and not self._anchored:
            self._offset = self._last + self._step * (len(self._stuck) + 1) - stamp
            self._anchored = True
        if stamp is not None and stamp + self._offset > self._last + len(self._stuck):
            end = stamp + self._offset
            gap, parts = end - self._last, len(self._stuck) + 1
            begin = self._last
            for part, waiting in enumerate(self._stuck, 1):
                yield self._at(waiting, begin + gap * part // parts)
            self._stuck.clear()
            self._runs_free = False
            self._last_stamp = stamp
            yield self._at(shown, end)
            return
        self._stuck.append(shown)
        if self._runs_free or len(self._stuck) > _PATIENCE:
            yield from self._give_up()
            self._runs_free = True

    def _begin(self, epoch: int, stamp: int | None) -> None:
        if self._start is None or epoch != self._epoch:
            self._start = 0 if stamp is None else stamp
        elif stamp is not None:
            self._start = min(self._start, stamp)
        self._epoch = epoch
        self._last_stamp = stamp
        self._runs_free = stamp is None

    def _give_up(self) -> Iterator[Timed[Item]]:
        """Places frames that wait for a timestamp that continues one frame apart."""
        for waiting in self._stuck:
            assert self._last is not None
            time = self._last + self._step
            stamp = waiting.stamp
            if stamp is not None:
                if self._last_stamp is not None and stamp > self._last_stamp:
                    self._offset = time - stamp  # timestamps continue, but are behind the clock
                self._last_stamp = stamp
            yield self._at(waiting, time)
        self._stuck.clear()

    def _at(self, shown: _Shown[Item], time: int) -> Timed[Item]:
        assert self._start is not None
        assert self._last is None or time > self._last
        self._last = time
        return Timed(shown.item, time, time - self._start, time != shown.said)
