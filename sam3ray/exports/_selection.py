"""Selects what an export contains: clips, their rows with corrections, and numbers of clips and labels.

Everything is derived from the frozen manifest and the log of corrections, and so does not depend on earlier calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sam3ray.exports._labels import Choice, ClipLabels, chosen
from sam3ray.failures import UserError
from sam3ray.guard.redact import redact
from sam3ray.revisions import ClipOperation, Edits
from sam3ray.store import RunStore
from sam3ray.store.labelled_frames import labelled_frames
from sam3ray.values.phrases import as_names, label_problem

if TYPE_CHECKING:
    from sam3ray.values.clip import Clip


@dataclass(frozen=True)
class Selection:
    """The part of a run that is exported.

    Attributes:
        clips: the chosen finished clips, in the manifest's order.
        numbers: clip id -> its place in the manifest, from 1.
        revision: the last revision that is applied; 0: the model's result.
        operations: clip -> its corrections.
        categories: label -> number from 1.
        unknown_names: labels to be renamed that the run does not have.
    """

    choice: Choice
    clips: Sequence[Clip]
    numbers: Mapping[str, int]
    revision: int
    operations: Mapping[str, Sequence[ClipOperation]]
    categories: Mapping[str, int]
    unknown_names: tuple[str, ...]


def select(store: RunStore, choice: Choice, revision: int | str | None) -> Selection:
    """Finds the chosen part of the run.

    Raises:
        UserError: the run does not have a clip, a label or the revision.
    """
    manifest = store.manifest()
    wanted = _wanted_clips(manifest, store.done_ids(), choice)
    edits = Edits(store)
    number = edits.number_of(revision)
    operations = edits.operations(number)
    corrected = edits.labels(operations)
    known = _known_labels(manifest, choice, corrected)
    return Selection(
        choice,
        wanted,
        {clip.clip_id: n for n, clip in enumerate(manifest, 1)},
        number,
        operations,
        categories_of(manifest, choice, corrected),
        tuple(label for label in choice.names or () if label not in known),
    )


def choice_from(
    clips: str | Sequence[str] | None,
    prompts: str | Sequence[str] | None,
    min_score: float,
    every: int,
    names: Mapping[str, str] | None,
) -> Choice:
    problems = []
    if type(every) is not int or every < 1:
        problems.append(f"--every {every}: allowed: whole numbers from 1")
    if not isinstance(min_score, int | float) or not 0 <= min_score <= 1:
        problems.append(f"--min-score {min_score}: allowed: 0 to 1")
    for label, name in (names or {}).items():
        if not isinstance(label, str):
            problems.append(f"label {label!r} is not text")
        elif problem := label_problem(name):
            problems.append(f"label {label!r}: its new name {problem}")
    if problems:
        raise UserError(problems)
    return Choice(
        as_names(clips, "clips"),
        as_names(prompts, "prompts"),
        float(min_score),
        every,
        dict(names) if names else None,
    )


def _wanted_clips(manifest: Sequence[Clip], done: set[str], choice: Choice) -> list[Clip]:
    if choice.clips is None:
        wanted = [clip for clip in manifest if clip.clip_id in done]
        if not wanted:
            raise UserError("no clip of this run is done: there is nothing to export")
        return wanted
    known = {clip.clip_id for clip in manifest}
    problems = [
        f"--clips {clip_id}: " + ("it is not done" if clip_id in known else "the run has no such clip")
        for clip_id in choice.clips
        if clip_id not in done or clip_id not in known
    ]
    if problems:
        raise UserError(problems)
    chosen_ids = set(choice.clips)
    return [clip for clip in manifest if clip.clip_id in chosen_ids]


def _known_labels(manifest: Sequence[Clip], choice: Choice, corrected: Sequence[str]) -> set[str]:
    """Raises UserError if a chosen label is unknown: a typing error would otherwise export nothing."""
    known = {label for clip in manifest for label in clip.names} | set(corrected)
    if unknown := [label for label in choice.prompts or () if label not in known]:
        named = ", ".join(sorted(known)[:20])
        raise UserError([f"--prompts {label}: the run has no such label; allowed: {named}" for label in unknown])
    return known


def categories_of(manifest: Sequence[Clip], choice: Choice, corrected: Sequence[str] = ()) -> dict[str, int]:
    """Label -> number from 1, by first appearance in the manifest, followed by labels of corrections."""
    asked = [label for clip in manifest for label in _asked(clip, choice)]
    wanted = None if choice.prompts is None else set(choice.prompts)
    asked += [choice.name_of(label) for label in corrected if wanted is None or label in wanted]
    return {label: n for n, label in enumerate(dict.fromkeys(asked), 1)}


def _asked(clip: Clip, choice: Choice) -> list[str]:
    wanted = None if choice.prompts is None else set(choice.prompts)
    return list(dict.fromkeys(choice.name_of(label) for label in clip.names if wanted is None or label in wanted))


def read_labels(
    store: RunStore,
    clip: Clip,
    number: int,
    categories: Mapping[str, int],
    choice: Choice,
    corrections: Sequence[ClipOperation] = (),
) -> ClipLabels:
    """Reads the labels of one finished clip for the writers.

    Raises:
        ValueError: its rows have masks of different sizes, or a label that is not in the manifest.
    """
    file = store.read_clip_metadata(clip.clip_id)
    about = file.get("clip", {})
    frames = Edits(store).clip(clip.clip_id, corrections)
    sizes = {(frame.height, frame.width) for frame in frames} or {(about.get("height") or 1, about.get("width") or 1)}
    if len(sizes) > 1:
        raise ValueError(f"its rows have masks of several sizes: {sorted(sizes)}")
    height, width = next(iter(sizes))
    objects = chosen(frames, choice)
    unknown = {item.prompt for items in objects.values() for item in items} - set(categories)
    if unknown:
        raise ValueError(f"it has the label {min(unknown)!r}, which the manifest does not request")
    indices = labelled_frames(about, {frame.frame_index for frame in frames})[:: choice.every]
    kept = set(indices)
    return ClipLabels(
        number=number,
        clip_id=clip.clip_id,
        uri=redact(clip.uri),
        height=height,
        width=width,
        fps=about.get("source_fps"),
        frames=tuple(indices),
        objects={index: items for index, items in objects.items() if index in kept},
        times={frame.frame_index: frame.time_s for frame in frames},
        pts={frame.frame_index: frame.pts for frame in frames},
        asked=tuple(_asked(clip, choice)),
        categories=categories,
        about=file,
    )
