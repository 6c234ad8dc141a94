"""A Ray to run on: one of our own on this machine, or one that is there already."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from sam3ray.config import ClusterConfig
from sam3ray.failures import JobStopped
from sam3ray.job.capacity import Node
from sam3ray.redact import redact

# Actors hand back small values only; annotations go straight to storage.
_OBJECT_STORE_BYTES = 256 * 2**20
_LONGEST_TEMP_DIR = 40
_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
LOCAL_STARTS = 3
LOOK_EVERY_S = 5.0  # at the nodes: which are there, which are about to go


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


def look() -> list[Node]:
    """The nodes of the cluster that is connected."""
    import ray

    draining = _draining()
    return [
        Node(node["NodeID"], dict(node["Resources"]), dict(node.get("Labels") or {}), node["NodeID"] in draining)
        for node in ray.nodes()
        if node["Alive"]
    ]


def _draining() -> set[str]:
    """Ids of nodes that have been given notice: by a cloud that takes them back, an autoscaler, or a person.

    Ray 2.60 has no public call for it; its own Train library asks in the same way (train/v2, preemption.py).
    """
    import ray

    ask = getattr(ray._private.state.state, "get_draining_nodes", None)
    return set(ask()) if ask is not None else set()
