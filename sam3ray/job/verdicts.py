"""Failures that settle a clip, held until the node or GPU where they happened proves healthy.

The first success there makes them final. If the node or GPU turns out to be faulty, its clips are retried elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from sam3ray.job.actions import RecordFailure
from sam3ray.job.health import Place


@dataclass(frozen=True, slots=True)
class Verdict:
    record: RecordFailure
    actor: int
    place: Place


class Verdicts:
    """The held verdicts, at most one per clip."""

    def __init__(self) -> None:
        self._held: dict[int, Verdict] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, record: RecordFailure, actor: int, place: Place) -> None:
        self._held[record.clip] = Verdict(record, actor, place)

    def proven_by(self, actor: int, place: Place, lives: Callable[[int], bool]) -> list[Verdict]:
        """Takes the verdicts that this actor's success makes final: its own, and those of dead actors at its spot."""
        return self._take(
            lambda v: v.actor == actor or (not lives(v.actor) and v.place.spots[0] == place.spots[0]),
        )

    def of_actor(self, actor: int) -> list[Verdict]:
        """Takes the verdicts of an actor that is being replaced."""
        return self._take(lambda v: v.actor == actor)

    def of_spot(self, spot: str) -> list[Verdict]:
        """Takes the verdicts of a node or GPU that is no longer trusted."""
        return self._take(lambda v: spot in v.place.spots)

    def of_clips(self, clips: Collection[int]) -> list[Verdict]:
        """Takes the verdicts of clips that are no longer needed."""
        return self._take(lambda v: v.record.clip in clips)

    def all(self) -> list[Verdict]:
        return self._take(lambda _: True)

    def _take(self, wanted: Callable[[Verdict], bool]) -> list[Verdict]:
        if not self._held:
            return []
        taken = [verdict for verdict in self._held.values() if wanted(verdict)]
        for verdict in taken:
            del self._held[verdict.record.clip]
        return taken
