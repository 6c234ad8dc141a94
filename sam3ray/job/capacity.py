"""Who may use which of the cluster's resources: pure arithmetic over what the nodes have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sam3ray.config import ClusterConfig
from sam3ray.failures import JobStopped


@dataclass(frozen=True)
class Room:
    """How many actors the cluster has room for, `notice` being a sentence where that is fewer than asked."""

    actors: int
    cpus: float
    notice: str = ""


def room_on(nodes: Sequence[Mapping[str, float]], config: ClusterConfig) -> Room:
    """Compares what the actors ask for with what each node has ("CPU", "GPU").

    Raises:
        JobStopped: not even `actors.min` fit, and the cluster does not grow (`autoscaling`).
    """
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    low, high = config.actors.min, config.actors.max
    if config.autoscaling:
        return Room(high, cpus)
    fit = sum(_fit(node, config, high) for node in nodes)
    if fit >= high:
        return Room(high, cpus)
    has = f"the cluster has {_count(gpus, 'GPU')} and {_count(cpus, 'CPU')} on {_count(len(nodes), 'node')}"
    each = f"{config.gpus_per_actor:g} GPU and {config.cpus_per_actor:g} CPU each"
    if fit < low:
        room = "for none" if fit == 0 else f"for {fit} only"
        advice = ""
        if gpus == 0 and config.gpus_per_actor > 0:
            advice = "; set cluster.gpus_per_actor to 0 to run on CPUs"
        raise JobStopped(f"cluster.actors.min asks for {low} actor(s) of {each}, but {has}: room {room}{advice}")
    notice = f"cluster.actors.max asks for {high} actors of {each}; {has}: running {fit}"
    return Room(fit, cpus, notice)


def render_slots(cpus: float, actors: int, cpus_per_actor: float, cpus_per_task: float) -> int:
    """Rendering gets what the actors can never want: their CPUs stay free even while one is replaced."""
    slots = int((cpus - actors * cpus_per_actor) / cpus_per_task + 1e-9)
    return max(slots, 1 if actors == 0 else 0)


def _fit(node: Mapping[str, float], config: ClusterConfig, most: int) -> int:
    room = float(most)
    if config.cpus_per_actor > 0:
        room = min(room, node.get("CPU", 0.0) / config.cpus_per_actor)
    if config.gpus_per_actor >= 1:
        room = min(room, node.get("GPU", 0.0) / config.gpus_per_actor)
    elif config.gpus_per_actor > 0:
        # A fraction lies within one GPU: three actors of 0.4 do not fit on 1.2.
        room = min(room, node.get("GPU", 0.0) * int(1 / config.gpus_per_actor + 1e-9))
    return int(room + 1e-9)


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}" if number else f"no {noun}"
