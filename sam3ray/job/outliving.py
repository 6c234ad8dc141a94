"""Actors that outlive their driver, and how the next driver takes them over.

With `cluster.keep_actors_s` above 0, a job on a cluster starts its actors detached, in a namespace of the run. If the
driver dies, they keep working. The next driver of the run finds them by that namespace. It takes over those that have
loaded the same model under the same settings, with their clips. It ends all others.

The driver calls each actor about once a second. An actor that gets no call for `keep_actors_s` saves a window of its
clip and exits, so that no GPU is held forever.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sam3ray.config import JobConfig
from sam3ray.job.health import Place
from sam3ray.job.logs import event

if TYPE_CHECKING:
    from sam3ray.job.actor import WorkOrder

_LOG = logging.getLogger(__name__)

ANSWER_S = 10.0  # for an actor to report its state
COMMIT_S = 60.0  # for its last window to reach the store


@dataclass(frozen=True)
class Standing:
    """An actor's report of its state.

    Attributes:
        order: `order_key` of what it has loaded; empty: nothing loaded yet.
        clip_id: the running clip; empty: none.
        rung: the attempt's rung of the out-of-memory ladder.
        part: the running part of a clip that is cut into parallel windows; empty: the whole clip.
    """

    order: str
    place: Place
    clip_id: str = ""
    rung: int = 0
    part: str = ""


@dataclass(frozen=True)
class Outliving:
    """An actor of an earlier driver that can be taken over."""

    handle: Any
    standing: Standing


def keeps(config: JobConfig) -> float:
    """Seconds for which actors outlive their driver: 0 on a private Ray, which ends with the driver."""
    return 0.0 if config.cluster.alone else config.cluster.keep_actors_s


def order_key(order: WorkOrder) -> str:
    """A digest of everything that determines how an actor processes a clip."""
    cluster = order.config.cluster.model_copy(update={"actors": type(order.config.cluster.actors)()})
    config = order.config.model_copy(update={"cluster": cluster})
    parts = (
        config.model_dump_json(),
        sorted(order.fingerprint.items()),
        dataclasses.asdict(order.agreed),
        order.make_segmenter,
        order.refinement,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def options(run_id: str) -> dict[str, Any]:
    """Ray's options for an actor that outlives its driver."""
    return {"name": uuid.uuid4().hex, "namespace": _namespace(run_id), "lifetime": "detached"}


def take_over(run_id: str, key: str) -> list[Outliving]:
    """The run's live actors that match `key`; the others are ended."""
    import ray

    namespace, handles = _namespace(run_id), []
    for named in ray.util.list_named_actors(all_namespaces=True):
        if named["namespace"] == namespace:
            with contextlib.suppress(ValueError):  # the actor has ended meanwhile
                handles.append(ray.get_actor(named["name"], namespace=namespace))
    asked: dict[Any, Any] = {handle.standing.remote(): handle for handle in handles}
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
    found = []
    for ref, handle in asked.items():
        standing = _answer(ref) if ref in answered else None
        if standing is not None and standing.order == key:
            place = dataclasses.asdict(standing.place)
            event(_LOG, logging.INFO, "actor taken over", clip_id=standing.clip_id, **place)
            found.append(Outliving(handle, standing))
        else:
            event(_LOG, logging.INFO, "actor of an earlier driver ended")
            ray.kill(handle)
    return found


def _answer(ref: Any) -> Standing | None:
    import ray

    try:
        standing: Standing = ray.get(ref)
    except ray.exceptions.RayError:
        return None
    return standing


def _namespace(run_id: str) -> str:
    return f"sam3ray-{run_id}"


class Heartbeat:
    """Runs in an actor: ends the process after `limit_s` without a call from a driver.

    Args:
        last_words: called before the end; returns an event, which is set when its work is done.
    """

    def __init__(self, limit_s: float, last_words: Callable[[], threading.Event]) -> None:
        self._limit_s = limit_s
        self._last_words = last_words
        self.heard()
        if limit_s > 0:
            threading.Thread(target=self._watch, name="sam3ray-heartbeat", daemon=True).start()

    def heard(self) -> None:
        self._at = time.monotonic()

    def _watch(self) -> None:
        while (left := self._at + self._limit_s - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
        _LOG.warning("no driver for %.0f s: saving progress and exiting", self._limit_s)
        self._last_words().wait(COMMIT_S)
        os._exit(0)
