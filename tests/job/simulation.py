"""A world for the scheduler: actors, clips and faults in virtual time, no Ray.

It carries out the scheduler's actions, feeds back what would happen, and checks on the way that
no rule is broken: one clip per actor, one actor per clip, each clip settled once.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from sam3ray.failures import Failure, Reason
from sam3ray.job import actions as s
from sam3ray.job.graph import Cutting, Stage, Work
from sam3ray.job.health import Place
from sam3ray.job.scheduler import Scheduler


@dataclass(frozen=True)
class Nature:
    """What a clip does to whoever runs it."""

    crashes: int = 0  # attempts on which the worker dies, -1 for all
    crashes_ahead: bool = False  # it kills already while its first frames are decoded ahead
    hangs: int = 0
    oom_below: int = 0  # out of memory on every rung below this one
    error: Reason | None = None
    storage: int = 0
    kills_node: int = 0


@dataclass
class Faults:
    """Per-clip chances of things that are no clip's doing."""

    actor_dies: float = 0.0
    node_dies: float = 0.0
    start_fails: float = 0.0
    outages: tuple[tuple[float, float], ...] = ()  # (from, to): all storage fails


@dataclass(frozen=True)
class Sickness:
    """Of a process, a GPU or a node: whatever runs there fails."""

    reason: Reason
    fails_s: float = 0.5  # after so long
    since_s: float = 0.0
    until_s: float = float("inf")
    share: float = 1.0  # of the clips
    starts: bool = False  # actors cannot even load their model there


@dataclass
class Long:
    """A clip that is cut, and what the store has of it. Times in the unit of lengths.

    `natures`: of windows, by index; of linking (-1) and merging (-2). `rots`: windows that linking finds damaged, once.
    """

    windows: int
    extra: float = 0.0  # frames that a window shares with others or throws away, as a share of the clip
    opens: float = 0.0
    links: float = 0.0
    merges: float = 0.0
    kept: set[int] = field(default_factory=set)
    linked: bool = False
    natures: dict[int, Nature] = field(default_factory=dict)
    rots: set[int] = field(default_factory=set)

    @property
    def cutting(self) -> Cutting:
        share = 1 / self.windows + self.extra
        return Cutting((share,) * self.windows, frozenset(self.kept), self.linked)


@dataclass
class Cluster:
    """Nodes with slots for actors. A slot is a GPU where `gpus` says so.

    `sick` names nodes ("n1"), GPUs ("n1/gpu0") and actors ("actor 3").
    """

    slots: dict[str, int]
    gpus: bool = False
    sick: dict[str, Sickness] = field(default_factory=dict)
    slow_to_load: dict[str, float] = field(default_factory=dict)  # node -> seconds


@dataclass
class Outcome:
    done: set[int] = field(default_factory=set)
    final: dict[int, Reason] = field(default_factory=dict)
    records: Counter[tuple[int, Reason]] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    started_order: list[int] = field(default_factory=list)
    stopped: str | None = None
    actors_started: int = 0
    most_actors: int = 0
    now: float = 0.0
    events: int = 0
    killed_for: list[str] = field(default_factory=list)
    rungs: dict[int, list[int]] = field(default_factory=dict)
    fresh_rungs: list[bool] = field(default_factory=list)
    touched: dict[str, set[int]] = field(default_factory=dict)  # what is sick -> clips that failed of it
    said: list[s.SetAside | s.Reinstate] = field(default_factory=list)
    loads: int = 0
    windows_at_once: int = 0  # of one clip


