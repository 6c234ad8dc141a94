"""The clips that wait for a video, those being rendered, and the outcomes: bookkeeping without Ray."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from sam3ray.values.clip import Clip

TRIES = 2  # of a task whose process dies
NODE_LOSSES = 10  # of a task whose node goes away


@dataclass(slots=True)
class _Entry:
    clip: Clip
    deaths: int = 0
    losses: int = 0


class RenderQueue:
    """First come, first served. `now` is in seconds of any monotonic clock.

    Attributes:
        rendered: videos made.
        failures: clip id -> why there is no video.
    """

    def __init__(self) -> None:
        self._waiting: deque[_Entry] = deque()
        self._running: dict[str, _Entry] = {}
        self._began: float | None = None
        self.rendered = 0
        self.failures: dict[str, str] = {}

    def add(self, clip: Clip) -> None:
        self._waiting.append(_Entry(clip))

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def pending(self) -> int:
        """Waiting or being rendered."""
        return len(self._waiting) + len(self._running)

    @property
    def total(self) -> int:
        """All that were ever added."""
        return self.pending + self.rendered + len(self.failures)

    def eta_s(self, now: float, to_come: int = 0) -> float | None:
        """From the rate so far; `to_come`: clips that are not annotated yet. None before the first video."""
        ended = self.rendered + len(self.failures)
        if not ended or self._began is None:
            return None
        return (now - self._began) / ended * (self.pending + to_come)

    def take(self, slots: int, now: float) -> list[Clip]:
        """Clips to start, so that at most `slots` are being rendered."""
        taken = []
        while self._waiting and len(self._running) < slots:
            entry = self._waiting.popleft()
            self._running[entry.clip.clip_id] = entry
            self._began = now if self._began is None else self._began
            taken.append(entry.clip)
        return taken

    def put_back(self, clip_id: str) -> None:
        """It could not begin: it goes to the front of the queue, and this does not count as a try."""
        self._waiting.appendleft(self._running.pop(clip_id))

    def made(self, clip_id: str) -> None:
        if self._running.pop(clip_id, None) is not None:
            self.rendered += 1

    def failed(self, clip_id: str, why: str) -> None:
        if self._running.pop(clip_id, None) is not None:
            self.failures[clip_id] = why

    def died(self, clip_id: str, why: str, *, with_its_node: bool = False) -> None:
        """Its process has died: it goes to the end of the queue, or is given up."""
        if (entry := self._running.pop(clip_id, None)) is None:
            return
        if with_its_node:
            entry.losses += 1
        else:
            entry.deaths += 1
        if entry.deaths < TRIES and entry.losses < NODE_LOSSES:
            self._waiting.append(entry)
        else:
            self.failures[clip_id] = why

    def give_up(self, why: str) -> None:
        """Waiting clips will never be rendered."""
        self.failures |= {entry.clip.clip_id: why for entry in self._waiting}
        self._waiting.clear()

    def clear(self) -> None:
        """Forgets waiting and running clips; the next run finds those videos missing."""
        self._waiting.clear()
        self._running.clear()
