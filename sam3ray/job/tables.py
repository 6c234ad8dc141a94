"""The job's ledger: done, failed and open clips; failure records and `clips.parquet`."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from sam3ray.config import RetryConfig
from sam3ray.display.readable import counted
from sam3ray.failures import ClipError, Failure, JobStopped, Reason
from sam3ray.job.graph import Work
from sam3ray.job.result import ClipResult, JobSummary
from sam3ray.job.versions import software_versions
from sam3ray.store import ClipSummary, RunStore
from sam3ray.store.windows import clear_windows, clip_windows, newest_window
from sam3ray.values.clip import Clip

_LOG = logging.getLogger(__name__)

WRITE_EVERY_S = 60.0


class Ledger:
    """Reads the state of a run from storage once, then updates it as clips end.

    Records are written by a few threads, so that slow storage does not hold up the driver's loop.

    Args:
        check: called before each write; raises JobStopped once another driver has taken over.
        told: called while the state is read, with the number of names or clips read.
    """

    def __init__(
        self,
        store: RunStore,
        clips: Sequence[Clip],
        retry: RetryConfig,
        check: Callable[[], None] = lambda: None,
        told: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._store = store
        self._clips = clips
        self._check = check
        done = store.done_ids(told)
        ids = {clip.clip_id for clip in clips}
        self.done_before = len(done & ids)
        under_way = clip_windows(store.storage)
        # windows of attempts that lost a race or died late
        clear_windows(store.storage, under_way.keys() & done)
        self.windows = {clip_id: str(name) for clip_id, name in under_way.items() if name and clip_id not in done}
        self.prior: dict[str, list[Reason]] = {}
        self._prior_parts: dict[str, list[tuple[str, Reason]]] = {}
        self.attempts_before: Counter[str] = Counter()
        settled: dict[str, Reason] = {}
        records = store.failures()
        for record in records:
            if record.clip_id in done or record.clip_id not in ids:
                continue
            # Failures in an earlier window do not count against the clip's current one.
            if record.window == self.windows.get(record.clip_id, ""):
                self.prior.setdefault(record.clip_id, []).append(record.reason)
            elif record.window:
                self._prior_parts.setdefault(record.clip_id, []).append((record.window, record.reason))
            self.attempts_before[record.clip_id] += 1
            if record.final and record.reason.is_charged:
                settled[record.clip_id] = record.reason
        self._done = done
        self._settled = settled
        self.failed_before: Counter[Reason] = Counter(settled.values())
        self.failed: Counter[Reason] = Counter()
        self.done = 0
        self.frames = 0
        self.objects = 0
        self.rendered = 0
        self.versions = software_versions()
        self._summaries: dict[str, ClipSummary] = store.summaries(done, records, told)
        self._attempts: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(4, "sam3ray-records")
        self._writes: list[Future[None]] = []
        self._unwritten: list[Failure] = []
        self._again_at = 0.0
        self._lock = threading.Lock()
        self._stop = ""
        self._table_error = ""
        self._table: Future[None] | None = None
        self._table_at = time.monotonic() + WRITE_EVERY_S
        self._dirty = False

    def todo(self) -> list[int]:
        """Indices of the clips to run, in the manifest's order."""
        return [
            i
            for i, clip in enumerate(self._clips)
            if clip.clip_id not in self._done and clip.clip_id not in self._settled
        ]

    def prior_parts(self, clip: int, clip_id: str) -> dict[Work, list[Reason]]:
        """Failures of earlier runs, by part of a clip that is cut. `clip`: the scheduler's number of `clip_id`."""
        found: dict[Work, list[Reason]] = {}
        for name, reason in self._prior_parts.get(clip_id, ()):
            if (work := Work.named(clip, name)) is not None:
                found.setdefault(work, []).append(reason)
        return found

    def unrendered(self) -> list[int]:
        """Indices of finished clips without an annotated video."""
        there = self._store.rendered_ids()
        return [i for i, clip in enumerate(self._clips) if clip.clip_id in self._done and clip.clip_id not in there]

    def clip_done(self, result: ClipResult) -> None:
        self.done += 1
        self.frames += result.frames
        self.objects += result.objects
        self._attempts[result.clip_id] += 1
        self._dirty = True
        self._summaries[result.clip_id] = ClipSummary(
            clip_id=result.clip_id,
            status="done",
            frames=result.frames,
            objects=result.objects,
            rows=result.rows,
            seconds=result.seconds,
            attempts=self._attempts.pop(result.clip_id) + self.attempts_before[result.clip_id],
            timings=dict(result.timings),
            finished_at=time.time(),
            source=result.source,
        )

    def newest_window(self, clip_id: str) -> Future[str]:
        """Name of the newest window that the store has of a clip; empty: none."""
        return self._pool.submit(lambda: str(newest_window(self._store.storage, clip_id) or ""))

    @property
    def summaries(self) -> Mapping[str, ClipSummary]:
        """The outcome of each clip so far."""
        return self._summaries

    def failed_attempt(self, failure: Failure) -> None:
        self._attempts[failure.clip_id] += 1
        self._dirty = True
        if failure.final:
            self.failed[failure.reason] += 1
            self._summaries[failure.clip_id] = ClipSummary(
                clip_id=failure.clip_id,
                status="failed",
                reason=failure.reason.value,
                seconds=failure.seconds,
                attempts=self._attempts.pop(failure.clip_id) + self.attempts_before[failure.clip_id],
                finished_at=time.time(),
                message=failure.message,
            )
        self._writes = [write for write in self._writes if not write.done()]
        self._writes.append(self._pool.submit(self._record, failure))

    def _record(self, failure: Failure) -> None:
        try:
            self._check()
            self._store.record_failure(failure)
        except (ClipError, OSError) as error:
            _LOG.warning("a failure record of clip %s could not be written yet: %s", failure.clip_id, error)
            with self._lock:
                self._unwritten.append(failure)
        except JobStopped as error:
            self._stop = str(error)

    def tick(self, now: float) -> str:
        """Writes the table and postponed records. Returns why the job cannot continue, or an empty string."""
        if self._unwritten and now >= self._again_at:
            self._again_at = now + WRITE_EVERY_S
            with self._lock:
                unwritten, self._unwritten = self._unwritten, []
            self._writes += [self._pool.submit(self._record, failure) for failure in unwritten]
        if self._dirty and now >= self._table_at and (self._table is None or self._table.done()):
            self._dirty = False
            self._table = self._pool.submit(self._write_table, dict(self._summaries))
        return self._stop

    def _write_table(self, summaries: dict[str, ClipSummary]) -> None:
        began = time.monotonic()
        try:
            self._check()
            self._store.write_clips_table(summaries)
            self._table_error = ""
        except (ClipError, OSError) as error:
            self._table_error = f"clips.parquet could not be written: {error}"
            _LOG.warning("%s", self._table_error)
        except JobStopped as error:
            self._stop = str(error)
        # Writing a million clips takes a while: spend at most a twentieth of the time on it.
        took = time.monotonic() - began
        self._table_at = time.monotonic() + max(WRITE_EVERY_S, 20 * took)

    def write(self) -> None:
        """Writes the table."""
        self._write_table(dict(self._summaries))

    def close(self) -> None:
        """Writes everything that is pending; `summary` names what storage did not accept."""
        self._pool.shutdown(wait=True)
        unwritten, self._unwritten = self._unwritten, []
        for failure in unwritten:
            self._record(failure)
        self.write()

    def _missing(self) -> str:
        """What storage did not accept, as a phrase; empty if the ledger is complete."""
        if self._stop:
            return self._stop
        problems = [self._table_error] if self._table_error else []
        if self._unwritten:
            problems.append(f"{counted(len(self._unwritten), 'failure record')} could not be written")
        return "; ".join([*problems, "run again to write them"]) if problems else ""

    def summary(self, seconds: float, message: str, exit_code: int | None = None) -> JobSummary:
        if missing := self._missing():
            exit_code = 3 if exit_code is None else exit_code
            message = "; ".join(dict.fromkeys(part for part in (message, missing) if part))
        failed = self.failed_before + self.failed
        left = len(self._clips) - self.done_before - self.done - sum(failed.values())
        if exit_code is None:
            exit_code = 1 if failed or left else 0
        return JobSummary(
            clips=len(self._clips),
            done=self.done,
            skipped=self.done_before,
            failed={reason.value: count for reason, count in sorted(failed.items())},
            left=left,
            frames=self.frames,
            objects=self.objects,
            seconds=round(seconds, 3),
            exit_code=exit_code,
            message=message,
            rendered=self.rendered,
        )
