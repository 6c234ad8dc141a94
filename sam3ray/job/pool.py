"""The actors of a job: one record each, the calls to them, and whether they are alive.

The pool decides nothing. It carries out orders and reports their outcome in the driver's thread. The end of an actor is
reported at most once; its late answers are dropped.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from sam3ray.config import ClusterConfig
from sam3ray.failures import Failure, JobStopped, Reason
from sam3ray.job.actor import WorkOrder, remote_class
from sam3ray.job.graph import Work
from sam3ray.job.health import Place
from sam3ray.job.logs import event
from sam3ray.job.loop import Loop
from sam3ray.job.losses import Verdict, judge, nodes_alive
from sam3ray.job.outliving import Outliving, keeps, options
from sam3ray.job.result import Answer
from sam3ray.values.clip import Clip

_LOG = logging.getLogger(__name__)

CLOSE_S = 3.0  # for an actor to remove its local files
UNREACHABLE_S = 120.0  # an actor unreachable for this long is given up
ASK_AGAIN_S = 2.0
VERDICT_S = 3.0  # on several nodes: how long a dead node may take to show as the cause of a dead actor
POLLS_PER_S = 500  # in all, however many actors there are
NODE_ID_LABEL = "ray.io/node-id"  # the label that Ray sets on every node


class PoolEvents(Protocol):
    """Receives the pool's reports. Each call is made in the driver's thread and may start or end actors."""

    def placed(self, actor: int, place: Place) -> None:
        """The actor has a place, and waits for the order to load its model."""

    def ready(self, actor: int) -> None: ...

    def start_failed(self, actor: int, error: BaseException) -> None:
        """Our own code raised an error in the actor."""

    def unreachable(self, actor: int) -> None: ...

    def losing(self, actor: int, then: Callable[[], None]) -> None:
        """The actor has ended. Must call `then` in the driver's thread once the actor's stored windows are known."""
        ...

    def lost(self, actor: int, verdict: Verdict) -> None: ...

    def prefetched(self, actor: int, clip: int) -> None: ...

    def progressed(self, actor: int, value: tuple[str, int, int, str]) -> None: ...

    def answered(self, actor: int, clip: int, result: Answer | Failure) -> None: ...

    def turned_away(self, actor: int, clip: int, message: str) -> None:
        """The worker reports that other clips would also fail in it."""


@dataclass(slots=True)
class _Member:
    handle: Any
    node: str = ""  # the node's id, once the actor is placed
    polled: bool = False  # a poll has not been answered
    frames: int = 0  # frames annotated of the running clip
    suspected: bool = False  # it may have ended; being investigated
    gone: bool = False  # it has ended; its stored windows are looked up


class ActorPool:
    """Starts, calls, polls and ends actors. Belongs to the driver's thread."""

    def __init__(
        self, order: WorkOrder, cluster: ClusterConfig, loop: Loop, events: PoolEvents, run_id: str = ""
    ) -> None:
        """`run_id`: the run to which actors that outlive their driver belong (`job.outliving`)."""
        import ray

        self._loop = loop
        self._events = events
        self._order = ray.put(order)  # shared by all actors: sent once per node, not once per actor
        self._actor_class = remote_class()
        self._options: dict[str, Any] = {
            "num_cpus": cluster.cpus_per_actor,
            "num_gpus": cluster.gpus_per_actor,
            "memory": cluster.memory,
            "resources": cluster.resources or None,
            "accelerator_type": cluster.accelerator_type,
        }
        self._run_id = run_id
        self._keep_s = keeps(order.config) if run_id else 0.0
        self._labels = dict(cluster.label_selector)
        self._members: dict[int, _Member] = {}
        self._closing: dict[int, tuple[Any, Any]] = {}  # handles of actors that clean up, and the calls that do so

    @property
    def frames_running(self) -> int:
        """Frames annotated so far of the running clips."""
        return sum(member.frames for member in self._members.values())

    @property
    def nodes(self) -> dict[int, str]:
        """The node ids of the placed actors."""
        return {actor: member.node for actor, member in self._members.items() if member.node}

    @property
    def poll_every_s(self) -> float:
        return len(self._members) / POLLS_PER_S

    # Orders of the driver

    def start(self, actor: int, avoid: Sequence[str] = ()) -> None:
        """`avoid`: ids of nodes to avoid."""
        labels = dict(self._labels)
        if avoid:
            labels[NODE_ID_LABEL] = f"!in({', '.join(avoid)})"
        kept = options(self._run_id) if self._keep_s else {}
        handle = self._actor_class.options(**self._options, **kept, label_selector=labels or None).remote(
            actor, self._keep_s
        )
        self._members[actor] = _Member(handle)
        self._watch(actor, handle.hello.remote(), self._on_hello)

    def adopt(self, actor: int, found: Outliving, clip: int) -> None:
        """Adds an actor of an earlier driver that is running `clip`, or is idle (-1)."""
        self._members[actor] = _Member(found.handle, node=found.standing.place.node)
        if clip >= 0:
            self._watch(actor, found.handle.last.remote(), self._on_run, clip)

    def keep_now(self, node: str | None = None) -> None:
        """Makes all actors, or those of a node, save a window of their clips."""
        for member in self._members.values():
            if member.node and node in (None, member.node):
                member.handle.keep_now.remote()

    def load(self, actor: int) -> None:
        """Makes the actor load its model."""
        self._watch(actor, self._members[actor].handle.load.remote(self._order), self._on_load)

    def run(self, actor: int, clip: int, what: Clip, work: Work, rung: int, attempt: int) -> None:
        member = self._members[actor]
        member.frames = 0
        self._watch(actor, member.handle.run.remote(what, rung, attempt, work), self._on_run, clip)

    def prefetch(self, actor: int, clip: int, what: Clip, first_frames: bool) -> None:
        handle = self._members[actor].handle
        self._watch(actor, handle.prefetch.remote(what, first_frames), self._on_prefetch, clip)

    def drop_prefetch(self, actor: int, clip_id: str) -> None:
        if member := self._members.get(actor):
            member.handle.drop_prefetch.remote(clip_id)

    def end(self, actor: int, why: str, *, gently: bool = False) -> None:
        """Ends the actor. `gently`: it is alive and idle, and may first remove its local files."""
        import ray

        event(_LOG, logging.INFO, "actor ended", actor=actor, why=why)
        member = self._members.pop(actor, None)
        if member is None:
            return
        handle = member.handle
        if gently:
            tidied = handle.close.remote()
            self._closing[actor] = (handle, tidied)
            self._loop.watch(tidied, lambda _: self._closed(actor))
            self._loop.after(CLOSE_S, lambda: self._closed(actor))
        else:
            ray.kill(handle)

    def _closed(self, actor: int) -> None:
        """The actor has cleaned up, or its time for that is over."""
        import ray

        if actor in self._closing:
            ray.kill(self._closing.pop(actor)[0])

    def poll(self) -> None:
        """Asks every placed actor for its progress, unless it still owes an answer."""
        for actor, member in self._members.items():
            if member.node and not member.polled:
                member.polled = True
                self._watch(actor, member.handle.progress.remote(), self._on_progress)

    def close(self, *, leave: bool = False) -> None:
        """Ends all actors; those that answer may first remove their local files.

        Args:
            leave: leave actors that outlive their driver alone: they belong to another driver now.
        """
        import ray

        if leave and self._keep_s:
            self._members.clear()
            self._closing.clear()
            return
        members = list(self._members.values())
        self._members.clear()
        tidied = [ref for _, ref in self._closing.values()]
        tidied += [member.handle.close.remote() for member in members if member.node and not member.suspected]
        if tidied:
            ray.wait(tidied, num_returns=len(tidied), timeout=CLOSE_S)
        for handle in [*(handle for handle, _ in self._closing.values()), *(member.handle for member in members)]:
            ray.kill(handle)
        self._closing.clear()

    # Answers of actors

    def _watch(self, actor: int, ref: Any, handler: Callable[..., None], *args: Any) -> None:
        """Passes the call's outcome on, unless the actor has been ended meanwhile."""

        def news(future: Future[Any]) -> None:
            if actor in self._members:
                handler(actor, future, *args)

        self._loop.watch(ref, news)

    def _on_hello(self, actor: int, future: Future[Any]) -> None:
        if not self._fine(actor, future):
            return
        hello, member = future.result(), self._members[actor]
        member.node = hello["node"]
        place = Place(member.node, hello["host"], hello["gpus"])
        event(_LOG, logging.INFO, "actor placed", actor=actor, pid=hello["pid"], **dataclasses.asdict(place))
        self._events.placed(actor, place)

    def _on_load(self, actor: int, future: Future[Any]) -> None:
        cause = _raised_inside(future)
        if cause is not None:
            self._events.start_failed(actor, cause)
        elif self._fine(actor, future):
            event(_LOG, logging.INFO, "actor ready", actor=actor, **future.result())
            self._events.ready(actor)

    def _on_run(self, actor: int, future: Future[Any], clip: int) -> None:
        cause = _raised_inside(future)
        if isinstance(cause, JobStopped):
            self._events.turned_away(actor, clip, str(cause))
        elif cause is not None:
            # `attempt` returns a clip's errors as values, so this is a defect of ours or of Ray's.
            defect = Failure("", Reason.INTERNAL, f"{type(cause).__name__}: {cause}")
            self._events.answered(actor, clip, defect)
        elif self._fine(actor, future):
            self._members[actor].frames = 0
            self._events.answered(actor, clip, future.result())

    def _on_prefetch(self, actor: int, future: Future[Any], clip: int) -> None:
        if self._fine(actor, future):
            self._events.prefetched(actor, clip)

    def _on_progress(self, actor: int, future: Future[Any]) -> None:
        member = self._members[actor]
        member.polled = False
        if self._fine(actor, future):
            value: tuple[str, int, int, str] = future.result()
            member.frames = value[1]
            self._events.progressed(actor, value)

    # Actors that have ended or may have

    def _fine(self, actor: int, future: Future[Any]) -> bool:
        """Whether the call succeeded. If it ended in an error of Ray's, that is investigated."""
        error = future.exception()
        if error is None:
            return True
        member = self._members[actor]
        if member.suspected:
            return False  # already being investigated
        verdict = judge(error, member.node or None)
        if verdict.unsure:
            self._suspect(actor, 1.0, self._ask_again)
        elif verdict.reason is Reason.CRASHED and len(nodes_alive()) > 1:
            # A node that is shut down may end its processes before Ray knows that it is lost.
            self._suspect(actor, VERDICT_S, lambda actor: self._lost(actor, judge(error, member.node or None)))
        else:
            self._lost(actor, verdict)
        return False

    def _suspect(self, actor: int, wait_s: float, then: Callable[[int], None]) -> None:
        self._members[actor].suspected = True
        self._events.unreachable(actor)
        self._later(wait_s, actor, then)
        self._later(UNREACHABLE_S, actor, self._give_up)  # a limit in case Ray never answers

    def _later(self, wait_s: float, actor: int, then: Callable[[int], None]) -> None:
        self._loop.after(wait_s, lambda: then(actor) if actor in self._members else None)

    def _give_up(self, actor: int) -> None:
        self._lost(actor, Verdict(Reason.PREEMPTED, f"it could not be reached for {UNREACHABLE_S:.0f} s"))

    def _ask_again(self, actor: int) -> None:
        self._watch(actor, self._members[actor].handle.hello.remote(), self._on_answer)

    def _on_answer(self, actor: int, future: Future[Any]) -> None:
        error, member = future.exception(), self._members[actor]
        if error is None:
            # The actor is alive, but its earlier call is lost.
            self._lost(actor, Verdict(Reason.PREEMPTED, "the connection to its node was lost"))
            return
        verdict = judge(error, member.node or None)
        if verdict.unsure:
            self._later(ASK_AGAIN_S, actor, self._ask_again)
        else:
            self._lost(actor, verdict)

    def _lost(self, actor: int, verdict: Verdict) -> None:
        member = self._members[actor]
        if member.gone:
            return
        member.gone = member.suspected = True
        self._events.unreachable(actor)
        self._events.losing(actor, lambda: self._end_lost(actor, verdict))

    def _end_lost(self, actor: int, verdict: Verdict) -> None:
        if actor not in self._members:
            return  # the actor was ended meanwhile
        self.end(actor, verdict.message)
        event(_LOG, logging.INFO, "actor lost", actor=actor, reason=verdict.reason.value, error=verdict.message)
        self._events.lost(actor, verdict)


def _raised_inside(future: Future[Any]) -> BaseException | None:
    """The error that our own code raised in the actor; None if there is none or the error is Ray's."""
    import ray

    error = future.exception()
    if not isinstance(error, ray.exceptions.RayTaskError):
        return None
    return error.cause if isinstance(error.cause, BaseException) else error
