"""The Ray side of a worker: a process with a loaded model. Everything it does is in `job.worker`."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sam3ray.config import JobConfig
from sam3ray.failures import Failure, JobStopped, NotNow
from sam3ray.faults.machine import machine_fault
from sam3ray.guard.redact import redact
from sam3ray.job.agreement import Agreement
from sam3ray.job.graph import Work
from sam3ray.job.health import Place
from sam3ray.job.logs import set_up_logging
from sam3ray.job.outliving import Heartbeat, Standing, order_key
from sam3ray.job.result import Answer
from sam3ray.job.worker import ClipWorker, MakeSegmenter
from sam3ray.values.clip import Clip

if TYPE_CHECKING:
    from sam3ray.job.refinement import Refinement
    from sam3ray.store import RunStore


@dataclass(frozen=True)
class WorkOrder:
    """The settings sent to every actor of a job."""

    config: JobConfig
    store: RunStore
    fingerprint: Mapping[str, Any]
    make_segmenter: MakeSegmenter | None
    log_level: str
    agreed: Agreement
    refinement: Refinement | None = None


class ClipActor:
    """`run` takes minutes; meanwhile `progress` and `prefetch` work in separate threads."""

    def __init__(self, number: int, keep_s: float = 0.0) -> None:
        """`keep_s`: seconds that the actor outlives its driver (`job.outliving`); 0: Ray ends it with the driver."""
        self.number = number
        self._worker: ClipWorker | None = None
        self._order_key = ""
        self._running: tuple[str, int, str] | None = None  # clip id, rung and part
        self._last: Answer | Failure | JobStopped | None = None
        self._driver = Heartbeat(keep_s, self._last_words)

    def hello(self) -> dict[str, Any]:
        import ray

        context = ray.get_runtime_context()
        gpus = context.get_accelerator_ids().get("GPU", [])
        return {"node": context.get_node_id(), "pid": os.getpid(), "host": socket.gethostname(), "gpus": tuple(gpus)}

    def standing(self) -> Standing:
        """The actor's state, for a new driver that may take it over."""
        self._driver.heard()
        hello = self.hello()
        place = Place(hello["node"], hello["host"], hello["gpus"])
        return Standing(self._order_key, place, *(self._running or ()))

    def last(self) -> Answer | Failure:
        """The outcome of the actor's latest clip. If that clip is still running, the call waits for its end."""
        if isinstance(self._last, JobStopped):
            raise self._last
        assert self._last is not None
        return self._last

    def keep_now(self) -> None:
        """Requests that the running clip saves a window now."""
        if self._worker is not None:
            self._worker.keep_now()

    def _last_words(self) -> threading.Event:
        if self._worker is not None:
            return self._worker.keep_now()
        nothing = threading.Event()
        nothing.set()
        return nothing

    def load(self, order: WorkOrder) -> dict[str, float]:
        """Loads the model. Heavy imports happen here, not in the driver."""
        began = time.perf_counter()
        set_up_logging(order.log_level, actor=self.number)
        order.store.confirm()
        try:
            self._worker = ClipWorker(
                order.config, order.store, order.fingerprint, order.make_segmenter, order.agreed, order.refinement
            )
        except Exception as error:
            fault = machine_fault(error, gpu_share=order.config.cluster.gpus_per_actor or 1.0)
            if fault is not None and fault.passing:
                raise NotNow(redact(fault.message)) from None
            raise
        _limit_threads(order.config)
        self._order_key = order_key(order)
        return {"load_s": time.perf_counter() - began}

    def run(self, clip: Clip, rung: int, attempt: int, work: Work) -> Answer | Failure:
        assert self._worker is not None
        self._running = clip.clip_id, rung, work.name
        try:
            self._last = self._worker.attempt(clip, rung, attempt, work)
        except JobStopped as error:
            self._last = error
            raise
        finally:
            self._running = None
        return self._last

    def prefetch(self, clip: Clip, first_frames: bool) -> bool:
        """Whether the prefetch succeeded. If not, running the clip reports the same error."""
        assert self._worker is not None
        try:
            return self._worker.prefetch(clip, first_frames).exception() is None
        except CancelledError:  # dropped meanwhile, for example because another window of the clip took it
            return False

    def drop_prefetch(self, clip_id: str) -> None:
        if self._worker is not None:
            self._worker.drop_prefetch(clip_id)

    def progress(self) -> tuple[str, int, int, str]:
        self._driver.heard()
        return self._worker.progress if self._worker is not None else ("loading", 0, 0, "")

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


def _limit_threads(config: JobConfig) -> None:
    """Limits a CPU actor to its requested cores; otherwise each actor on a node would use all of them."""
    torch = sys.modules.get("torch")
    if torch is not None and config.cluster.gpus_per_actor == 0:
        torch.set_num_threads(max(1, int(config.cluster.cpus_per_actor)))


def remote_class() -> Any:
    """`ClipActor` as a Ray actor. Ray neither restarts it nor retries its calls: the scheduler decides."""
    import ray

    decorated = {
        "hello": "control",
        "standing": "control",
        "keep_now": "control",
        "progress": "control",
        "drop_prefetch": "control",
        "close": "control",
        "prefetch": "ahead",
    }
    methods = {name: ray.method(concurrency_group=group)(_copy(name)) for name, group in decorated.items()}
    kind = type("ClipActor", (ClipActor,), methods)
    options: dict[str, Any] = {"concurrency_groups": {"control": 1, "ahead": 1}}
    return ray.remote(max_restarts=0, max_task_retries=0, **options)(kind)


def _copy(name: str) -> Any:
    """A copy of the method, because Ray's decorator marks it: `ClipActor` itself stays free of Ray."""
    inner = getattr(ClipActor, name)

    def method(self: ClipActor, *args: Any) -> Any:
        return inner(self, *args)

    method.__name__ = name
    return method
