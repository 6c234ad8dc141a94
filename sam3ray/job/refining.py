"""Tracks the corrected clips of a run again, with the corrections as prompts, into a new run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sam3ray.config import JobConfig, RunSource, config_from_text, run_place
from sam3ray.failures import UserError
from sam3ray.files import resolve
from sam3ray.guard.addresses import folder_form
from sam3ray.guard.redact import redact
from sam3ray.job import driver
from sam3ray.job.refinement import Refinement, latest_refinement
from sam3ray.job.result import JobSummary
from sam3ray.store import RunStore
from sam3ray.values.phrases import as_names

if TYPE_CHECKING:
    from sam3ray.job.observe import Observer
    from sam3ray.job.worker import MakeSegmenter

_OWN = ("manifest", "output", "prompts", "visual_prompts", "exemplars", "tracking.direction", "tracking.refine")


def refine(
    run: RunSource,
    to: str | os.PathLike[str] | None = None,
    *,
    revision: int | str | None = "latest",
    clips: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    storage_options: Mapping[str, Any] | None = None,
    progress: Observer | bool | None = None,
    make_segmenter: MakeSegmenter | None = None,
    log_level: str = "warning",
) -> JobSummary:
    """Tracks each corrected object of a run again, in both directions, from all frames on which it was corrected.

    Phrases are not detected again. Objects that were drawn by hand or not changed are copied, deleted objects stay
    deleted, and ids stay the same. The new run has only the corrected clips; `sam3ray.exports.import_labels` with the
    format `run` imports its rows as a revision. Safe to repeat: an interrupted run resumes.

    Args:
        run: the corrected run: the output folder, or the job's YAML file, dict or `JobConfig`.
        to: the new run; None: `refined_output`.
        revision: the last revision to apply.
        clips: track only these of the corrected clips.
        overrides: `key=value` pairs; all other settings are taken from the run.
        progress: as `run_job`.

    Raises:
        UserError: there is nothing to refine, or an argument is not usable; nothing was started.
        JobStopped: nothing could be started.
    """
    output, options = run_place(run, storage_options)
    refinement = latest_refinement(RunStore(output, options), revision, as_names(clips, "clips"))
    place = resolve(os.fspath(to)) if to else refined_output(output, refinement.revision)
    config = _config(refinement, place, overrides)
    return driver.run_job(
        config, progress=progress, make_segmenter=make_segmenter, log_level=log_level, refinement=refinement
    )


def refined_output(run: RunSource, revision: int) -> str:
    """Where the refined run goes by default: beside the run, named after it and the revision."""
    return f"{run_place(run)[0].rstrip('/')}-refined-{revision}"


def _config(refinement: Refinement, to: str, overrides: Sequence[str]) -> JobConfig:
    parent = refinement.parent
    if folder_form(to) == folder_form(parent.output):
        raise UserError(f"--to {redact(to)} is the run itself; allowed: another folder, for a run of its own")
    wrong = [each for each in overrides if each.partition("=")[0].strip() in _OWN]
    if wrong:
        raise UserError(f"--set {each}: refine decides this itself; allowed: other keys" for each in wrong)
    saved = dict(parent.run_info().get("config") or {})
    saved |= {
        "manifest": parent.path("manifest.parquet"),
        "output": to,
        "prompts": [],
        "visual_prompts": None,
        "exemplars": None,
        "tracking": {**saved.get("tracking", {}), "direction": "both", "refine": "throughout"},
    }
    return config_from_text(json.dumps(saved), f"{redact(parent.output)}/run.json", overrides)
