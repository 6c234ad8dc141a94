"""Runs a job: turns what Ray tells into events for the scheduler, and the scheduler's actions into Ray calls.

Crash contract: the driver holds nothing that storage does not. Annotations are committed by the
actors; failure records are written as they happen; `clips.parquet` is replaced whole, now and then
and at the end, and can be rebuilt. A driver that dies is followed by `run` again: what is
committed stays, what was running is run again, and an actor that outlives its driver for a
moment can at worst commit a clip that the next driver then finds done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from sam3ray.config import JobConfig, fingerprint
from sam3ray.failures import Failure, JobStopped, Reason
from sam3ray.job import actions as s
from sam3ray.job.cluster import Room, connected, room_for_actors
from sam3ray.job.lengths import lengths_of
from sam3ray.job.logs import event
from sam3ray.job.losses import Verdict, judge, nodes_alive
from sam3ray.job.metrics import RayMetrics
from sam3ray.job.observe import Observer, Observers, Snapshot
from sam3ray.job.rendering import RenderOrder, RenderStage
from sam3ray.job.result import ClipResult, JobSummary
from sam3ray.job.scheduler import Scheduler
from sam3ray.job.tables import Ledger
from sam3ray.manifest import Clip, read_manifest
from sam3ray.plan import check_visual_prompts
from sam3ray.redact import redact
from sam3ray.store import RunStore

if TYPE_CHECKING:
    from sam3ray.job.worker import MakeSegmenter

_LOG = logging.getLogger(__name__)

GRACE_S = 2.0  # after an interrupt, for clips about to commit; `ray job stop` kills after 3 s
TICK_S = 1.0
CLOSE_S = 3.0  # for an actor to remove its local files
UNREACHABLE_S = 120.0  # an actor that cannot be reached for so long is given up
VERDICT_S = 3.0  # on several nodes: how long a dead node may take to show as the cause of a dead actor


def run_job(
    config: JobConfig,
    *,
    progress: Observer | None = None,
    make_segmenter: MakeSegmenter | None = None,
    log_level: str = "warning",
) -> JobSummary:
    """Runs or resumes the job. Safe to call again at any time.

    Args:
        progress: is told of every clip and about once a second.
        make_segmenter: instead of `sam3ray.segment.Segmenter`; called in every actor.

    Raises:
        UserError: the config, the manifest or the output does not fit; nothing was started.
        JobStopped: nothing could be started. A job that stops later returns its summary.
    """
    with contextlib.closing(progress) if progress is not None else contextlib.nullcontext():
        return _run_job(config, progress, make_segmenter, log_level)


def _run_job(
    config: JobConfig, progress: Observer | None, make_segmenter: MakeSegmenter | None, log_level: str
) -> JobSummary:
    clips = read_manifest(config.manifest, config)
    store = RunStore(config.output, config.storage)
    if not store.exists():  # a run that is there was checked when it began, and its fingerprint holds every prompt
        check_visual_prompts(clips, config)
    identity: Mapping[str, Any] = {}
    if make_segmenter is None:
        from sam3ray.engine.checkpoint import checkpoint_identity

        identity = checkpoint_identity(config.model)
    print_of_job = fingerprint(config, clips, identity)
    store.create_or_open(print_of_job, config.model_dump(mode="json"), clips)
    with store.lease() as lease:
        ledger = Ledger(store, clips, config.retry)
        todo = ledger.todo()
        unrendered = ledger.unrendered() if config.render.enabled else []
        if not todo and not unrendered:
            ledger.write()
            return ledger.summary(0.0, "")
        with connected(config.cluster):
            observers: list[Observer] = [RayMetrics(config.output.rstrip("/").rsplit("/", 1)[-1])]
            if progress is not None:
                observers.append(progress)
            job = Job(config, store, print_of_job, clips, todo, ledger, Observers(observers), make_segmenter, log_level)
            job.lease = lease
            return job.run(unrendered)


class Job:
    """One run of the driver's loop. Everything but the signal handlers happens in one thread."""

    def __init__(
        self,
        config: JobConfig,
        store: RunStore,
        print_of_job: Mapping[str, Any],
        clips: Sequence[Clip],
        todo: Sequence[int],
        ledger: Ledger,
        observer: Observer,
        make_segmenter: MakeSegmenter | None,
        log_level: str,
    ) -> None:
        import ray

        from sam3ray.job.actor import WorkOrder, remote_class

        self.config = config
        self.store = store
        self.clips = clips
        self.todo = todo  # the scheduler's clip i is self.clips[self.todo[i]]
        self.ledger = ledger
        self.observer = observer
        self.lease: Any = None
        room = room_for_actors(config.cluster) if todo else Room(0, ray.cluster_resources().get("CPU", 0.0))
        self.notice = room.notice
        self._cpus = room.cpus
        self.scheduler = Scheduler(
            lengths_of([clips[i] for i in todo], config),
            s.Limits(
                actors_min=min(config.cluster.actors.min, room.actors),
                actors_max=room.actors,
                crashes=config.retry.crashes,
                no_progress_s=config.retry.no_progress_s,
                start_timeout_s=config.cluster.start_timeout_s,
                storage_errors=config.retry.storage,
                actor_starts=config.retry.actor_starts,
                node_losses=config.retry.node_losses,
                backoff_s=config.retry.backoff_s,
            ),
            prior={i: ledger.prior[clips[c].clip_id] for i, c in enumerate(todo) if clips[c].clip_id in ledger.prior},
        )
        # Shared by all actors: sent once per node, not once per actor.
        self._order = ray.put(WorkOrder(config, store, dict(print_of_job), make_segmenter, log_level))
        self._actor_class = remote_class().options(
            num_cpus=config.cluster.cpus_per_actor, num_gpus=config.cluster.gpus_per_actor
        )
        self._handles: dict[int, Any] = {}
        self._nodes: dict[int, str] = {}
        self._polls: set[int] = set()
        self._frames_running: dict[int, int] = {}
        self._suspended: dict[int, float] = {}  # unreachable actors, and since when
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._interrupts = 0
        self._closing: list[tuple[Any, Any]] = []  # handles of actors that tidy up, and what says they have
        self._stop_message = ""
        self._renders: RenderStage | None = None
        if config.render.enabled:
            order = RenderOrder(store, config.render, config.video, config.storage)
            self._renders = RenderStage(order, self._events.put)
        self._began = time.monotonic()

    # The loop

    def run(self, unrendered: Sequence[int] = ()) -> JobSummary:
        """`unrendered`: clips done before whose videos are wanted and not there."""
        if self._renders is not None:
            for i in unrendered:
                self._renders.add(self.clips[i])
        with ExitStack() as stack:
            stack.enter_context(_signals(self._interrupt))
            stack.callback(self._end)
            self._do(self.scheduler.start(time.monotonic()))
            self._loop()
        return self._summary()

    def _loop(self) -> None:
        tick_at = poll_at = 0.0
        give_up_at = float("inf")
        while not self._finished and not self._stop_message:
            now = time.monotonic()
            if now >= tick_at:
                tick_at = now + TICK_S
                self._tick(now)
            if now >= poll_at:
                # At most some 500 calls a second, however many actors there are.
                poll_at = now + max(TICK_S, len(self._handles) / 500)
                self._poll()
            if self._interrupts and give_up_at == float("inf"):
                give_up_at = now + GRACE_S
                self._do(self.scheduler.drain(now))
                if self._renders is not None:
                    self._renders.cancel()
            if now >= give_up_at or self._interrupts > 1:
                return
            if self._renders is not None and not self._interrupts:
                self._renders.pump(self._render_slots(self._renders))
            try:
                handle = self._events.get(timeout=max(0.01, min(tick_at, poll_at) - time.monotonic()))
            except queue.Empty:
                continue
            handle()

    @property
    def _finished(self) -> bool:
        if self.scheduler.stopped is not None:
            return True
        return self.scheduler.finished and (self._renders is None or self._renders.pending == 0)

    def _render_slots(self, renders: RenderStage) -> int:
        """Rendering gets what the actors can never want: their CPUs stay free even while one is replaced."""
        cluster, counts = self.config.cluster, self.scheduler.counts
        actors = min(self.scheduler.limits.actors_max, counts.running + counts.waiting)
        free = self._cpus - actors * cluster.cpus_per_actor
        slots = int(free / renders.cpus_per_task + 1e-9)
        return max(slots, 1 if actors == 0 else 0)

    def _tick(self, now: float) -> None:
        due = [call for at, call in self._timers if at <= now]
        self._timers = [timer for timer in self._timers if timer[0] > now]
        for call in due:
            call()
        self._do(self.scheduler.tick(now))
        if self.lease is not None and self.lease.lost:
            self._stop_message = "another driver has taken this output over"
        error = self.ledger.tick(now)
        if error:
            self._stop_message = error
        self.observer.update(self._snapshot())

    def _end(self) -> None:
        import ray

        if self._renders is not None:
            self._renders.cancel()
        self._closing += [(h, h.close.remote()) for a, h in self._handles.items() if a not in self._suspended]
        if self._closing:
            ray.wait([ref for _, ref in self._closing], num_returns=len(self._closing), timeout=CLOSE_S)
        for handle in [handle for handle, _ in self._closing] + list(self._handles.values()):
            ray.kill(handle)
        self._handles.clear()
        self.ledger.close()
        self.observer.update(self._snapshot())

    def _interrupt(self) -> None:
        """The first asks for an end in good order, the second does not wait for clips, the third for nothing."""
        self._interrupts += 1
        if self._interrupts > 2:
            raise KeyboardInterrupt
        self._events.put(lambda: None)

    def _summary(self) -> JobSummary:
        summary = self._annotated()
        if self._renders is None:
            return summary
        return dataclasses.replace(
            summary, rendered=self._renders.rendered, render_failures=dict(self._renders.failures)
        )

    def _annotated(self) -> JobSummary:
        seconds = time.monotonic() - self._began
        stopped = self._stop_message or self.scheduler.stopped
        if stopped:
            return self.ledger.summary(seconds, redact(stopped), exit_code=3)
        if self._interrupts:
            return self.ledger.summary(seconds, "interrupted; run again to go on", exit_code=130)
        return self.ledger.summary(seconds, self.notice)

    def _snapshot(self) -> Snapshot:
        counts = self.scheduler.counts
        seconds = time.monotonic() - self._began
        settled_now = counts.settled
        eta = seconds / settled_now * (counts.clips - settled_now) if settled_now else None
        return Snapshot(
            clips=len(self.clips),
            done=self.ledger.done_before + counts.done,
            failed=Counter(self.ledger.failed_before) + Counter(counts.failed),
            running=counts.running,
            waiting=counts.waiting,
            actors=counts.actors_ready,
            starting=counts.actors_starting,
            frames=self.ledger.frames + sum(self._frames_running.values()),
            objects=self.ledger.objects,
            seconds=seconds,
            eta_s=eta,
            rendered=self._renders.rendered if self._renders is not None else 0,
            rendering=self._renders.pending if self._renders is not None else 0,
            notice=self.notice,
        )

    # Actions

    def _do(self, actions: Sequence[s.Action]) -> None:
        for action in actions:
            match action:
                case s.StartActor(actor):
                    self._start_actor(actor)
                case s.Assign(actor, clip, attempt, rung):
                    self._frames_running[actor] = 0
                    handle = self._handles[actor]
                    self._watch(handle.run.remote(self._clip(clip), rung, attempt), self._on_run, actor, clip)
                case s.Prefetch(actor, clip, first_frames):
                    handle = self._handles[actor]
                    self._watch(handle.prefetch.remote(self._clip(clip), first_frames), self._on_prefetch, actor, clip)
                case s.DropPrefetch(actor, clip):
                    if actor in self._handles:
                        self._handles[actor].drop_prefetch.remote(self._clip(clip).clip_id)
                case s.Kill(actor, why, idle):
                    self._kill(actor, why, gently=idle)
                case s.RecordFailure():
                    self._record(action)
                case s.Stop():
                    pass  # the loop sees that the scheduler is finished

    def _clip(self, clip: int) -> Clip:
        # What is carried through to clips.parquet is no business of the actors.
        return dataclasses.replace(self.clips[self.todo[clip]], carried={})

    def _start_actor(self, actor: int) -> None:
        handle = self._actor_class.remote(actor)
        self._handles[actor] = handle
        self._watch(handle.hello.remote(), self._on_hello, actor)

    def _kill(self, actor: int, why: str, *, gently: bool = False) -> None:
        """`gently`: it is alive and idle, and may remove its local files first."""
        import ray

        event(_LOG, logging.INFO, "actor ended", actor=actor, why=why)
        handle = self._handles.pop(actor, None)
        self._frames_running.pop(actor, None)
        if handle is None:
            return
        if gently:
            self._closing.append((handle, handle.close.remote()))
            self._timers.append((time.monotonic() + CLOSE_S, lambda: ray.kill(handle)))
        else:
            ray.kill(handle)

    def _record(self, action: s.RecordFailure) -> None:
        if self._interrupts and action.reason in (Reason.CRASHED, Reason.PREEMPTED):
            return  # a signal to the whole process group ends actors, too: no clip's doing
        clip = self._clip(action.clip)
        failure = Failure(
            clip_id=clip.clip_id,
            reason=action.reason,
            message=redact(action.message),
            where=redact(action.where),
            traceback=action.traceback,
            seconds=round(action.seconds, 3),
            versions=self.ledger.versions,
            attempt=action.attempt,
            final=action.final,
        )
        event(
            _LOG,
            logging.INFO,
            "attempt failed",
            clip_id=clip.clip_id,
            reason=action.reason.value,
            error=failure.message,
            attempt=action.attempt,
            final=action.final,
        )
        self.ledger.failed_attempt(failure)
        self.observer.clip_failed(failure)

    # Events. Ray calls back in threads of its own; the loop handles what they put down.

    def _watch(self, ref: Any, handler: Callable[..., None], *args: Any) -> None:
        def done(future: Future[Any]) -> None:
            self._events.put(lambda: handler(*args, future))

        ref.future().add_done_callback(done)

    def _on_hello(self, actor: int, future: Future[Any]) -> None:
        if not self.scheduler.knows(actor) or not self._fine(actor, future):
            return
        hello = future.result()
        self._nodes[actor] = hello["node"]
        event(_LOG, logging.INFO, "actor placed", actor=actor, node=hello["node"], pid=hello["pid"])
        self._do(self.scheduler.actor_placed(actor, time.monotonic()))
        self._watch(self._handles[actor].load.remote(self._order), self._on_load, actor)

    def _on_load(self, actor: int, future: Future[Any]) -> None:
        import ray

        if not self.scheduler.knows(actor):
            return
        now = time.monotonic()
        error = future.exception()
        if isinstance(error, ray.exceptions.RayTaskError):
            cause = error.cause if isinstance(error.cause, BaseException) else error
            hopeless = isinstance(cause, JobStopped)
            text = str(cause) if hopeless else f"{type(cause).__name__}: {cause}"
            self._do(self.scheduler.actor_start_failed(actor, text, now, hopeless=hopeless))
        elif self._fine(actor, future):
            event(_LOG, logging.INFO, "actor ready", actor=actor, **future.result())
            self._do(self.scheduler.actor_ready(actor, now))

    def _on_run(self, actor: int, clip: int, future: Future[Any]) -> None:
        import ray

        if self.scheduler.running_on(actor) != clip:
            return  # of an attempt that was given up
        now = time.monotonic()
        error = future.exception()
        if isinstance(error, ray.exceptions.RayTaskError):
            cause = error.cause if isinstance(error.cause, BaseException) else error
            if isinstance(cause, JobStopped):
                self._stop_message = str(cause)
                return
            # `attempt` returns what goes wrong with a clip: this is a defect of ours or of Ray's.
            self._failed(actor, clip, Failure("", Reason.INTERNAL, f"{type(cause).__name__}: {cause}"), now)
        elif self._fine(actor, future):
            result: ClipResult | Failure = future.result()
            self._frames_running.pop(actor, None)
            if isinstance(result, Failure):
                self._failed(actor, clip, result, now)
                return
            event(
                _LOG,
                logging.INFO,
                "clip done",
                clip_id=result.clip_id,
                actor=actor,
                frames=result.frames,
                objects=result.objects,
                seconds=result.seconds,
                committed=result.committed,
            )
            # Before the scheduler: by its last clip all results are in the ledger.
            self.ledger.clip_done(result)
            if self._renders is not None:
                self._renders.add(self._clip(clip))
            self.observer.clip_done(result)
            self._do(self.scheduler.clip_done(actor, clip, now))

    def _failed(self, actor: int, clip: int, failure: Failure, now: float) -> None:
        self._do(
            self.scheduler.clip_failed(
                actor,
                clip,
                failure.reason,
                failure.message,
                now,
                where=failure.where,
                traceback=failure.traceback,
                seconds=failure.seconds,
            )
        )

    def _on_prefetch(self, actor: int, clip: int, future: Future[Any]) -> None:
        if self.scheduler.knows(actor) and self._fine(actor, future):
            self._do(self.scheduler.prefetched(actor, clip, time.monotonic()))

    def _poll(self) -> None:
        for actor, handle in self._handles.items():
            if actor in self._nodes and actor not in self._polls:
                self._polls.add(actor)
                self._watch(handle.progress.remote(), self._on_progress, actor)

    def _on_progress(self, actor: int, future: Future[Any]) -> None:
        self._polls.discard(actor)
        if not self.scheduler.knows(actor) or not self._fine(actor, future):
            return
        clip = self.scheduler.running_on(actor)
        if clip is not None:
            value: tuple[str, int, int] = future.result()
            self._frames_running[actor] = value[1]
            self.scheduler.progress(actor, clip, value, time.monotonic())

    # Actors that are gone, or seem to be

    def _fine(self, actor: int, future: Future[Any]) -> bool:
        """False where the call ended in an error of Ray's, which is looked into."""
        error = future.exception()
        if error is None:
            return True
        if actor in self._suspended:
            return False  # being looked into
        verdict = judge(error, self._nodes.get(actor))
        now = time.monotonic()
        if verdict.unsure:
            self._suspended[actor] = now
            self._do(self.scheduler.actor_unreachable(actor, now))
            self._timers.append((now + 1.0, lambda: self._ask_again(actor)))
        elif verdict.reason is Reason.CRASHED and len(nodes_alive()) > 1:
            # A node that is taken away may end its processes before it is known to be gone.
            self._suspended[actor] = now
            self._do(self.scheduler.actor_unreachable(actor, now))
            self._timers.append((now + VERDICT_S, lambda: self._lost(actor, judge(error, self._nodes.get(actor)))))
        else:
            self._lost(actor, verdict)
        return False

    def _ask_again(self, actor: int) -> None:
        if not self.scheduler.knows(actor):
            self._suspended.pop(actor, None)
            return
        self._watch(self._handles[actor].hello.remote(), self._on_answer, actor)

    def _on_answer(self, actor: int, future: Future[Any]) -> None:
        if not self.scheduler.knows(actor):
            self._suspended.pop(actor, None)
            return
        error = future.exception()
        now = time.monotonic()
        if error is None:
            # It lives, but what it was asked before is lost.
            self._lost(actor, Verdict(Reason.PREEMPTED, "the connection to its node was lost"))
            return
        verdict = judge(error, self._nodes.get(actor))
        if not verdict.unsure:
            self._lost(actor, verdict)
        elif now - self._suspended[actor] > UNREACHABLE_S:
            self._lost(actor, Verdict(Reason.PREEMPTED, f"it could not be reached for {UNREACHABLE_S:.0f} s"))
        else:
            self._timers.append((now + 2.0, lambda: self._ask_again(actor)))

    def _lost(self, actor: int, verdict: Verdict) -> None:
        self._suspended.pop(actor, None)
        self._nodes.pop(actor, None)
        self._kill(actor, verdict.message)
        event(_LOG, logging.INFO, "actor lost", actor=actor, reason=verdict.reason.value, error=verdict.message)
        self._do(self.scheduler.actor_lost(actor, verdict.reason, verdict.message, time.monotonic()))


@contextmanager
def _signals(interrupt: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM end the job in good order. Only the main thread may say so; others leave signals alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: interrupt()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
