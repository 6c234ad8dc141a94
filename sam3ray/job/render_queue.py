"""The clips that wait for rendering, those being rendered, and the outcomes: bookkeeping without Ray."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from sam3ray.values.clip import Clip

TRIES = 2  # tries of a task whose process dies
NODE_LOSSES = 10  # tries of a task whose node is lost


@dataclass(slots=True)
class _Entry:
    clip: Clip
    deaths: int = 0
    losses: int = 0


class RenderQueue:
    """A first-in, first-out queue. `now` is in seconds of any monotonic clock.

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
        """The number of clips that wait or are being rendered."""
        return len(self._waiting) + len(self._running)

    @property
    def total(self) -> int:
        """The number of clips ever added."""
        return self.pending + self.rendered + len(self.failures)

    def eta_s(self, now: float, to_come: int = 0) -> float | None:
        """The remaining time at the rate so far; None before the first video. `to_come`: clips not annotated yet."""
        ended = self.rendered + len(self.failures)
        if not ended or self._began is None:
            return None
        return (now - self._began) / ended * (self.pending + to_come)

    def take(self, slots: int, now: float) -> list[Clip]:
        """Takes clips to start, as long as fewer than `slots` are being rendered."""
        taken = []
        while self._waiting and len(self._running) < slots:
            entry = self._waiting.popleft()
            self._running[entry.clip.clip_id] = entry
            self._began = now if self._began is None else self._began
            taken.append(entry.clip)
        return taken

    def put_back(self, clip_id: str) -> None:
        """The task could not begin: the clip goes to the front of the queue, and no try is counted."""
        self._waiting.appendleft(self._running.pop(clip_id))

    def made(self, clip_id: str) -> None:
        if self._running.pop(clip_id, None) is not None:
            self.rendered += 1

    def failed(self, clip_id: str, why: str) -> None:
        if self._running.pop(clip_id, None) is not None:
            self.failures[clip_id] = why

    def died(self, clip_id: str, why: str, *, with_its_node: bool = False) -> None:
        """The task's process has died: the clip goes to the end of the queue, or is given up."""
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
        """Gives up all waiting clips."""
        self.failures |= {entry.clip.clip_id: why for entry in self._waiting}
        self._waiting.clear()

    def clear(self) -> None:
        """Drops waiting and running clips; the next run finds that their videos are missing."""
        self._waiting.clear()
        self._running.clear()
