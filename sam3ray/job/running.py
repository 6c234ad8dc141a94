"""Runs a job: turns reports of the actor pool into events for the scheduler, and carries out its actions."""

from __future__ import annotations

import dataclasses
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sam3ray.config import JobConfig
from sam3ray.failures import Failure, JobStopped, NotNow, Reason, WorkerUnfit
from sam3ray.faults.machine import machine_fault
from sam3ray.guard.redact import redact
from sam3ray.job import actions as s
from sam3ray.job.actor import WorkOrder
from sam3ray.job.capacity import Room, room_on
from sam3ray.job.cluster import LOOK_EVERY_S, dead_process, look
from sam3ray.job.foresight import foresee
from sam3ray.job.graph import Stage
from sam3ray.job.health import Place
from sam3ray.job.lengths import lengths_of
from sam3ray.job.logs import event
from sam3ray.job.loop import Loop
from sam3ray.job.losses import Verdict
from sam3ray.job.merging import MergeOrder, MergeStage
from sam3ray.job.observe import Observer, Snapshot
from sam3ray.job.outliving import Outliving, keeps, order_key, take_over
from sam3ray.job.pool import ActorPool
from sam3ray.job.rendering import RenderOrder, RenderStage
from sam3ray.job.result import Answer, ClipCut, ClipResult, JobSummary, PartDone, PartsLost
from sam3ray.job.scheduler import Scheduler
from sam3ray.job.sources import Sources
from sam3ray.job.stages import Stages
from sam3ray.job.tables import Ledger
from sam3ray.values.clip import Clip

if TYPE_CHECKING:
    from sam3ray.store.lease import DriverLease

_LOG = logging.getLogger(__name__)

GRACE_S = 2.0  # for clips about to commit after an interrupt; `ray job stop` kills after 3 s
TICK_S = 1.0
UNSEEN_S = 120.0  # without an answer from the head node before the job stops


@dataclass(frozen=True)
class JobSpec:
    """The work of a run.

    Attributes:
        order: the settings sent to every actor.
        clips: all clips of the manifest.
        sources: the sightings of their videos when the run first saw them.
        todo: indices of those to annotate; the scheduler's clip i is `clips[todo[i]]`.
        unrendered: indices of clips done before whose annotated videos are missing.
    """

    order: WorkOrder
    clips: Sequence[Clip]
    sources: Sources
    todo: Sequence[int]
    unrendered: Sequence[int]

    @property
    def config(self) -> JobConfig:
        return self.order.config


