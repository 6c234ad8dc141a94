"""Actors that cannot load their model, and nodes that the storage or hub rejects: when to retry, when to stop."""

from __future__ import annotations

from collections.abc import Callable

from sam3ray.failures import Reason
from sam3ray.job.actions import Limits
from sam3ray.job.crew import Crew
from sam3ray.job.health import Health, Place
from sam3ray.job.placement import Placement


class Starts:
    """`backoff`: seconds to wait after this many consecutive errors.

    Attributes:
        after: time before which no actor is started.
    """

    def __init__(
        self, limits: Limits, crew: Crew, health: Health, placement: Placement, backoff: Callable[[int], float]
    ) -> None:
        self._limits = limits
        self._crew = crew
        self._health = health
        self._placement = placement
        self._backoff = backoff
        self._errors = 0  # consecutive
        self._errors_on: set[str] = set()  # nodes
        self._refusals: dict[str, str] = {}  # node -> message of the storage or hub
        self._none_ready_since: float | None = None
        self.after = 0.0

    def none_ready_s(self, now: float) -> float | None:
        """Seconds without a ready actor; None if an actor is ready."""
        return None if self._none_ready_since is None else now - self._none_ready_since

    def none_ready(self, now: float) -> None:
        self._none_ready_since = now

    def succeeded(self) -> None:
        """An actor has loaded its model."""
        self._none_ready_since = None
        self._errors = 0
        self._errors_on.clear()

    def wait(self, seconds: float, now: float) -> None:
        self.after = max(self.after, now + seconds)

    def wait_for_others(self, now: float) -> None:
        """The cause of failed starts may pass: starts no actor for a while."""
        self.wait(self._backoff(3), now)

    def refused(self, place: Place, message: str, now: float) -> bool:
        """The node was rejected, regardless of the clip. True if that happened to several nodes or to the only one."""
        self._refusals[place.node] = message
        self._health.refused(place, message, now)
        return self._refused_by_all

    def accepted(self, place: Place) -> None:
        self._refusals.pop(place.node, None)

    @property
    def _refused_by_all(self) -> bool:
        return len(self._refusals) >= min(2, len(self._health.nodes))

    def failed(self, message: str, now: float, actor: int, place: Place, *, hopeless: bool = False) -> str:
        """An actor could not load its model. Returns why the job must stop, or an empty string.

        Args:
            hopeless: no other actor on that node could.
        """
        self._errors += 1
        self._errors_on.add(place.node)
        if place.node:
            self._health.failed(actor, place, -1 - actor, Reason.INTERNAL, message, now)
        self.after = now + self._backoff(self._errors)
        if self._crew.ready > 0:
            return ""
        if hopeless and self._refused_by_all:
            return f"no actor can start: {message}"
        if self._errors < self._limits.actor_starts or self._placement.may_yet_start(self._errors_on, now):
            return ""
        tries = f"{self._errors} actors in a row" if self._errors > 1 else "an actor"
        return f"{tries} could not start; the last error: {message}"
