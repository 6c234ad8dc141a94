"""Divides the cluster's resources among actors and tasks: pure arithmetic over the nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sam3ray.config import ClusterConfig
from sam3ray.failures import JobStopped

_EPS = 1e-9


@dataclass(frozen=True)
class Node:
    """A node's total resources, used or not, under Ray's names ("CPU", "GPU", "memory", ...).

    Attributes:
        draining: the node is about to leave; start nothing on it.
    """

    id: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    draining: bool = False

    @property
    def cpus(self) -> float:
        return self.resources.get("CPU", 0.0)


@dataclass(frozen=True)
class Request:
    """One actor's request, under Ray's names; `gpus` is separate because a fraction must fit on one GPU."""

    gpus: float
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(config: ClusterConfig) -> Request:
        asked: dict[str, float] = {"CPU": config.cpus_per_actor, **config.resources}
        if config.memory is not None:
            asked["memory"] = config.memory
        if config.accelerator_type is not None:
            asked[f"accelerator_type:{config.accelerator_type}"] = 0.001  # Ray's resource for a GPU type
        return Request(config.gpus_per_actor, asked, config.label_selector)

    def fits(self, node: Node, most: int) -> int:
        """How many such actors fit on the node, at most `most`."""
        if node.draining or not all(matches(wanted, node.labels.get(key)) for key, wanted in self.labels.items()):
            return 0
        room = float(most)
        for name, amount in self.resources.items():
            if amount > 0:
                room = min(room, node.resources.get(name, 0.0) / amount)
        gpus = node.resources.get("GPU", 0.0)
        if self.gpus >= 1:
            room = min(room, gpus / self.gpus)
        elif self.gpus > 0:
            # Three actors of 0.4 do not fit on 1.2.
            room = min(room, int(gpus) * int(1 / self.gpus + _EPS))
        return int(room + _EPS)

    def __str__(self) -> str:
        parts = [f"{self.gpus:g} GPU", f"{self.resources['CPU']:g} CPU"]
        for name, amount in self.resources.items():
            kind, _, model = name.partition(":")
            if kind == "accelerator_type":
                parts[0] = f"{self.gpus:g} GPU of type {model}"
            elif name == "memory":
                parts.append(f"{amount / 2**30:.3g} GiB of memory")
            elif name != "CPU":
                parts.append(f"{amount:g} {name}")
        text = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]])) + " each"
        labels = ", ".join(f"{key}={value}" for key, value in self.labels.items())
        return f"{text} on nodes with {labels}" if labels else text


def matches(wanted: str, label: str | None) -> bool:
    """Ray's label selectors: `a`, `!a`, `in(a, b)`, `!in(a, b)`. A node without the label matches the negations."""
    negated = wanted.startswith("!")
    text = wanted.removeprefix("!")
    inside = re.fullmatch(r"(?:in)?\((.*)\)", text)
    values = {value.strip() for value in inside[1].split(",")} if inside else {text}
    return (label in values) != negated


@dataclass(frozen=True)
class Room:
    """How many actors fit; `notice` is a sentence if that is fewer than requested."""

    actors: int
    cpus: float
    notice: str = ""


def room_on(nodes: Sequence[Node], config: ClusterConfig, clips: int) -> Room:
    """Compares the actors' requests with the nodes' resources. No more actors are wanted than there are clips.

    Raises:
        JobStopped: on this machine alone (`address: null`), where no node can join, not even `actors.min` fit.
    """
    request = Request.of(config)
    cpus = all_cpus(nodes)
    low, high = config.actors.min, config.actors.max
    fit = sum(request.fits(node, high) for node in nodes)
    if fit >= min(high, clips):
        return Room(min(fit, high), cpus)
    has, fixed = f"the cluster has {_inventory(nodes, request)}", config.alone
    room = "for none" if fit == 0 else f"for {fit} only"
    if fit < min(low, clips):
        asks = f"cluster.actors.min asks for {_count(low, 'actor')} of {request}, but {has}: room {room}"
        if fixed:
            raise JobStopped(asks + _advice(nodes, config))
        waiting = "the job is waiting for nodes" if fit == 0 else "the others are waiting for nodes"
        return Room(fit, cpus, f"{asks}; {waiting}")
    asks = f"cluster.actors.max asks for {_count(high, 'actor')} of {request}; {has}: running {fit}"
    return Room(fit, cpus, asks if fixed else f"{asks}, more as nodes join")


def _inventory(nodes: Sequence[Node], request: Request) -> str:
    """The cluster's amounts of the requested resources, as a phrase."""
    usable = [node for node in nodes if not node.draining]

    def total(name: str) -> float:
        return sum(node.resources.get(name, 0.0) for node in usable)

    parts = [_count(total("GPU"), "GPU"), _count(total("CPU"), "CPU")]
    for name in request.resources:
        kind, _, model = name.partition(":")
        if kind == "accelerator_type":
            parts.append(
                _count(sum(name in node.resources for node in usable), f"node with {model}", f"nodes with {model}")
            )
        elif name == "memory":
            parts.append(f"{total(name) / 2**30:.3g} GiB of memory")
        elif name != "CPU":
            parts.append(f"{total(name):g} {name}")
    if request.labels:
        fitting = sum(all(matches(w, n.labels.get(k)) for k, w in request.labels.items()) for n in usable)
        parts.append(_count(fitting, "node with those labels", "nodes with those labels"))
    draining = len(nodes) - len(usable)
    on = f" on {_count(len(usable), 'node')}" + (f" ({draining} more are leaving)" if draining else "")
    return f"{', '.join(parts[:-1])} and {parts[-1]}{on}"


def _advice(nodes: Sequence[Node], config: ClusterConfig) -> str:
    if config.gpus_per_actor > 0 and not any(node.resources.get("GPU") for node in nodes):
        return "; set cluster.gpus_per_actor to 0 to run on CPUs"
    return ""


def all_cpus(nodes: Sequence[Node]) -> float:
    return sum(node.cpus for node in nodes if not node.draining)


def render_cpus(nodes: Sequence[Node], asked: float) -> float:
    """The CPUs that a rendering task requests: as configured, or fewer if no node has that many."""
    largest = max((node.cpus for node in nodes if not node.draining), default=0.0)
    return min(asked, largest) if largest > 0 else asked


def no_cpus_for_rendering(config: ClusterConfig) -> str:
    waits = "" if config.alone else "; rendering is waiting for nodes"
    return f"rendering needs CPUs, and the cluster has none{waits}"


def render_slots(cpus: float, actors: int, cpus_per_actor: float, cpus_per_task: float) -> int:
    """How many rendering tasks may run at once.

    Rendering uses only CPUs that no actor will need, also while an actor is being replaced.

    Args:
        actors: actors running or wanted that fit on the cluster.
    """
    slots = int((cpus - actors * cpus_per_actor) / cpus_per_task + _EPS)
    return max(slots, 1 if actors == 0 else 0)


def _count(number: float, noun: str, nouns: str = "") -> str:
    return f"{number:g} {noun if number == 1 else nouns or noun + 's'}" if number else f"no {noun}"
