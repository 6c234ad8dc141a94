"""What a run would start with: everything that is known before there is a worker. `plan` and `run` ask here alike."""

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
        clips: of the manifest.
        checkpoint: which weights, as `engine.checkpoint_identity` says; empty where the model is not one of ours.
        fingerprint: all that changes results; that of the run, where one is continued.
        begun: the `run.json` of the run that is continued; None: a run begins.
        refusal: why the run in the output cannot be continued with this job; None: it can.
        differences: the keys of the fingerprint in which it differs, one sentence each.
        unknown: why it is not known which weights the checkpoint has; None: it is known.
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
    """Looks up the checkpoint and compares the job with the run in its output, if there is one. Writes nothing.

    Args:
        own_model: False: the model is not one of ours, and `model.checkpoint` names none.
        refines: what the fingerprint of a job that follows corrections holds besides; no phrase of it runs.
        patient: False: a hub that does not answer at once leaves the checkpoint unknown (`unknown` says why).

    Raises:
        UserError: `run.json` is damaged; a new run's phrases or thresholds do not suit its checkpoint.
        JobStopped: there is no such checkpoint, or it cannot be had.
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
    """Refuses phrases and thresholds that the checkpoint does not take. A resumed run has been checked already.

    Raises:
        UserError: one sentence for each of them.
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
    # New files of a run say the same as its old ones, which may lack keys that have been added since.
    return Start(clips, checkpoint, prints if found else begun["fingerprint"], begun, refusal, found, unknown)


def _without_checkpoint(prints: Mapping[str, Any]) -> dict[str, Any]:
    named = ("model.checkpoint", "model.revision")
    return {key: value for key, value in prints.items() if key not in named and not key.startswith("checkpoint.")}


def _pinned(model: ModelConfig, begun: Mapping[str, Any] | None) -> tuple[ModelConfig, Mapping[str, str] | None]:
    """A resumed run keeps its commit, even if the branch that was named has moved since."""
    known = (begun or {}).get("checkpoint") or {}
    if begun is None or "commit" not in known or known.get("name") != model.checkpoint:
        return model, None
    named = begun.get("config", {}).get("model", {}).get("revision")
    if model.revision not in (named, known["commit"]):
        return model, None
    return model.model_copy(update={"revision": known["commit"]}), known