class World:
    def __init__(
        self,
        lengths: list[float],
        limits: s.Limits,
        natures: dict[int, Nature] | None = None,
        faults: Faults | None = None,
        seed: int = 0,
        prior: dict[int, list[Reason]] | None = None,
        tick_s: float = 1.0,
        keep: bool = True,
        cluster: Cluster | None = None,
        longs: dict[int, Long] | None = None,
        merge_slots: int = 2,
        prior_parts: Mapping[Work, list[Reason]] | None = None,
        expected: Mapping[int, int] | None = None,
    ) -> None:
        self.lengths = lengths
        self.longs = longs or {}
        self.merge_slots = merge_slots
        self.expected = expected or {}
        self.merging: set[int] = set()
        self.natures = natures or {}
        self.faults = faults or Faults()
        self.random = random.Random(seed)
        self.scheduler = Scheduler(lengths, limits, prior=prior, prior_parts=prior_parts, seed=seed)
        self.limits = limits
        self.heap: list[tuple[float, int, str, tuple]] = []
        self.sequence = 0
        self.alive: dict[int, int] = {}  # actor -> clip it runs or -1
        self.avoids: dict[int, tuple[str, ...]] = {}
        self.ran: Counter[int] = Counter()
        self.held: dict[int, int] = {}
        self.where: dict[int, int] = {}  # clip -> actor
        self.crashed_on: Counter[int] = Counter()
        self.hung_on: Counter[int] = Counter()
        self.storage_on: Counter[int] = Counter()
        self.nodes_on: Counter[int] = Counter()
        self.out = Outcome()
        self.tick_s = tick_s
        self.keep = keep
        self.cluster = cluster
        self.places: dict[int, Place] = {}

    def later(self, delay: float, kind: str, *args: object) -> None:
        self.sequence += 1
        heapq.heappush(self.heap, (self.out.now + delay, self.sequence, kind, args))

    def run(self, until: float = float("inf")) -> Outcome:
        if self.cluster is not None:
            self.scheduler.nodes_seen(self.cluster.slots)
        self.do(self.scheduler.start(0.0))
        if self.expected:
            self.do(self.scheduler.expect(self.expected, 0.0))
        self.later(self.tick_s, "tick")
        while not self.scheduler.finished:
            assert self.heap, "the scheduler waits for something that will never happen"
            now, _, kind, args = heapq.heappop(self.heap)
            if now > until:
                break
            self.out.now = now
            self.out.events += 1
            getattr(self, "on_" + kind)(*args)
            if self.longs:
                self.do(self.scheduler.give_merges(self.merge_slots, self.out.now))
        self.out.stopped = self.scheduler.stopped
        return self.out

    # What happens

    def on_tick(self) -> None:
        self.do(self.scheduler.tick(self.out.now))
        self.later(self.tick_s, "tick")

    def on_placed(self, actor: int) -> None:
        if actor not in self.alive:
            return
        if self.cluster is None:
            self.do(self.scheduler.actor_placed(actor, self.out.now))
            return
        place = self.find_place(actor, self.cluster)
        if place is None:
            self.later(1.0, "placed", actor)
            return
        self.places[actor] = place
        self.do(self.scheduler.actor_placed(actor, self.out.now, place))

    def find_place(self, actor: int, cluster: Cluster) -> Place | None:
        taken = Counter(self.places[a].spots[0] for a in self.alive if a in self.places)
        for node, slots in cluster.slots.items():
            if node in self.avoids[actor]:
                continue
            if not cluster.gpus and taken[node] < slots:
                return Place(node, node)
            for slot in range(slots) if cluster.gpus else ():
                if not taken[f"{node}/gpu{slot}"]:
                    return Place(node, node, (str(slot),))
        return None

    def sickness(self, actor: int) -> tuple[str, Sickness] | None:
        """What is sick where the actor runs, now."""
        if self.cluster is None or actor not in self.places:
            return None
        for key in (f"actor {actor}", *self.places[actor].spots):
            sick = self.cluster.sick.get(key)
            if sick is not None and sick.since_s <= self.out.now < sick.until_s:
                return key, sick
        return None

    def on_ready(self, actor: int) -> None:
        if actor not in self.alive:
            return
        self.out.loads += 1
        found = self.sickness(actor)
        if self.random.random() < self.faults.start_fails or (found is not None and found[1].starts):
            del self.alive[actor]
            self.do(self.scheduler.actor_start_failed(actor, "no model", self.out.now))
        else:
            self.do(self.scheduler.actor_ready(actor, self.out.now))

    def on_sick(self, actor: int, clip: int, key: str, sick: Sickness) -> None:
        if self.alive.get(actor, -1) != clip:
            return
        self.out.touched.setdefault(key, set()).add(clip)
        if sick.reason is Reason.CRASHED:
            self.die(actor, Reason.CRASHED)
        elif sick.reason is not Reason.TIMED_OUT:
            self.fail(actor, clip, sick.reason)

    def on_prefetched(self, actor: int, clip: int, decoded: bool) -> None:
        if actor not in self.alive:
            return
        nature = self.nature(clip)
        if decoded and nature and nature.crashes_ahead:
            self.die(actor, Reason.CRASHED)
        else:
            self.do(self.scheduler.prefetched(actor, clip, self.out.now))

    def on_end(self, actor: int, clip: int, attempt: int, rung: int) -> None:
        if self.alive.get(actor, -1) != clip:
            return
        nature = self.nature(clip)
        dice = self.random.random()
        if dice < self.faults.actor_dies:
            return self.die(actor, Reason.CRASHED)
        if dice < self.faults.actor_dies + self.faults.node_dies:
            return self.die(actor, Reason.PREEMPTED)
        if nature is not None:
            if self.crashed_on[clip] < nature.crashes or nature.crashes < 0:
                self.crashed_on[clip] += 1
                return self.die(actor, Reason.CRASHED)
            if self.nodes_on[clip] < nature.kills_node or nature.kills_node < 0:
                self.nodes_on[clip] += 1
                return self.die(actor, Reason.PREEMPTED)
            if self.hung_on[clip] < nature.hangs or nature.hangs < 0:
                self.hung_on[clip] += 1
                return  # and never says anything again
            if rung < nature.oom_below:
                return self.fail(actor, clip, Reason.OUT_OF_MEMORY)
            if nature.error is not None:
                return self.fail(actor, clip, nature.error)
            if self.storage_on[clip] < nature.storage or nature.storage < 0:
                self.storage_on[clip] += 1
                return self.fail(actor, clip, Reason.STORAGE)
        if any(a <= self.out.now < b for a, b in self.faults.outages):
            return self.fail(actor, clip, Reason.STORAGE)
        work = self.scheduler.work(clip)
        long = self.longs.get(work.clip)
        self.free(actor, clip)
        if long is None:
            self.finish(clip)
            self.do(self.scheduler.clip_done(actor, clip, self.out.now))
        elif work.stage is Stage.CLIP:
            self.do(self.scheduler.clip_cut(actor, clip, long.cutting, self.out.now))
        elif work.stage is Stage.WINDOW:
            assert work.index not in long.kept, f"window {work.index} of clip {work.clip} is made twice"
            long.kept.add(work.index)
            self.do(self.scheduler.clip_done(actor, clip, self.out.now))
        else:
            assert len(long.kept) == long.windows, "linked before all windows were there"
            if long.rots:
                long.kept -= long.rots
                lost, long.rots = long.rots, set()
                self.do(self.scheduler.parts_lost(actor, clip, lost, self.out.now))
                return
            long.linked = True
            self.do(self.scheduler.clip_done(actor, clip, self.out.now))

    def on_merged(self, clip: int) -> None:
        self.merging.remove(clip)
        work = self.scheduler.work(clip)
        nature = self.nature(clip)
        if nature is not None and nature.error is not None:
            self.do(self.scheduler.merge_ended(clip, self.out.now, Failure("", nature.error, "simulated")))
            return
        if nature is not None and (self.crashed_on[clip] < nature.crashes or nature.crashes < 0):
            self.crashed_on[clip] += 1
            self.do(self.scheduler.merge_ended(clip, self.out.now, Failure("", Reason.CRASHED, "simulated")))
            return
        assert self.longs[work.clip].linked, "merged before the windows were linked"
        self.finish(work.clip)
        self.do(self.scheduler.merge_ended(clip, self.out.now))

    def finish(self, clip: int) -> None:
        assert clip not in self.out.done, f"clip {clip} is done twice"
        assert clip not in self.out.final, f"clip {clip} was given up before"
        self.out.done.add(clip)

    def nature(self, item: int) -> Nature | None:
        work = self.scheduler.work(item)
        if work.stage is Stage.CLIP:
            return self.natures.get(work.clip)
        index = {Stage.WINDOW: work.index, Stage.LINK: -1, Stage.MERGE: -2}[work.stage]
        return self.longs[work.clip].natures.get(index)

    def takes(self, item: int) -> float:
        work = self.scheduler.work(item)
        if (long := self.longs.get(work.clip)) is None:
            return self.lengths[item]
        whole = self.lengths[work.clip]
        return {
            Stage.CLIP: long.opens,
            Stage.WINDOW: whole * (1 / long.windows + long.extra),
            Stage.LINK: long.links,
            Stage.MERGE: long.merges,
        }[work.stage]

    def fail(self, actor: int, clip: int, reason: Reason) -> None:
        self.free(actor, clip)
        self.do(self.scheduler.clip_failed(actor, clip, reason, "simulated", self.out.now))

    def free(self, actor: int, clip: int) -> None:
        self.alive[actor] = -1
        del self.where[clip]

    def die(self, actor: int, reason: Reason) -> None:
        self.bury(actor)
        self.do(self.scheduler.actor_lost(actor, reason, "simulated", self.out.now))

    def bury(self, actor: int) -> None:
        clip = self.alive.pop(actor)
        if clip >= 0:
            del self.where[clip]
        self.held.pop(actor, None)

    # What the scheduler wants

    def do(self, actions: list[s.Action]) -> None:
        for action in actions:
            match action:
                case s.StartActor(actor, avoid):
                    self.alive[actor] = -1
                    self.avoids[actor] = avoid
                    self.out.actors_started += 1
                    parked = self.scheduler.parked
                    self.out.most_actors = max(self.out.most_actors, len(self.alive) - parked)
                    assert len(self.alive) - parked <= self.limits.actors_max
                    self.later(0.5, "placed", actor)
                case s.Load(actor):
                    loads_s = self.random.uniform(5, 10)
                    if self.cluster is not None:
                        loads_s = self.cluster.slow_to_load.get(self.places[actor].node, loads_s)
                    self.later(loads_s, "ready", actor)
                case s.Assign(actor, clip, attempt, rung):
                    assert self.alive[actor] == -1, f"actor {actor} got a second clip"
                    assert clip not in self.where, f"clip {clip} runs twice"
                    work = self.scheduler.work(clip)
                    assert work.clip not in self.out.done
                    assert work.clip not in self.out.final
                    assert self.held.pop(actor, clip) == clip, "held another clip"
                    if self.keep:
                        assert clip not in self.held.values()
                    self.alive[actor] = clip
                    self.where[clip] = actor
                    if self.longs:
                        same = [i for i in self.where if self.scheduler.work(i).clip == work.clip]
                        self.out.windows_at_once = max(self.out.windows_at_once, len(same))
                    if self.keep:
                        self.out.attempts[clip] += 1
                        self.out.started_order.append(clip)
                        self.out.rungs.setdefault(clip, []).append(rung)
                        if rung == s.FRESH_RUNG:
                            self.out.fresh_rungs.append(self.ran[actor] == 0)
                        self.ran[actor] += 1
                    found = self.sickness(actor)
                    if found is not None and self.random.random() < found[1].share:
                        self.later(found[1].fails_s, "sick", actor, clip, *found)
                    else:
                        self.later(max(self.takes(clip), 0.01), "end", actor, clip, attempt, rung)
                case s.Prefetch(actor, clip, decoded):
                    assert actor in self.alive
                    assert actor not in self.held
                    assert clip not in self.where
                    self.held[actor] = clip
                    self.later(0.3, "prefetched", actor, clip, decoded)
                case s.Merge(clip):
                    assert clip not in self.merging
                    self.merging.add(clip)
                    assert len(self.merging) <= self.merge_slots
                    self.later(self.takes(clip), "merged", clip)
                case s.DropPrefetch(actor, clip):
                    assert self.held.pop(actor) == clip
                case s.Kill(actor=actor, why=why):
                    if actor in self.alive:
                        self.bury(actor)
                    self.out.killed_for.append(why)
                case s.RecordFailure(clip=clip, reason=reason, final=final):
                    self.out.records[clip, reason] += 1
                    if final:
                        clip = self.scheduler.work(clip).clip
                        assert clip not in self.out.final
                        assert clip not in self.out.done
                        self.out.final[clip] = reason
                case s.SetAside() | s.Reinstate():
                    self.out.said.append(action)
                case s.Stop():
                    assert not any(clip >= 0 for clip in self.alive.values()), "stopped before what ran had ended"
                    assert not self.merging
