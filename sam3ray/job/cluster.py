"""A Ray to run on: one of our own on this machine, or one that is there already."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sam3ray.config import ClusterConfig
from sam3ray.failures import JobStopped
from sam3ray.redact import redact

# Actors hand back small values only; annotations go straight to storage.
_OBJECT_STORE_BYTES = 256 * 2**20
_LONGEST_TEMP_DIR = 40
_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
LOCAL_STARTS = 3


@contextlib.contextmanager
def connected(config: ClusterConfig, *, dashboard: bool = False) -> Iterator[None]:
    """Connects to Ray and disconnects in the end; a Ray of our own ends with it.

    Raises:
        JobStopped: no Ray could be started, or there is none at the address.
    """
    # Ray prints raylet messages about dead workers on stdout, which is for results, whatever `log_to_driver`
    # says (2.60, _private/worker.py, listen_error_messages). We say ourselves what died, and why.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    import ray

    if ray.is_initialized():  # a test or a notebook brought its own: leave it as it is
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if config.address is None:
            start_local(include_dashboard=dashboard)
        else:
            ray.init(address=config.address, **_QUIET)
    except Exception as error:  # Ray raises many kinds, ConnectionError and RuntimeError among them
        what = "a local Ray could not be started" if config.address is None else f"no Ray at {config.address!r}"
        raise JobStopped(redact(f"{what}: {' '.join(str(error).split())[:400]}")) from error
    try:
        yield
    finally:
        ray.shutdown()


def start_local(**options: Any) -> None:
    """A Ray on this machine for this process alone. Tries again: Ray 2.60 gives a busy machine 30 s, no more."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # `local`: whatever RAY_ADDRESS says.
    options = {"object_store_memory": _OBJECT_STORE_BYTES, "_temp_dir": _temp_dir(), **_QUIET, **options}
    for tries_left in reversed(range(LOCAL_STARTS)):
        try:
            ray.init(address="local", **options)
            return
        except Exception:
            ray.shutdown()
            if tries_left == 0:
                raise


def _temp_dir() -> str | None:
    """Where a Ray of our own keeps its sessions; None leaves it to Ray.

    Ray puts Unix sockets below it, whose paths must not exceed 107 bytes, some 65 of which are Ray's own. The default
    is `ray` in the system's temporary folder: too deep a one, or somebody else's, will not do.
    """
    if "RAY_TMPDIR" in os.environ:
        return None
    for folder in (os.path.join(tempfile.gettempdir(), "ray"), "/tmp/ray", f"/tmp/ray-{os.getuid()}"):
        if len(os.fsencode(folder)) <= _LONGEST_TEMP_DIR and _may_write(folder):
            return folder
    return tempfile.mkdtemp(prefix="ray-", dir="/tmp")


def _may_write(folder: str) -> bool:
    there = folder if os.path.exists(folder) else os.path.dirname(folder)
    return os.access(there, os.W_OK | os.X_OK)


@dataclass(frozen=True)
class Room:
    """How many actors the cluster has room for, `notice` being a sentence where that is fewer than asked."""

    actors: int
    cpus: float
    notice: str = ""


def room_for_actors(config: ClusterConfig) -> Room:
    """`room_on` the cluster that is connected."""
    import ray

    return room_on([node["Resources"] for node in ray.nodes() if node["Alive"]], config)


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


def largest_node_cpus() -> float:
    import ray

    return max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)


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
