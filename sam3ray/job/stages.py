"""Divides the cluster between annotation and rendering, and decides when the job is over: pure, like the scheduler."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from sam3ray.config import ClusterConfig
from sam3ray.job.actions import Action
from sam3ray.job.capacity import (
    Node,
    Request,
    Room,
    all_cpus,
    no_cpus_for_rendering,
    render_cpus,
    render_slots,
    room_on,
)
from sam3ray.job.render_queue import RenderQueue
from sam3ray.job.scheduler import Scheduler

MERGES = 16  # at a time, at most
CROWDED_S = 30.0  # without a place for any actor, before the job says why


class Stages:
    """Coordinates the scheduler of clips and the queue of videos.

    Invariant, checked in the tests by simulation: while the nodes have room for one actor and one rendering task, the
    job makes progress. If they do not, `notice` says so, or, if no node can join, nothing waits.

    Attributes:
        room: number of actors that fit on the nodes, when last looked at.
        cpus_per_task: CPUs that a rendering task requests.
    """

    def __init__(
        self,
        cluster: ClusterConfig,
        scheduler: Scheduler,
        room: Room,
        videos: RenderQueue | None = None,
        cpus_per_task: float = 1.0,
    ) -> None:
        """`videos`: None if nothing is to be rendered."""
        self._cluster = cluster
        self._scheduler = scheduler
        self._videos = videos
        self._cpus_asked = self.cpus_per_task = cpus_per_task
        self._alone_since: float | None = None  # since when no actor has been placed, although one would fit
        self._crowded = False
        self.room = room

    def tell_of(self, nodes: Sequence[Node]) -> None:
        """Tells the scheduler which nodes can hold an actor, before it starts any."""
        request = Request.of(self._cluster)
        self._scheduler.nodes_seen(node.id for node in nodes if request.fits(node, 1))

    def look(self, nodes: Sequence[Node], where: Mapping[int, str], now: float) -> list[Action]:
        """Takes note of the cluster's current nodes. `where`: the node of each placed actor."""
        if self._cluster.alone:
            self.room = dataclasses.replace(self.room, cpus=all_cpus(nodes))
        else:
            self.room = room_on(nodes, self._cluster, self._scheduler.for_actors)
        self.tell_of(nodes)
        self._look_for_others(now)
        self.cpus_per_task = render_cpus(nodes, self._cpus_asked)
        if self._videos is not None and self.room.cpus == 0 and self._cluster.alone:
            self._videos.give_up(no_cpus_for_rendering(self._cluster))
        leaving = {node.id for node in nodes if node.draining}
        actions: list[Action] = []
        for actor in [actor for actor, node in where.items() if node in leaving]:
            actions += self._scheduler.actor_leaving(actor, "its node is leaving", now)
        return actions

    def _look_for_others(self, now: float) -> None:
        counts = self._scheduler.counts
        waits = counts.actors_unplaced > 0 and counts.actors_ready + counts.actors_starting == 0
        if not waits or self.room.actors == 0:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        self._crowded = self._alone_since is not None and now - self._alone_since >= CROWDED_S

    @property
    def merge_cpus(self) -> float:
        """CPUs that a merge requests; 0 on a cluster without CPUs, so that merges also run there."""
        return min(1.0, self.room.cpus) if self._cluster.alone else 1.0

    @property
    def merge_slots(self) -> int:
        """How many merges may run at once. They take precedence over videos."""
        cpus = self.merge_cpus
        return (
            min(MERGES, render_slots(self.room.cpus, self._actors, self._cluster.cpus_per_actor, cpus)) if cpus else 1
        )

    @property
    def render_slots(self) -> int:
        if self.room.cpus == 0 and self._cluster.alone:
            return 0
        cpus = self.room.cpus - self._scheduler.merging * self.merge_cpus
        return render_slots(cpus, self._actors, self._cluster.cpus_per_actor, self.cpus_per_task)

    @property
    def _actors(self) -> int:
        """Actors for which CPUs are reserved. Actors kept out by other users get none reserved: a task ends sooner."""
        return 0 if self._crowded else min(self.room.actors, self._scheduler.expected)

    @property
    def finished(self) -> bool:
        if self._scheduler.stopped is not None:
            return True
        return self._scheduler.finished and (self._videos is None or self._videos.pending == 0)

    @property
    def notice(self) -> str:
        """A sentence if the job is about to stop, has set a node or GPU aside, or has less room than requested."""
        if self._scheduler.stopping:
            return f"the job stops when the running clips have finished: {self._scheduler.stopping}"
        if aside := self._scheduler.counts.aside:
            return "; ".join(f"{name} is set aside: {why}" for name, why in sorted(aside.items()))
        if self._crowded:
            return "no actor has started yet: others are using the cluster's resources; the job is waiting"
        if self._scheduler.for_actors or self._cluster.alone:
            return self.room.notice
        if self._videos is not None and self._videos.pending and self.room.cpus == 0:
            return no_cpus_for_rendering(self._cluster)
        return ""
