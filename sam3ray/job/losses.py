"""Translates Ray's errors about a dead actor into one of our reasons.

Ray 2.60's errors for dead actors have no common parent except RayError, and give the cause partly in flags, partly in
text. A lost node first appears as an unavailable actor, and only later (after about 15 s of missed heartbeats) as a
dead one: until then, the verdict is "unsure".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sam3ray.failures import Reason

_NODE_GONE = ("node has died", "node was terminated", "node is dead", "node died", "preempted")
# The first row of Ray's table "Top 10 memory users", with white space folded.
_LARGEST = re.compile(r"PID MEM\(GB\) COMMAND (?P<pid>\d+) (?P<gb>[0-9.]+) (?P<command>\S+)")
_MEMORY = ("running low on memory", "memory monitor", "low memory", "OutOfMemory")


@dataclass(frozen=True)
class Verdict:
    reason: Reason
    message: str
    unsure: bool = False  # not known yet: ask again


def judge(error: BaseException, node: str | None) -> Verdict:
    """`node`: id of the node on which the actor ran, if known."""
    from ray import exceptions

    text = " ".join(str(error).split())
    if isinstance(error, exceptions.ActorUnavailableError):
        return Verdict(Reason.PREEMPTED, "the actor cannot be reached", unsure=True)
    if isinstance(error, exceptions.OutOfMemoryError) or any(word in text for word in _MEMORY):
        neighbour = _neighbour(text)
        if neighbour is not None:
            # Not charged, but treated like a lost node: the clip did not cause the shortage.
            return Verdict(Reason.PREEMPTED, f"its node ran out of memory, most of it held by {neighbour}")
        return Verdict(Reason.OUT_OF_MEMORY, "the worker was killed because its node ran out of memory")
    if (
        isinstance(error, (exceptions.NodeDiedError, exceptions.ActorUnschedulableError))
        or getattr(error, "preempted", False)
        or any(phrase in text for phrase in _NODE_GONE)
        or (node is not None and node not in nodes_alive())
    ):
        return Verdict(Reason.PREEMPTED, "the node that the worker ran on was lost")
    if getattr(error, "actor_init_failed", False):
        # The last line of the traceback has the cause, for example a node without the package.
        last = str(error).strip().splitlines()[-1]
        return Verdict(Reason.CRASHED, f"the worker could not be set up: {last[-300:]}")
    return Verdict(Reason.CRASHED, f"the worker's process died: {_detail(text)}")


def _neighbour(text: str) -> str | None:
    """The process that uses most of a node's memory, if it is not a Ray worker. Ray lists the largest first."""
    found = _LARGEST.search(text)
    if found is None or found["command"].startswith("ray::"):
        return None
    return f"{found['command'].rpartition('/')[2][:40] or 'a process'} (process {found['pid']}, {found['gb']} GB)"


def nodes_alive() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _detail(text: str) -> str:
    """Ray's description of the process's end, without its general advice."""
    marker = "Worker exit detail:"
    if marker in text:
        text = text.split(marker, 1)[1]
    for advice in ("Some common causes", "If the process was killed"):
        text = text.split(advice, 1)[0]
    return text.strip()[:300] or "no detail"