class Job:
    """One run of the driver's loop. Everything except the signal handlers runs in one thread."""

    def __init__(self, spec: JobSpec, ledger: Ledger, lease: DriverLease, observer: Observer) -> None:
        config, clips, todo = spec.config, spec.clips, spec.todo
        self.spec = spec
        self.ledger = ledger
        self.lease = lease
        self.observer = observer
        nodes = look()
        room = room_on(nodes, config.cluster, len(todo))
        self.scheduler = Scheduler(
            lengths_of([clips[i] for i in todo], config),
            _limits(config, room),
            prior={i: ledger.prior[clips[c].clip_id] for i, c in enumerate(todo) if clips[c].clip_id in ledger.prior},
            prior_parts={
                work: reasons
                for i, c in enumerate(todo)
                for work, reasons in ledger.prior_parts(i, clips[c].clip_id).items()
            },
        )
        self._loop = Loop()
        run_id = spec.order.store.run_id()
        self._pool = ActorPool(spec.order, config.cluster, self._loop, self, run_id)
        if keeps(config):
            self._adopt(take_over(run_id, order_key(spec.order)))
        merge = MergeOrder(spec.order.store, spec.order.fingerprint, config.retry.no_progress_s)
        self._merges = MergeStage(merge, self._loop, self) if config.windows.mode == "parallel" else None
        self._parts_frames: Counter[str] = Counter()  # frames of finished windows of unfinished clips
        self._renders: RenderStage | None = None
        if config.render.enabled:
            order = RenderOrder(
                spec.order.store,
                config.render,
                config.video,
                config.storage,
                no_progress_s=config.retry.no_progress_s,
            )
            self._renders = RenderStage(order, self._loop)
        queue = self._renders.queue if self._renders is not None else None
        self._stages = Stages(config.cluster, self.scheduler, room, queue, config.render.cpus_per_task)
        self.windows = dict(ledger.windows)
        self._interrupts = 0
        self._stop_message = ""
        self._set_aside: dict[str, str] = {}  # nodes and GPUs that were set aside, and why
        self._began = time.monotonic()
        self._look_at = self._seen_at = self._began

    def _adopt(self, outliving: Sequence[Outliving]) -> None:
        """Takes over the previous driver's actors and their clips; an actor whose clip is not open gets another.

        An actor that works on a window also gets another clip, once it has stored the window: the next actor that
        opens the clip finds the window done.
        """
        waiting = {self._clip_id(clip): clip for clip in range(len(self.spec.todo))}
        now = time.monotonic()
        for each in outliving:
            clip = -1 if each.standing.part else waiting.pop(each.standing.clip_id, -1)
            actor = self.scheduler.adopt(each.standing.place, now, clip, each.standing.rung)
            self._pool.adopt(actor, each, clip)

    # The loop

    def run(self) -> JobSummary:
        if self._renders is not None:
            for i in self.spec.unrendered:
                self._renders.queue.add(self.spec.clips[i])
        with ExitStack() as stack:
            stack.enter_context(_signals(self._interrupt))
            stack.callback(self._end)
            self._stages.tell_of(look())
            self._do(self.scheduler.start(time.monotonic()))
            self._foresee()
            self._run()
        return self._summary()

    def _foresee(self) -> None:
        """If there are more actors than clips, the spare ones load their models while long clips are opened."""
        todo, order = self.spec.todo, self.spec.order
        cuts = self.spec.config.windows.mode == "parallel" and order.refinement is None
        if cuts and len(todo) < self.scheduler.limits.actors_max:
            clips = [self.spec.clips[index] for index in todo]
            foresee(clips, self.spec.config, order.store, lambda found: self._loop.post(lambda: self._expect(found)))

    def _expect(self, windows: Mapping[int, int]) -> None:
        self._do(self.scheduler.expect(windows, time.monotonic()))

    def _run(self) -> None:
        tick_at = poll_at = 0.0
        give_up_at = float("inf")
        while not self._stages.finished and not self._stop_message:
            now = time.monotonic()
            if now >= tick_at:
                tick_at = now + TICK_S
                self._tick(now)
            if now >= poll_at:
                poll_at = now + max(TICK_S, self._pool.poll_every_s)
                self._pool.poll()
            if self._interrupts and give_up_at == float("inf"):
                give_up_at = now + GRACE_S
                self._pool.keep_now()
                self._do(self.scheduler.drain(now))
                if self._renders is not None:
                    self._renders.cancel()
            if now >= give_up_at or self._interrupts > 1:
                return
            if self._merges is not None:
                self._do(self.scheduler.give_merges(self._stages.merge_slots, now))
            if self._renders is not None and not self._interrupts:
                self._renders.pump(self._stages.render_slots, self._stages.cpus_per_task)
            self._loop.run_next(until=min(tick_at, poll_at))

    def _tick(self, now: float) -> None:
        self._loop.run_due(now)
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._look(now)
        self._do(self.scheduler.tick(now))
        if dead := dead_process():
            self._stop_message = (
                f"Ray has died on this machine ({dead}); committed clips are safe: run again to continue"
            )
        if self.lease.lost:
            self._stop_message = "another process has taken over this output"
        error = self.ledger.tick(now)
        if error:
            self._do(self.scheduler.stop(error, now))
        self.observer.update(self._snapshot())

    def _look(self, now: float) -> None:
        try:
            nodes = look()
        except Exception as error:  # noqa: BLE001 - Ray raises many kinds; a head node may be back soon
            _LOG.warning("the cluster's nodes could not be listed: %s: %s", type(error).__name__, error)
            if now - self._seen_at > UNSEEN_S:
                self._stop_message = f"the head node of Ray has not answered for {UNSEEN_S:.0f} s: {error}"
            return
        self._seen_at = now
        self._do(self._stages.look(nodes, self._pool.nodes, now))
        for node in nodes:
            if node.draining:
                self._pool.keep_now(node.id)

    def _end(self) -> None:
        if self._merges is not None:
            self._merges.cancel()
        if self._renders is not None:
            self._renders.cancel()
        self._pool.close(leave=self.lease.lost)
        self.ledger.close()
        self.observer.update(self._snapshot())

    def _interrupt(self) -> None:
        """The first interrupt shuts down cleanly, the second does not wait for clips, the third ends at once."""
        self._interrupts += 1
        if self._interrupts > 2:
            raise KeyboardInterrupt
        self._loop.post(lambda: None)

    def _summary(self) -> JobSummary:
        summary = dataclasses.replace(self._annotated(), set_aside=dict(self._set_aside))
        if self._renders is None:
            return summary
        queue = self._renders.queue
        return dataclasses.replace(summary, rendered=queue.rendered, render_failures=dict(queue.failures))

    def _annotated(self) -> JobSummary:
        seconds = time.monotonic() - self._began
        stopped = self._stop_message or self.scheduler.stopped
        if stopped:
            return self.ledger.summary(seconds, redact(stopped), exit_code=3)
        if self._interrupts:
            return self.ledger.summary(seconds, "interrupted; run again to continue", exit_code=130)
        return self.ledger.summary(seconds, self._stages.notice)

    def _snapshot(self) -> Snapshot:
        counts = self.scheduler.counts
        seconds = time.monotonic() - self._began
        settled_now = counts.settled
        eta = seconds / settled_now * (counts.clips - settled_now) if settled_now else None
        snapshot = Snapshot(
            clips=len(self.spec.clips),
            done=self.ledger.done_before + counts.done,
            failed=Counter(self.ledger.failed_before) + Counter(counts.failed),
            running=counts.running,
            waiting=counts.waiting,
            actors=counts.actors_ready,
            starting=counts.actors_starting,
            unplaced=counts.actors_unplaced,
            aside=len(counts.aside),
            frames=self.ledger.frames + self._parts_frames.total() + self._pool.frames_running,
            objects=self.ledger.objects,
            seconds=seconds,
            eta_s=eta,
            notice=self._stages.notice,
        )
        if self._renders is None:
            return snapshot
        queue = self._renders.queue
        return dataclasses.replace(
            snapshot,
            rendered=queue.rendered,
            rendering=queue.pending,
            render_failed=len(queue.failures),
            to_render=counts.open,
            render_eta_s=queue.eta_s(time.monotonic(), counts.open),
        )

    # Actions of the scheduler

    def _do(self, actions: Sequence[s.Action]) -> None:
        for action in actions:
            match action:
                case s.StartActor(actor, avoid):
                    self._pool.start(actor, avoid)
                case s.Load(actor):
                    self._pool.load(actor)
                case s.Assign(actor, clip, attempt, rung):
                    self._pool.run(actor, clip, self._clip(clip), self.scheduler.work(clip), rung, attempt)
                case s.Merge(clip, attempt):
                    assert self._merges is not None, "only parallel windows are merged"
                    self._merges.begin(clip, self._clip(clip), attempt, self._stages.merge_cpus)
                case s.Prefetch(actor, clip, first_frames):
                    self._pool.prefetch(actor, clip, self._clip(clip), first_frames)
                case s.DropPrefetch(actor, clip):
                    self._pool.drop_prefetch(actor, self._clip(clip).clip_id)
                case s.Kill(actor, why, idle):
                    self._pool.end(actor, why, gently=idle)
                case s.RecordFailure():
                    self._record(action)
                case s.SetAside(name, why, seconds):
                    event(_LOG, logging.WARNING, "set aside", place=name, why=redact(why), seconds=round(seconds))
                    self._set_aside[name] = redact(why)
                case s.Reinstate(name):
                    event(_LOG, logging.WARNING, "tried again", place=name)
                case s.Stop():
                    pass  # nothing to do: the loop sees that the scheduler is finished

    def _clip_id(self, clip: int) -> str:
        return self.spec.clips[self.spec.todo[self.scheduler.work(clip).clip]].clip_id

    def _clip(self, clip: int) -> Clip:
        """The clip to which an item of the scheduler belongs."""
        # Actors do not need the user's columns, which go to clips.parquet.
        return self.spec.sources.with_first_sight(
            dataclasses.replace(self.spec.clips[self.spec.todo[self.scheduler.work(clip).clip]], carried={})
        )

    def _record(self, action: s.RecordFailure) -> None:
        if self._interrupts and action.reason in (Reason.CRASHED, Reason.PREEMPTED):
            return  # a signal to the process group also ends the actors: no clip is at fault
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
            window=self.scheduler.work(action.clip).name or self.windows.get(clip.clip_id, ""),
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

    # Reports of the pool

    def placed(self, actor: int, place: Place) -> None:
        self._do(self.scheduler.actor_placed(actor, time.monotonic(), place))

    def ready(self, actor: int) -> None:
        self._do(self.scheduler.actor_ready(actor, time.monotonic()))

    def start_failed(self, actor: int, error: BaseException) -> None:
        passing = isinstance(error, NotNow)
        hopeless = isinstance(error, JobStopped) and not passing
        text, fault = str(error), None
        if not isinstance(error, JobStopped | WorkerUnfit):
            fault = machine_fault(error)
            text = fault.message if fault is not None else f"{type(error).__name__}: {error}"
        message = redact(text)
        event(_LOG, logging.WARNING, "actor start failed", actor=actor, error=message, passing=passing)
        now = time.monotonic()
        self._do(self.scheduler.actor_start_failed(actor, message, now, hopeless=hopeless, passing=passing))

    def unreachable(self, actor: int) -> None:
        self._do(self.scheduler.actor_unreachable(actor, time.monotonic()))

    def losing(self, actor: int, then: Callable[[], None]) -> None:
        """Looks up the actor's windows on the store, which may hold one that is newer than its last answer."""
        clip = self.scheduler.running_on(actor)
        no_windows = self.spec.config.windows.mode == "off"
        if clip is None or no_windows or self.scheduler.work(clip).stage is not Stage.CLIP:
            then()
            return

        def seen(found: Future[str]) -> None:
            # If the store does not answer, or has no windows of the clip, nothing changes.
            if not found.exception() and found.result():
                self._window_is(actor, clip, found.result())
            then()

        asked = self.ledger.newest_window(self._clip_id(clip))
        asked.add_done_callback(lambda found: self._loop.post(lambda: seen(found)))

    def lost(self, actor: int, verdict: Verdict) -> None:
        self._do(self.scheduler.actor_lost(actor, verdict.reason, verdict.message, time.monotonic()))

    def prefetched(self, actor: int, clip: int) -> None:
        self._do(self.scheduler.prefetched(actor, clip, time.monotonic()))

    def progressed(self, actor: int, value: tuple[str, int, int, str]) -> None:
        clip = self.scheduler.running_on(actor)
        if clip is not None:
            clip_id, _, window = value[3].partition("/")
            if clip_id == self._clip_id(clip):
                self._window_is(actor, clip, window)
            self.scheduler.progress(actor, clip, value, time.monotonic())
            if value[1]:
                self._do(self.scheduler.stays_whole(actor, clip, time.monotonic()))

    def _window_is(self, actor: int, clip: int, window: str) -> None:
        """Notes the newest stored window of the actor's clip."""
        clip_id = self._clip_id(clip)
        if window != self.windows.get(clip_id, ""):
            self.windows[clip_id] = window
            self.scheduler.window_kept(actor, clip)

    def answered(self, actor: int, clip: int, result: Answer | Failure) -> None:
        if self.scheduler.running_on(actor) != clip:
            return  # a late result of an attempt that was given up
        now = time.monotonic()
        match result:
            case Failure():
                self._do(
                    self.scheduler.clip_failed(
                        actor,
                        clip,
                        result.reason,
                        result.message,
                        now,
                        where=result.where,
                        traceback=result.traceback,
                        seconds=result.seconds,
                    )
                )
            case ClipCut(clip_id, frames, cutting):
                event(_LOG, logging.INFO, "clip cut", clip_id=clip_id, frames=frames, windows=len(cutting.shares))
                self._do(self.scheduler.clip_cut(actor, clip, cutting, now))
            case PartDone(clip_id, frames, seconds):
                part = self.scheduler.work(clip).name
                event(_LOG, logging.INFO, "part done", clip_id=clip_id, part=part, actor=actor, seconds=seconds)
                self._parts_frames[clip_id] += frames
                self._do(self.scheduler.clip_done(actor, clip, now))
            case PartsLost():
                self._do(self.scheduler.parts_lost(actor, clip, result.windows, now))
            case ClipResult():
                self._clip_done(clip, result, actor)
                self._do(self.scheduler.clip_done(actor, clip, now))

    def merged(self, item: int, outcome: ClipResult | PartsLost | Failure) -> None:
        now = time.monotonic()
        match outcome:
            case Failure():
                self._do(self.scheduler.merge_ended(item, now, outcome))
            case PartsLost():
                self._do(self.scheduler.parts_lost(-1, item, outcome.windows, now))
            case ClipResult():
                self._clip_done(item, outcome)
                self._do(self.scheduler.merge_ended(item, now))

    def _clip_done(self, clip: int, result: ClipResult, actor: int | None = None) -> None:
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
        # Before the scheduler, so that all results are in the ledger when it finishes.
        self._parts_frames.pop(result.clip_id, None)
        self.ledger.clip_done(result)
        self.spec.sources.saw(self._clip(clip), result.source)
        if self._renders is not None:
            self._renders.queue.add(self._clip(clip))
        self.observer.clip_done(result)

    def turned_away(self, actor: int, clip: int, message: str) -> None:
        self._do(self.scheduler.turned_away(actor, clip, message, time.monotonic()))


def _limits(config: JobConfig, room: Room) -> s.Limits:
    cluster, retry = config.cluster, config.retry
    return s.Limits(
        actors_min=cluster.actors.min,
        actors_max=room.actors if cluster.alone else cluster.actors.max,
        crashes=retry.crashes,
        no_progress_s=retry.no_progress_s,
        start_timeout_s=cluster.start_timeout_s,
        place_timeout_s=cluster.place_timeout_s,
        storage_errors=retry.storage,
        actor_starts=retry.actor_starts,
        node_losses=retry.node_losses,
        backoff_s=retry.backoff_s,
    )


@contextmanager
def _signals(interrupt: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM end the job cleanly. No effect outside the main thread, which alone can install handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: interrupt()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
