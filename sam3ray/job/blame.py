"""Counts each clip's failures: which of them are charged, and when they settle the clip.

When an actor dies, its running clip is charged. If the process was also decoding the first frames of the *next* clip,
either clip may have caused the crash. Then the running clip is charged, unless that would settle it, and both clips
become suspects: nothing is decoded ahead for a suspect, nor while a suspect runs. So a clip is charged at most once for
another clip's crash, and is never given up because of one. With `crashes` = 1, nothing is decoded ahead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sam3ray.failures import Reason
from sam3ray.job.actions import LAST_RUNG, TRIES_TIMED_OUT, Limits
from sam3ray.job.health import Place


@dataclass(slots=True)
class History:
    """One clip's failures.

    Attributes:
        losses: nodes lost while it ran, plus its failures caused by a node.
        rung: the rung of the out-of-memory ladder for its next attempt.
        suspect: an actor died while it ran or was decoded ahead, so it may be the cause.
        nodes, spots: where it failed; a spot is a GPU, or a process where there is none.
        said: for each reason, the (node, spot) pairs where it failed.
    """

    attempts: int = 0
    crashes: int = 0
    timeouts: int = 0
    losses: int = 0
    storage: int = 0
    rung: int = 0
    suspect: bool = False
    nodes: set[str] = field(default_factory=set)
    spots: set[str] = field(default_factory=set)
    said: dict[Reason, set[tuple[str, str]]] = field(default_factory=dict)


class Blame:
    """The histories of the clips that failed; most clips have none.

    `prior`: reasons of the failed attempts that earlier runs recorded, so that caps hold across runs.
    """

    def __init__(self, limits: Limits, prior: Mapping[int, Iterable[Reason]]) -> None:
        self._limits = limits
        self._histories: dict[int, History] = {}
        self.known = frozenset(prior)  # clips that failed in earlier runs
        for clip, reasons in prior.items():
            self.note(clip, reasons)

    def note(self, clip: int, reasons: Iterable[Reason]) -> None:
        """Adds the failures that earlier runs recorded for a clip."""
        seen = Counter(reasons)
        if seen:
            self._histories[clip] = History(
                crashes=min(seen[Reason.CRASHED], self._limits.crashes - 1),
                timeouts=min(seen[Reason.TIMED_OUT], TRIES_TIMED_OUT - 1),
                suspect=seen[Reason.CRASHED] > 0,
            )

    def failed_at(self, clip: int, actor: int, place: Place, reason: Reason) -> bool:
        """Notes where the clip failed. True if it failed elsewhere for the same reason: then no place is to blame."""
        history = self.of(clip)
        history.nodes.add(place.node)
        history.spots.add(spot_of(actor, place))
        said = history.said.setdefault(reason, set())
        said.add((place.node, spot_of(actor, place)))
        return len(said) > 1

    def nodes_that_say(self, clip: int, reason: Reason) -> int:
        """The number of nodes on which it failed for this reason."""
        return len({node for node, _ in self.of(clip).said.get(reason, ())})

    def of(self, clip: int) -> History:
        return self._histories.setdefault(clip, History())

    def has(self, clip: int) -> bool:
        """Whether the clip has a history."""
        return clip in self._histories

    def suspects(self, clip: int) -> bool:
        history = self._histories.get(clip)
        return history is not None and history.suspect

    def renew(self, clip: int) -> None:
        """A window of the clip is saved: earlier failures no longer count."""
        history = self._histories.get(clip)
        if history is not None:
            history.crashes = history.timeouts = 0
            history.said.clear()

    def forget(self, clip: int) -> None:
        self._histories.pop(clip, None)

    def charge(self, clip: int, reason: Reason, *, ambiguous: bool = False) -> bool:
        """Counts a failed attempt. True if the clip gets no other attempt.

        `ambiguous`: the process that died was also decoding the next clip, which may be the cause: the attempt is
        charged unless that would settle the clip.
        """
        history, limits = self.of(clip), self._limits
        match reason:
            case Reason.CRASHED:
                if not ambiguous or history.crashes + 1 < limits.crashes:
                    history.crashes += 1
                history.suspect = True
                return history.crashes >= limits.crashes
            case Reason.TIMED_OUT:
                history.timeouts += 1
                return history.timeouts >= TRIES_TIMED_OUT
            case Reason.OUT_OF_MEMORY:
                history.rung += 1
                return history.rung > LAST_RUNG
            case Reason.PREEMPTED | Reason.DEVICE | Reason.LOCAL_DISK:
                history.losses += 1
                return history.losses >= limits.node_losses
            case Reason.STORAGE:
                history.storage += 1
                return history.storage >= limits.storage_errors
            case _:
                return True


def spot_of(actor: int, place: Place) -> str:
    """The most specific place of an actor: its first GPU, or the actor itself."""
    return place.spots[0] if place.gpus else str(actor)
