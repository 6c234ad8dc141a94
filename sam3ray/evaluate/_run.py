"""Compares annotations with the truth, in memory or on storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sam3ray.config import RunSource, run_place
from sam3ray.failures import UserError
from sam3ray.guard.processes import in_processes
from sam3ray.guard.redact import redact
from sam3ray.revisions import ClipOperation, Edits
from sam3ray.store import RunStore
from sam3ray.values.annotations import FrameAnnotations

from ._comparison import Comparison, Tolerance, compare
from ._frames import compared_frames
from ._report import Report, report_of
from ._stored import StoredClip, open_run, read_stored
from ._track_eval import metrics

ANY_PROMPT = "(any)"


def evaluate(
    predicted: Iterable[FrameAnnotations],
    truth: Iterable[FrameAnnotations],
    prompts: Sequence[str] | None = None,
    tolerance: Tolerance | None = None,
    clip_id: str = "clip",
) -> Report:
    """Compares one clip's predicted with its true annotations, phrase by phrase.

    Args:
        predicted: the frames to judge.
        truth: every frame to compare, including those without objects. An object's `visibility`, where known, is its
            visible share.
        prompts: the phrases asked for, including those that do not occur in the clip; None takes those that occur.
        tolerance: what counts as found.
        clip_id: names the clip in the report.

    Raises:
        ValueError: predicted and true masks differ in size.
        UserError: TrackEval is not installed.
    """
    given = {frame.frame_index: frame for frame in predicted}
    true = {frame.frame_index: frame for frame in truth}
    return report_of(_compare_clip(clip_id, given, true, sorted(true), prompts, tolerance or Tolerance()))


def evaluate_run(
    output: RunSource,
    truth: RunSource,
    storage_options: Mapping[str, Any] | None = None,
    tolerance: Tolerance | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    *,
    ignore_prompts: bool = False,
    revision: int | str | None = None,
) -> Report:
    """Compares a run with the truth, a folder of the same layout: `annotations/<clip_id>.parquet`.

    The metadata of the truth's files ("clip") say how many `frames` were labelled and which `prompts` were asked for.
    Without them, only frames with true objects and phrases that occur are compared. Clips that the truth lacks are
    omitted, as are frames that the run did not look at (`fps`, `start_s` and `end_s` of its clips).

    Args:
        workers: processes to share the clips among. The report does not depend on it.
        progress: called with the number of clips compared, and of all.
        ignore_prompts: treat all phrases as one, for truth that names no classes.
        revision: of the run: None for the model's own rows; "latest" or a number applies the corrections up to that
            revision.

    Raises:
        UserError: the revision does not exist, a folder has no annotations or unreadable ones, sizes differ, or
            TrackEval is not installed.
    """
    output, storage_options = run_place(output, storage_options)
    truth, _ = run_place(truth, storage_options)
    tolerance = tolerance or Tolerance()
    metrics(tolerance.iou)  # fail before the work, not after it
    true_run = RunStore(truth, storage_options)
    clips = sorted(true_run.done_ids())
    if not clips:
        raise UserError(f"{redact(truth)} holds no annotations/<clip_id>.parquet: it is not a folder of true tracks")
    run = open_run(output, storage_options)
    done = run.done_ids()
    compared: list[Comparison] = []
    edits = Edits(run)
    corrections = edits.operations(edits.number_of(revision))
    compare_one = partial(_compare_stored, run, true_run, tolerance, ignore_prompts, corrections)
    for count, found in enumerate(
        in_processes(compare_one, [(clip_id, clip_id in done) for clip_id in clips], workers), 1
    ):
        compared += found
        if progress is not None:
            progress(count, len(clips))
    return report_of(compared, tuple(clip for clip in clips if clip not in done))


def _compare_stored(
    run: RunStore,
    true_run: RunStore,
    tolerance: Tolerance,
    ignore_prompts: bool,
    corrections: Mapping[str, Sequence[ClipOperation]],
    clip: tuple[str, bool],
) -> list[Comparison]:
    clip_id, is_done = clip
    true = read_stored(true_run, clip_id)
    given = read_stored(run, clip_id, corrections.get(clip_id, ())) if is_done else StoredClip()
    prompts = true.facts.get("prompts")
    if ignore_prompts:
        true, given, prompts = _as_one(true), _as_one(given), [ANY_PROMPT]
    try:
        frames = compared_frames(true.facts, given.facts, true.frames.keys(), given.frames.keys())
        return _compare_clip(clip_id, given.frames, true.frames, frames, prompts, tolerance)
    except (ValueError, TypeError, ArithmeticError) as error:  # the file's content cannot be annotations
        raise UserError(f"clip {clip_id}: {redact(str(error))}") from None


def _as_one(clip: StoredClip) -> StoredClip:
    """The clip with the same name for every phrase."""
    frames = {
        index: replace(frame, objects=tuple(replace(item, prompt=ANY_PROMPT) for item in frame.objects))
        for index, frame in clip.frames.items()
    }
    return StoredClip(clip.facts, frames)


def _compare_clip(
    clip_id: str,
    given: Mapping[int, FrameAnnotations],
    true: Mapping[int, FrameAnnotations],
    frames: Sequence[int],
    prompts: Sequence[str] | None,
    tolerance: Tolerance,
) -> list[Comparison]:
    if prompts is None:
        occurring = (o.prompt for side in (true, given) for frame in side.values() for o in frame.objects)
        prompts = list(dict.fromkeys(occurring))
    return [compare(clip_id, given, true, frames, prompt, tolerance) for prompt in prompts]
