"""The scheduler's simulated world on a cluster with nodes, where actors and rendering tasks share CPUs and GPUs.

Both are placed as Ray does it: whatever fits on some node, in no order that could be relied on.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from sam3ray.config import ClusterConfig
from sam3ray.failures import Reason
from sam3ray.job import actions as s
from sam3ray.job.capacity import Node, all_cpus, render_cpus, room_on
from sam3ray.job.cluster import LOOK_EVERY_S
from sam3ray.job.render_queue import RenderQueue
from sam3ray.job.stages import Stages
from sam3ray.manifest import Clip
from tests.job.simulation import Nature, World

QUIET_S = 600.0  # the cluster does not change any more


@dataclass
class Machine:
    cpus: float
    gpus: int
    draining: bool = False

    def __post_init__(self) -> None:
        self.free_cpus = self.cpus
        self.free_gpus = [1.0] * self.gpus

    def take(self, cpus: float, gpus: float) -> dict[int, float] | None:
        """Which GPUs it gives away, and how much of each; None where it has no room."""
        if self.draining or cpus > self.free_cpus + 1e-9:
            return None
        given: dict[int, float] = {}
        if gpus >= 1:
            whole = [number for number, free in enumerate(self.free_gpus) if free == 1.0]
            if len(whole) < gpus:
                return None
            given = dict.fromkeys(whole[: int(gpus)], 1.0)
        elif gpus > 0:
            number = next((number for number, free in enumerate(self.free_gpus) if free >= gpus - 1e-9), None)
            if number is None:
                return None
            given = {number: gpus}
        self.free_cpus -= cpus
        for number, amount in given.items():
            self.free_gpus[number] -= amount
        return given

    def give_back(self, cpus: float, given: dict[int, float]) -> None:
        self.free_cpus += cpus
        for number, amount in given.items():
            self.free_gpus[number] = round(self.free_gpus[number] + amount, 9)


@dataclass(frozen=True)
class Change:
    """Of the cluster, at a time: `machine` joins as `name`, or (None) `name` is given notice and then goes."""

    at_s: float
    name: str
    machine: Machine | None = None
    notice_s: float = 0.0


class SharedCluster(World):
    """`run_all` ends when the job does, or at `until`."""

    def __init__(
        self,
        config: ClusterConfig,
        machines: dict[str, Machine],
        changes: Iterable[Change],
        clips: int,
        *,
        videos: bool,
        unrendered: int = 0,
        cpus_per_task: float = 1.0,
        natures: dict[int, Nature] | None = None,
        seed: int = 0,
    ) -> None:
        self.config = config
        self.machines = dict(machines)
        room = room_on(self.nodes(), config, clips)
        limits = s.Limits(
            actors_min=config.actors.min,
            actors_max=room.actors if config.alone else config.actors.max,
            no_progress_s=100.0,
            backoff_s=1.0,
        )
        super().__init__([10.0 + clip for clip in range(clips)], limits, natures, seed=seed, tick_s=5.0)
        self.queue = RenderQueue() if videos else None
        self.stages = Stages(config, self.scheduler, room, self.queue, cpus_per_task)
        for number in range(unrendered if videos else 0):
            self.queue.add(Clip(f"old-{number}", "x"))
        self.wanted: list[int] = []  # actors that wait for a place
        self.tasks: list[tuple[str, float]] = []  # rendering tasks that do
        self.at: dict[int, tuple[str, dict[int, float]]] = {}  # actor -> machine, GPUs
        self.at_work: dict[str, tuple[str, float]] = {}  # clip id -> machine, CPUs
        self.seen: set[int] = set()  # clips that are done and in the queue of videos
        self.later(0.0, "look")
        for change in changes:
            self.later(change.at_s, "change", change)

    def nodes(self) -> list[Node]:
        return [
            Node(name, {"CPU": m.cpus, "GPU": float(m.gpus)}, draining=m.draining) for name, m in self.machines.items()
        ]

    def run_all(self, until: float) -> bool:
        """Whether the job ended."""
        self.do(self.scheduler.start(0.0))
        self.later(self.tick_s, "tick")
        while not self.stages.finished:
            now, _, kind, args = heapq.heappop(self.heap)
            if now > until or (now > QUIET_S and self.lacks and not self.at and not self.at_work):
                return False
            self.out.now = now
            getattr(self, "on_" + kind)(*args)
            self.settle()
        self.out.stopped = self.scheduler.stopped
        return True

    def settle(self) -> None:
        """What follows from any event: videos are wanted, tasks start, Ray places what fits; and nothing idles."""
        if self.queue is not None:
            for clip in self.out.done - self.seen:
                self.queue.add(Clip(f"clip-{clip}", "x"))
            self.seen |= self.out.done
            for clip in self.queue.take(self.stages.render_slots, self.out.now):
                self.tasks.append((clip.clip_id, self.stages.cpus_per_task))
        self.place()
        staying = [actor for actor, (name, _) in self.at.items() if not self.machines[name].draining]
        kept = len(staying) + len(self.wanted)
        assert kept <= self.scheduler.counts.open, "actors are kept that nothing is left for"

    def place(self) -> None:
        names = list(self.machines)
        self.random.shuffle(names)
        for order in self.random.sample([self.place_actors, self.place_tasks], 2):
            order(names)

    def place_actors(self, names: list[str]) -> None:
        for actor in list(self.wanted):
            for name in names:
                given = self.machines[name].take(self.config.cpus_per_actor, self.config.gpus_per_actor)
                if given is not None:
                    self.wanted.remove(actor)
                    self.at[actor] = (name, given)
                    self.alive[actor] = -1
                    self.later(0.5, "placed", actor)
                    self.later(self.random.uniform(5, 10), "ready", actor)
                    break

    def place_tasks(self, names: list[str]) -> None:
        for clip_id, cpus in list(self.tasks):
            for name in names:
                if self.machines[name].take(cpus, 0.0) is not None:
                    self.tasks.remove((clip_id, cpus))
                    self.at_work[clip_id] = (name, cpus)
                    self.later(self.random.uniform(1, 20), "rendered", clip_id, name)
                    break

    # What happens

    def on_look(self) -> None:
        where = {actor: name for actor, (name, _) in self.at.items()}
        self.do(self.stages.look(self.nodes(), where, self.out.now))
        for clip_id, cpus in [task for task in self.tasks if task[1] > self.stages.cpus_per_task]:
            self.tasks.remove((clip_id, cpus))
            self.queue.put_back(clip_id)
        self.later(LOOK_EVERY_S, "look")

    def on_change(self, change: Change) -> None:
        if change.machine is not None:
            self.machines.setdefault(change.name, change.machine)
        elif change.name in self.machines:
            self.machines[change.name].draining = change.notice_s > 0
            self.later(change.notice_s, "gone", change.name)

    def on_gone(self, name: str) -> None:
        self.machines.pop(name, None)
        for actor in [actor for actor, (place, _) in self.at.items() if place == name]:
            self.die(actor, Reason.PREEMPTED)
        for clip_id in [clip_id for clip_id, (place, _) in self.at_work.items() if place == name]:
            del self.at_work[clip_id]
            self.queue.died(clip_id, "gone", with_its_node=True)

    def on_rendered(self, clip_id: str, name: str) -> None:
        if self.at_work.get(clip_id, ("", 0.0))[0] == name:
            place, cpus = self.at_work.pop(clip_id)
            self.machines[place].give_back(cpus, {})
            self.queue.made(clip_id)

    def bury(self, actor: int) -> None:
        super().bury(actor)
        name, given = self.at.pop(actor)
        if name in self.machines:
            self.machines[name].give_back(self.config.cpus_per_actor, given)

    def do(self, actions: list[s.Action]) -> None:
        for action in actions:
            match action:
                case s.StartActor(actor):
                    self.wanted.append(actor)
                case s.Kill(actor=actor) if actor in self.wanted:
                    self.wanted.remove(actor)
                case _:
                    super().do([action])

    @property
    def lacks(self) -> bool:
        """On the nodes as they are now, something that is left to do has no room at all."""
        room = room_on(self.nodes(), self.config.model_copy(update={"address": "auto"}), clips=1)
        if self.scheduler.counts.open and room.actors == 0:
            return True
        no_cpus = all_cpus(self.nodes()) < render_cpus(self.nodes(), self.stages.cpus_per_task)
        return bool(self.queue is not None and self.queue.pending and no_cpus)
