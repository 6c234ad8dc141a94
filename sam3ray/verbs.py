"""The verbs of the command as functions, for notebooks and programs.

Each takes a run in any form: the output folder (a path or an address), or the job's configuration (a YAML file, a dict
or a `JobConfig`). Relative paths in arguments and dicts are resolved in the current directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sam3ray.config import ClusterConfig, RenderConfig, RunSource, load_config, run_place
from sam3ray.failures import Reason, UserError
from sam3ray.revisions import check_edits, count_edits
from sam3ray.store import (
    CompactResult,
    RunStore,
    Status,
    compact_run,
    leftovers,
    read_status,
    spread_over_processes,
    verify_run,
)
from sam3ray.values.phrases import as_names

if TYPE_CHECKING:
    from sam3ray.job import JobSummary
    from sam3ray.job.observe import Observer

Progress = Callable[[int, int], None]  # (done, total)


def status(
    run: RunSource,
    storage_options: Mapping[str, Any] | None = None,
    *,
    revision: int | str | None = "latest",
    progress: Callable[[int], None] | None = None,
) -> Status:
    """A run's progress, read from storage alone, while the job runs elsewhere or after it has ended.

    Args:
        run: the output folder, or the job's YAML file, dict or `JobConfig`.
        storage_options: fsspec options; they override those of the configuration.
        revision: count corrections up to this revision.
        progress: called from time to time with the number of files checked.

    Raises:
        UserError: there is no run.
    """
    output, options = run_place(run, storage_options)
    found = read_status(output, options, progress)
    return dataclasses.replace(found, edits=count_edits(RunStore(output, options), revision))


def verify(
    run: RunSource,
    storage_options: Mapping[str, Any] | None = None,
    *,
    sample: int | None = None,
    revision: int | str | None = "latest",
    workers: int = 1,
    cluster: str | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Audits a run: that every clip is accounted for, and schema, row order, ids, boxes, masks and corrections.

    Args:
        run, storage_options: see `status`.
        sample: check the files of only this many clips, chosen at random each time.
        revision: check the corrections up to this revision, and the corrected rows; None skips corrections.
        workers: processes on this machine.
        cluster: spread the work over this Ray cluster instead: "auto", or host:port of its head node.
        progress: called with (clips checked, clips to check).

    Returns:
        One sentence for each problem; an empty list if none was found.

    Raises:
        UserError: there is no run.
    """
    if sample is not None and sample < 1:
        raise UserError(f"sample is {sample}; allowed: 1 and above, or None for every clip")
    output, options = run_place(run, storage_options)
    with contextlib.ExitStack() as stack:
        spread = spread_over_processes(workers)
        if cluster is not None:
            from sam3ray.job.spread import spread_over_cluster

            spread = stack.enter_context(spread_over_cluster(ClusterConfig(address=cluster)))
        problems = verify_run(output, options, progress, sample=sample, spread=spread)
    return problems + ([] if revision is None else check_edits(RunStore(output, options), revision))


def verify_notes(run: RunSource, storage_options: Mapping[str, Any] | None = None) -> list[str]:
    """Harmless leftovers, which `verify` does not count as problems and the next `run_job` removes.

    Args:
        run, storage_options: see `status`.

    Returns:
        One sentence each.
    """
    output, options = run_place(run, storage_options)
    return leftovers(RunStore(output, options))


def retry(
    run: RunSource,
    reasons: str | Reason | Iterable[str | Reason] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    *,
    from_start: bool = False,
) -> int:
    """Clears failure records: the next `run_job` retries those clips, except finished ones.

    Args:
        run, storage_options: see `status`.
        reasons: clear only failures with these reasons; None clears all.
        from_start: make these clips start over, by deleting their saved windows.

    Returns:
        The number of clips cleared.

    Raises:
        UserError: there is no run, or no such reason.
    """
    names = as_names(reasons, "reasons")
    known = [reason.value for reason in Reason]
    if wrong := [name for name in names or () if name not in known]:
        raise UserError(f"reasons holds {name!r}; allowed: {', '.join(known)}" for name in wrong)
    output, options = run_place(run, storage_options)
    store = RunStore(output, options)
    store.run_info()
    with store.lease("retry") as lease:
        return store.clear_failures(names, lease.check, from_start=from_start)


def compact(
    run: RunSource,
    storage_options: Mapping[str, Any] | None = None,
    *,
    target_mb: int = 256,
    remove_originals: bool = False,
    progress: Progress | None = None,
) -> CompactResult:
    """Merges a run's files, one per clip, into larger ones. Safe against a crash at any point.

    Args:
        run, storage_options: see `status`.
        target_mb: target size of a merged file, in MiB.
        remove_originals: delete the per-clip files afterwards.
        progress: called with (clips merged, clips to merge).

    Raises:
        UserError: there is no run, `target_mb` is out of range, or a file cannot be merged (`verify` says why).
        JobStopped: a job is running on it.
    """
    if not 1 <= target_mb <= 4096:
        raise UserError(f"target_mb is {target_mb}; allowed: 1 to 4096")
    output, options = run_place(run, storage_options)
    return compact_run(output, options, target_mb * 2**20, remove_originals, progress)


def render(
    run: RunSource,
    clips: str | Iterable[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
    revision: int | str | None = None,
    options: RenderConfig | Mapping[str, Any] | None = None,
    cluster: str | None = None,
    progress: Observer | bool | None = None,
) -> JobSummary:
    """Renders the annotated videos of a run's finished clips, on CPUs. Existing videos are kept.

    Args:
        run, storage_options: as for `status`.
        clips: an id, or a list of ids; None is all finished clips.
        overwrite: re-render existing videos.
        revision: "latest" or a number: draw with the corrections up to this revision, into `edits/videos/<number>/`;
            without `clips`, only corrected clips. None draws the model's own rows.
        options: keys of the configuration's `render` section, such as `{"max_height": 480}`. Missing keys are taken
            from the run's configuration.
        cluster: the Ray cluster to use: "auto", or host:port of its head node; None starts Ray on this machine.
        progress: True prints it to stderr; or an observer.

    Raises:
        UserError: there is no run, or no such finished clip.
        JobStopped: storage or Ray cannot be reached, or a job is running on it.
    """
    from sam3ray.job import make_progress, render_run

    if isinstance(progress, bool):
        progress = make_progress() if progress else None
    output, place = run_place(run, storage_options)
    return render_run(
        output,
        clips,
        storage=place,
        render=options if options is None or isinstance(options, RenderConfig) else _render_options(options),
        cluster=None if cluster is None else ClusterConfig(address=cluster),
        overwrite=overwrite,
        revision=revision,
        progress=progress,
    )


def _render_options(options: Mapping[str, Any]) -> RenderConfig:
    return load_config({"manifest": "none", "output": "/none", "render": dict(options)}).render
