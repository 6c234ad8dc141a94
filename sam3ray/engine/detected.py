"""Objects found by phrases, and the conditioning frames that they lend each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from sam3ray.engine.memory import ObjectMemory


@dataclass(eq=False)
class DetectedObject:
    """One tracked object."""

    object_id: int
    prompt: int
    score: float
    born: int
    memory: ObjectMemory = field(default_factory=ObjectMemory)
    last_occluded: int | None = None  # None: not tracked on any frame yet
    empty_frames: int = 0  # without a mask, up to now
    pointed_at: list[int] = field(default_factory=list)  # frames on which somebody pointed at it


@dataclass
class Loan:
    """A conditioning frame shared by objects born on one frame, because some of them were reconditioned there.

    As in the published code, it becomes an ordinary frame again once hotstart has removed all of these (`givers`).
    """

    frame: int
    givers: set[int]
    borrowers: set[int]


def lent(frame: int, objects: Iterable[DetectedObject], chosen: Iterable[DetectedObject]) -> list[Loan]:
    """Lends a frame on which the objects `chosen` are reconditioned to all objects born with them."""
    births: dict[tuple[int, int], set[int]] = {}
    for each in chosen:
        births.setdefault((each.born, each.prompt), set()).add(each.object_id)
    everyone = list(objects)
    loans = []
    for birth, givers in births.items():
        mates = {e.object_id for e in everyone if (e.born, e.prompt) == birth} - givers
        if mates:
            loans.append(Loan(frame, givers, mates))
    return loans


def settled(
    loans: Iterable[Loan],
    objects: Iterable[DetectedObject],
    removed: Collection[int],
    is_young: Callable[[DetectedObject], bool],
    take_back: Callable[[int, list[ObjectMemory]], None],
) -> list[Loan]:
    """Takes back the frames that removed objects had lent. Returns the loans that are still open.

    Args:
        is_young: whether a later frame may still remove the object. If not, the borrowers keep the frame for good.
        take_back: makes a frame an ordinary one of these objects.
    """
    by_id = {each.object_id: each for each in objects}
    still_open = []
    for loan in loans:
        loan.givers -= set(removed)
        loan.borrowers -= set(removed)
        borrowers = [by_id[each] for each in loan.borrowers if each in by_id]
        memories = [each.memory for each in borrowers]
        if not loan.givers:
            take_back(loan.frame, memories)
        elif borrowers and is_young(borrowers[0]):
            still_open.append(loan)
        else:
            for memory in memories:
                memory.borrowed.discard(loan.frame)
    return still_open
