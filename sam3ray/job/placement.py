"""Decides where clips may run and where actors may start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

from sam3ray.job.blame import Blame, spot_of
from sam3ray.job.crew import Crew
from sam3ray.job.health import Health, Place

UNSEEN_S = 60.0  # within this time, an unplaced actor may start on a node without actors


class Placement:
    """Answers from the crew, the health of places and the clips' failures; changes nothing."""

    def __init__(self, crew: Crew, health: Health, blame: Blame) -> None:
        self._crew = crew
        self._health = health
        self._blame = blame
        self._away: Set[str] = frozenset()  # nodes to avoid until `_away_until`
        self._away_until = float("-inf")

    def keep_from(self, nodes: Set[str], until: float) -> None:
        """Avoids these nodes for new actors until that time, if there are others."""
        self._away, self._away_until = nodes, until

    def to_avoid(self, now: float) -> tuple[str, ...]:
        """Nodes to avoid for new actors, if there are others."""
        away = self._away if now < self._away_until and self._health.nodes.difference(self._away) else set()
        return tuple(sorted({*self._health.to_avoid, *away} - {""}))

    def nodes_of_actors(self) -> set[str]:
        return {self._health.place_of(a).node for a, m in self._crew.items() if m.placed_at is not None}

    def usable(self) -> Iterable[int]:
        """Placed actors that have a clip or may get one."""
        return (
            actor
            for actor, member in self._crew.items()
            if member.placed_at is not None
            and not member.parked
            and not member.leaving
            and not self._health.is_aside(actor)
        )

    def has_other_node(self, node: str) -> bool:
        return any(self._health.place_of(actor).node != node for actor in self.usable())

    def is_new(self, clip: int, actor: int) -> bool:
        """Whether the clip has not failed at the actor's place."""
        history = self._blame.of(clip)
        place = self._health.place_of(actor)
        if place.node not in history.nodes:
            return True
        return spot_of(actor, place) not in history.spots

    def has_other_place(self, clip: int) -> bool:
        return any(self.is_new(clip, actor) for actor in self.usable())

    def has_other_spot(self, clip: int) -> bool:
        """Whether there is a node or GPU where the clip has not failed."""
        places = [self._health.place_of(actor) for actor in self.usable()]
        history = self._blame.of(clip)
        return any(p.node not in history.nodes or (p.gpus and p.spots[0] not in history.spots) for p in places)

    def may_run(self, clip: int, actor: int) -> bool:
        """Whether the clip may run there. It goes to a node where it has not failed if possible, else to such a GPU."""
        if not self._blame.has(clip):
            return True
        history, place = self._blame.of(clip), self._health.place_of(actor)
        if place.node not in history.nodes:
            return True
        if any(self._health.place_of(other).node not in history.nodes for other in self.usable()):
            return False
        return spot_of(actor, place) not in history.spots or not self.has_other_place(clip)

    def coming(self, now: float) -> Iterator[Place | None]:
        """Nodes where actors are about to start; None for an actor that may start on a node without actors."""
        unseen = bool(self._health.unseen_nodes)
        for actor, member in self._crew.items():
            if member.ready or member.parked:
                continue
            if member.placed_at is not None:
                yield self._health.place_of(actor)
            elif unseen and now - member.started_at < UNSEEN_S:
                yield None

    def undecided(self, now: float) -> bool:
        """Whether a place without an outcome may soon have one."""
        return any(place is None or not any(map(self._health.is_suspect, place.spots)) for place in self.coming(now))

    def may_yet_start(self, failed_on: Set[str], now: float) -> bool:
        """Whether an actor may yet start on a node where no start has failed."""
        return any(place is None or place.node not in failed_on for place in self.coming(now))
