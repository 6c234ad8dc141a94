"""Decides which new objects are lost ones, from the scores of a probe."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

# Frames after the first on which a new object may be compared with lost ones. On its first frames it is often half
# hidden, so only the last LOOKS frames with a mask count.
STEPS = (0, 4, 8, 12, 16)
LOOKS = 3
ENOUGH = 0.4  # the least score: about .6 on two frames of three
MARGIN = 0.05  # margin over any other score

_Birth = TypeVar("_Birth", bound=Hashable)
_Lost = TypeVar("_Lost", bound=Hashable)


def accepted(
    births: Sequence[tuple[_Birth, int]], scores: Mapping[_Birth, Mapping[_Lost, float]]
) -> list[tuple[_Birth, _Lost]]:
    """Matches births with lost objects, one to one.

    A score must be at least `ENOUGH`. It must exceed by `MARGIN` the birth's score with any other lost object, and the
    lost object's score with any other birth at about the same time. Of births that follow each other, the earliest gets
    the lost object.

    Args:
        births: each with its first frame, in order of appearance.
        scores: of each birth with each lost object that it may be.
    """
    found: list[tuple[_Birth, _Lost]] = []
    given: set[_Lost] = set()
    for birth, first in births:
        mine = sorted(scores.get(birth, {}).items(), key=lambda each: -each[1])
        if not mine or mine[0][1] < ENOUGH:
            continue
        (lost, best), second = mine[0], mine[1][1] if len(mine) > 1 else 0.0
        rivals = [
            scores.get(other, {}).get(lost, 0.0)
            for other, other_first in births
            if other != birth and abs(other_first - first) <= STEPS[-1]
        ]
        if lost not in given and best - max(second, *rivals, 0.0) >= MARGIN:
            given.add(lost)
            found.append((birth, lost))
    return found
