"""Runs a job: checks the configuration and manifest, opens the run, and starts the loop (`job.running`) for open clips.

Crash contract: everything that the driver knows is also on storage. Annotations are committed by the actors; failure
records are written as they occur; `clips.parquet` is replaced as a whole, from time to time and at the end, and can be
rebuilt. After a driver dies, `run` resumes the job: committed clips stay, clips that were running are run again. An
actor that briefly outlives its driver can only commit a clip, which the next driver then finds done.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sam3ray.config import ConfigSource, JobConfig, load_config
from sam3ray.failures import UserError
from sam3ray.job.actor import WorkOrder
from sam3ray.job.agreement import agreement, open_run, resolved_model
from sam3ray.job.cluster import connected
from sam3ray.job.metrics import ray_metrics
from sam3ray.job.observe import Observer, Observers, reading_told
from sam3ray.job.progress import make_progress
from sam3ray.job.reporting import leave_report
from sam3ray.job.result import JobSummary
from sam3ray.job.running import Job, JobSpec
from sam3ray.job.sources import Sources, first_sight, with_digests
from sam3ray.job.tables import Ledger
from sam3ray.manifest import read_manifest
from sam3ray.planning import check_visual_prompts, prepare
from sam3ray.store import RunStore, layout
from sam3ray.values.clip import Manifest

if TYPE_CHECKING:
    from sam3ray.job.refinement import Refinement
    from sam3ray.job.worker import MakeSegmenter


def run_job(
    config: ConfigSource,
    overrides: Sequence[str] = (),
    *,
    progress: Observer | bool | None = None,
    make_segmenter: MakeSegmenter | None = None,
    log_level: str = "warning",
    refinement: Refinement | None = None,
) -> JobSummary:
    """Runs or resumes the job. Safe to call again at any time.

    Args:
        config: a YAML file, a dict with the same keys, or a `JobConfig` (see `sam3ray.load_config`).
        overrides: `key.subkey=value` each, as `--set` takes them.
        progress: True prints it to stderr, as the command does; or an observer, called for every clip and about once a
            second.
        make_segmenter: replaces `sam3ray.segment.Segmenter`; called in every actor.
        refinement: track the clips of these corrections instead of the manifest's (`sam3ray.refine`).

    Raises:
        UserError: the config, the manifest or the output is not usable; nothing was started.
        JobStopped: nothing could be started. A job that stops later returns its summary.
    """
    job = load_config(config, overrides)
    if isinstance(progress, bool):
        progress = make_progress() if progress else None
    observer = Observers([progress] if progress is not None else [])
    with contextlib.closing(observer):
        return _run_job(job, observer, make_segmenter, log_level, refinement)


def _run_job(
    config: JobConfig,
    progress: Observers,
    make_segmenter: MakeSegmenter | None,
    log_level: str,
    refinement: Refinement | None,
) -> JobSummary:
    clips = read_manifest(config.manifest, config) if refinement is None else refinement.clips()
    store = RunStore(config.output, config.storage)
    refines = None if refinement is None else refinement.fingerprint
    start = prepare(config, clips, store, own_model=make_segmenter is None, refines=refines)
    if start.refusal is not None:
        raise UserError(start.refusal)
    if start.begun is None:  # a resumed run was checked when it started, and its fingerprint holds every prompt
        seen = with_digests(first_sight(clips), check_visual_prompts(clips, config))
        start = dataclasses.replace(start, clips=Manifest(seen, clips.carried))
    agreed = agreement(config, start.checkpoint)
    with store.lease() as lease:
        open_run(store, config, start, agreed, {} if refinement is None else refinement.facts)
        store.expect(lease)
        clips = Manifest(store.with_mask_digests(clips), clips.carried)
        ledger = Ledger(store, clips, config.retry, lease.check, reading_told(progress))
        sources = Sources(clips, store.first_sights(), ledger.summaries)
        if start.begun is not None:
            sources.tell_changes(first_sight(clips))
        todo = ledger.todo()
        unrendered = ledger.unrendered() if config.render.enabled else []
        if not todo and not unrendered:
            ledger.write()
            if not store.storage.exists(layout.REPORT):
                leave_report(store)
            return ledger.summary(0.0, "")
        with connected(config.cluster):
            for_workers = config.model_copy(update={"model": resolved_model(config.model, agreed)})
            prints = dict(start.fingerprint)
            order = WorkOrder(for_workers, store, prints, make_segmenter, log_level, agreed, refinement)
            observer = Observers([*ray_metrics(config.output), progress])
            summary = Job(JobSpec(order, clips, sources, todo, unrendered), ledger, lease, observer).run()
        is_news = ledger.done or ledger.failed or not store.storage.exists(layout.REPORT)
        if summary.exit_code in (0, 1) and is_news and not lease.lost:
            leave_report(store)
        return summary
