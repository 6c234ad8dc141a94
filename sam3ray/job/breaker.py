"""Detects when failures show that the job cannot continue. Repeated failures of one clip or place count once."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from sam3ray.failures import Reason
from sam3ray.job.actions import Limits

ROW = 10  # consecutive failures of different clips, without a success
WINDOW, ABNORMAL = 50, 45  # this many of the last clips: (clips looked at, of these failed)
AGREEING = 0.9  # of the places
FEW = 4  # fewer failing clips are not an outage of the storage
TRIES = 3


class FailureBreaker:
    """Counts crashes, hangs, defects, failing GPUs and full disks; not failures of videos or storage.

    Clips that failed in earlier runs do not count.
    """

    def __init__(self, known: Collection[int]) -> None:
        self._known = known
        self._row: dict[int, Reason] = {}
        self._places: set[str] = set()
        self._attempts = 0
        self._seen: set[int] = set()
        self._recent: deque[str | None] = deque(maxlen=WINDOW)  # the place of a failure, None for a success
        self._last = ""
        self._any_done = False

    def succeeded(self) -> None:
        self._row.clear()
        self._places.clear()
        self._attempts = 0
        self._recent.append(None)
        self._any_done = True

    def failed(self, clip: int, place: str, reason: Reason, message: str) -> None:
        if clip in self._known:
            return
        self._row[clip] = reason
        self._places.add(place)
        self._attempts += 1
        self._last = f"{reason.value}: {message}"
        if clip not in self._seen:
            self._seen.add(clip)
            self._recent.append(place)

    def verdict(self, places: Collection[str], open_clips: int) -> str:
        """Why the job must stop, or empty. `places`: GPUs, or nodes without GPUs, that have actors."""
        if not self._row or not self._agree(self._places, places):
            return ""
        count = len({place.partition("/gpu")[0] for place in self._places})
        where = f" on {count} nodes" if count > 1 else ""
        if len(self._row) >= ROW:
            return f"{len(self._row)} clips in a row failed{where} and none succeeded; the last error: {self._last}"
        if (
            not self._any_done
            and self._attempts >= TRIES
            and len(self._row) >= min(ROW, open_clips)
            and all(reason.is_node_fault for reason in self._row.values())
        ):
            return f"{self._attempts} attempts in a row failed{where} and none succeeded; the last error: {self._last}"
        failures = [place for place in self._recent if place is not None]
        if len(failures) >= ABNORMAL and self._agree(set(failures), places):
            return f"{len(failures)} of the last {len(self._recent)} clips failed; the last error: {self._last}"
        return ""

    @staticmethod
    def _agree(said: set[str], places: Collection[str]) -> bool:
        return len(said.intersection(places)) >= AGREEING * len(places)


class StorageBreaker:
    """Counts rounds of storage errors, because a thousand actors report one outage a thousand times.

    An error of an attempt that began before the last counted one is ignored. So are clips whose storage failed in
    earlier runs.
    """

    def __init__(self, limits: Limits, known: Collection[int]) -> None:
        self._limit = limits.storage_errors
        self._known = known
        self._clips: set[int] = set()
        self._nodes: set[str] = set()
        self._last_at = float("-inf")
        self._any_done = False
        self.rounds = 0

    def succeeded(self) -> None:
        self.rounds = 0
        self._clips.clear()
        self._nodes.clear()
        self._any_done = True

    def failed(self, clip: int, node: str, began: float, now: float) -> bool:
        """True if this starts a new round of several clips: assign no clips for a while."""
        if clip in self._known:
            return False
        self._clips.add(clip)
        self._nodes.add(node)
        if began < self._last_at:
            return False
        self._last_at = now
        self.rounds += 1
        return self.rounds >= 2 and len(self._clips) > 1

    def is_open(self, nodes: Collection[str], open_clips: int) -> bool:
        """Whether the storage as a whole is unreachable, not only for a few clips or one node."""
        if self.rounds < self._limit or len(self._nodes) < min(2, len(nodes)):
            return False
        return len(self._clips) >= FEW or (not self._any_done and len(self._clips) >= open_clips)
