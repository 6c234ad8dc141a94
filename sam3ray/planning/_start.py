"""Everything known about a run before it has workers. `plan` and `run` share this, so that they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sam3ray.config import JobConfig, ModelConfig, differences, fingerprint
from sam3ray.engine import checkpoint as weights
from sam3ray.engine.preflight import long_phrases, phrase_problem, threshold_problem
from sam3ray.failures import UserError
from sam3ray.store import RunStore
from sam3ray.store.identity import normalised
from sam3ray.values.clip import Manifest


@dataclass(frozen=True)
class Start:
    """A job that is ready to start or to resume.

    Attributes:
        clips: the manifest's clips.
        checkpoint: identifies the weights, see `engine.checkpoint_identity`; empty if the caller brings its own model.
        fingerprint: everything that changes results; a resumed run's own fingerprint.
        begun: the `run.json` of the run to resume; None for a new run.
        refusal: why the run in the output folder cannot be resumed with this job; None if it can.
        differences: one sentence for each key of the fingerprint that differs.
        unknown: why the checkpoint's weights could not be identified; None if they were.
    """

    clips: Manifest
    checkpoint: Mapping[str, str]
    fingerprint: Mapping[str, Any]
    begun: Mapping[str, Any] | None = None
    refusal: str | None = None
    differences: Sequence[str] = ()
    unknown: str | None = None


def prepare(
    config: JobConfig,
    clips: Manifest,
    store: RunStore,
    *,
    own_model: bool = True,
    patient: bool = True,
    refines: Mapping[str, Any] | None = None,
) -> Start:
    """Looks up the checkpoint, and compares the job with the run in its output folder, if any. Writes nothing.

    Args:
        own_model: False if the caller brings its own model, so that `model.checkpoint` does not apply.
        refines: additional keys of the fingerprint of a `refine` job, which runs no phrases.
        patient: False: do not wait for a slow hub, and leave the checkpoint unknown (`unknown` says why).

    Raises:
        UserError: `run.json` is damaged; a new run's phrases or thresholds do not suit its checkpoint.
        JobStopped: the checkpoint does not exist or cannot be fetched.
    """
    begun = store.run_info() if store.exists() else None
    job = _Job(config, clips, store, own_model, patient, refines or {})
    start = _compared(job, begun)
    if start.refusal is not None and not store.is_started():
        start = _compared(job, None)
    if start.begun is None and own_model and refines is None and start.unknown is None:
        _check_with_checkpoint(config, start, patient)
    return start


def _check_with_checkpoint(config: JobConfig, start: Start, patient: bool) -> None:
    """Rejects phrases and thresholds that do not suit the checkpoint. A resumed run was checked when it began.

    Raises:
        UserError: one sentence for each problem.
    """
    model = config.model
    if "commit" in start.checkpoint:
        model = model.model_copy(update={"revision": start.checkpoint["commit"]})
    clips_of: dict[str, list[str]] = {}
    for clip in start.clips:
        for phrase in clip.prompts:
            clips_of.setdefault(phrase, []).append(clip.clip_id)
    problems = []
    for phrase, tokens in long_phrases(model, clips_of, patient=patient, storage_options=config.storage).items():
        first, *others = clips_of[phrase]
        more = f" (and {len(others)} more)" if others else ""
        problems.append(f"clip {first}{more}: {phrase_problem(phrase, tokens)}")
    if problem := threshold_problem(model, config.tracking, patient=patient, storage_options=config.storage):
        problems.append(problem)
    if problems:
        raise UserError(problems)


@dataclass(frozen=True)
class _Job:
    """The arguments of `prepare`."""

    config: JobConfig
    clips: Manifest
    store: RunStore
    own_model: bool
    patient: bool
    refines: Mapping[str, Any]


def _compared(job: _Job, begun: Mapping[str, Any] | None) -> Start:
    config, clips, patient = job.config, job.clips, job.patient
    checkpoint: dict[str, str] = {}
    unknown = None
    if job.own_model:
        model, known = _pinned(config.model, begun)
        try:
            checkpoint = weights.checkpoint_identity(model, known, patient=patient, storage_options=config.storage)
        except weights.HubUnreachable as error:
            if patient:
                raise
            unknown = str(error)
    prints = {**fingerprint(config, clips, checkpoint), **job.refines}
    if begun is None:
        return Start(clips, checkpoint, prints, unknown=unknown)
    ours, theirs = prints, begun["fingerprint"]
    if unknown or not (patient or any(key.startswith("checkpoint.") for key in theirs)):
        ours, theirs = _without_checkpoint(ours), _without_checkpoint(theirs)
    refusal = job.store.refusal({**begun, "fingerprint": theirs}, ours, clips)
    found = tuple(differences(normalised(ours), theirs))
    # A resumed run keeps its fingerprint as stored, even if it lacks keys added since: all its files say the same.
    return Start(clips, checkpoint, prints if found else begun["fingerprint"], begun, refusal, found, unknown)


def _without_checkpoint(prints: Mapping[str, Any]) -> dict[str, Any]:
    named = ("model.checkpoint", "model.revision")
    return {key: value for key, value in prints.items() if key not in named and not key.startswith("checkpoint.")}


def _pinned(model: ModelConfig, begun: Mapping[str, Any] | None) -> tuple[ModelConfig, Mapping[str, str] | None]:
    """A resumed run keeps its checkpoint's commit, even if the named branch has moved."""
    known = (begun or {}).get("checkpoint") or {}
    if begun is None or "commit" not in known or known.get("name") != model.checkpoint:
        return model, None
    named = begun.get("config", {}).get("model", {}).get("revision")
    if model.revision not in (named, known["commit"]):
        return model, None
    return model.model_copy(update={"revision": known["commit"]}), known
