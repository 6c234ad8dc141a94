"""Writes a folder of true tracks from a public dataset.

All clips are read and checked before the first is written, so that a damaged dataset leaves nothing behind. Files are
created if absent: an interrupted import continues where it stopped.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sam3ray.failures import UserError
from sam3ray.files import resolve
from sam3ray.store import RunStore, layout
from sam3ray.store.annotation_file import AnnotationWriter
from sam3ray.store.storage import Storage
from sam3ray.truth._images import read_davis
from sam3ray.truth._mots import read_mots
from sam3ray.truth._sav import read_sav
from sam3ray.truth._values import Found, Reading, TrueClip
from sam3ray.truth._vis import read_saco, read_ytvis
from sam3ray.values.annotations import TRUTH_SCHEMA, FrameAnnotations

TRUTH_FORMATS: Mapping[str, Callable[[Reading], Iterator[Found]]] = {
    "saco": read_saco,
    "ytvis": read_ytvis,
    "davis": read_davis,
    "mots": read_mots,
    "sav": read_sav,
}
"""Datasets whose ground truth can be read."""

_NAMES = 20  # of problems


@dataclass(frozen=True)
class ImportedTruth:
    """The result of an import.

    Attributes:
        clips: number of clips written by this call; `already` existed and were not changed.
        objects: number of tracks.
        phrases: number of different phrases.
        unmatched: sequences without a clip in the run, if a run was named.
    """

    clips: int
    already: int
    frames: int
    objects: int
    phrases: int
    unmatched: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "unmatched": list(self.unmatched)}


def import_truth(
    truth: str | os.PathLike[str],
    source: str | os.PathLike[str],
    format: str,
    *,
    run: str | os.PathLike[str] | None = None,
    label: str = "object",
    labels: Mapping[str, str] | None = None,
    numbered: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ImportedTruth:
    """Imports the ground truth of a public dataset into `truth/annotations/<clip_id>.parquet`, for `sam3ray eval`.

    A clip's id is the sequence's name, or with `run` the id of the clip whose video or folder has that name.

    Args:
        truth: the folder to create, on any storage.
        source: the dataset's folder, or its JSON file.
        format: saco, ytvis, davis, mots or sav.
        run: a run of the same dataset, whose clip ids are used.
        label: the label of all objects, if the format has no labels.
        labels: new names of labels, as for `export`.
        numbered: the numbers in image names are frame indices; otherwise images count from 0. For datasets that label
            only some frames of a video of which the run has all.
        progress: called with the number of clips read.

    Raises:
        UserError: the dataset is damaged or of another format (with every problem), `truth` holds a run, or names
            collide.
    """
    if format not in TRUTH_FORMATS:
        raise UserError(f"--format {format}: allowed with --as-truth: {', '.join(TRUTH_FORMATS)}")
    storage, file = _source(source, storage_options)
    target = Storage(resolve(os.fspath(truth)), storage_options)
    if target.exists(layout.RUN):
        raise UserError(f"{target.shown()} holds a run: choose another folder for the truth")
    ids = {} if run is None else _names_of(RunStore(os.fspath(run), storage_options))
    reading = Reading(storage, file, label, numbered)
    problems: list[str] = []
    made: dict[str, tuple[Path, int, int]] = {}
    phrases: set[str] = set()
    unmatched: list[str] = []
    with tempfile.TemporaryDirectory() as work:
        try:
            for n, (name, read) in enumerate(TRUTH_FORMATS[format](reading), 1):
                clip_id = ids.get(name, name) if run is not None else name
                if run is not None and name not in ids:
                    unmatched.append(name)
                try:
                    if clip_id in made:
                        raise ValueError("another sequence also has this name")
                    clip = _renamed(read(), labels or {})  # before the name is checked, because a damaged file has none
                    layout.check_clip_id(clip_id)
                    path = Path(work) / f"{n}.parquet"
                    made[clip_id] = (path, *_write(path, clip_id, clip))
                    phrases.update(clip.prompts)
                except (ValueError, TypeError, OverflowError) as error:
                    said = str(error)  # a file with several sequences has already been named
                    problems.append(said if said.startswith(name) else f"{name}: {said}")
                if progress is not None:
                    progress(n)
        except ValueError as error:  # of the dataset as a whole
            said = str(error)
            named = file is not None and said.startswith(file)
            problems.append(storage.shown(said) if named else f"{storage.shown(file or '')}: {said}")
        if not made and not problems:
            problems.append(f"{storage.shown(file or '')} holds no sequence of the format {format}")
        if problems:
            more = [f"and {len(problems) - _NAMES} more"] if len(problems) > _NAMES else []
            raise UserError([*problems[:_NAMES], *more])
        created = [target.create(str(path), layout.annotation_path(clip_id)) for clip_id, (path, *_) in made.items()]
    return ImportedTruth(
        clips=sum(created),
        already=len(created) - sum(created),
        frames=sum(frames for _, frames, _ in made.values()),
        objects=sum(objects for _, _, objects in made.values()),
        phrases=len(phrases),
        unmatched=tuple(unmatched),
    )


def _source(source: str | os.PathLike[str], options: Mapping[str, Any] | None) -> tuple[Storage, str | None]:
    source = resolve(os.fspath(source))
    folder, _, name = source.rpartition("/")
    if name.endswith((".json", ".txt")):
        return Storage(folder or "/", options), name
    return Storage(source, options), None


def _names_of(store: RunStore) -> dict[str, str]:
    """Names that a dataset may use for the clips of a run: ids, and unique names of their videos or folders."""
    names: dict[str, set[str]] = {}
    clips = store.manifest()
    for clip in clips:
        last = clip.uri.partition("?")[0].rstrip("/").rpartition("/")[2]
        for name in {last, last.rpartition(".")[0] or last}:
            names.setdefault(name, set()).add(clip.clip_id)
    unique = {name: next(iter(found)) for name, found in names.items() if len(found) == 1}
    return unique | {clip.clip_id: clip.clip_id for clip in clips}


def _renamed(clip: TrueClip, labels: Mapping[str, str]) -> TrueClip:
    if not labels:
        return clip
    frames = (
        [replace(item, prompt=labels.get(item.prompt, item.prompt)) for item in objects] for objects in clip.frames
    )
    prompts = tuple(dict.fromkeys(labels.get(prompt, prompt) for prompt in clip.prompts))
    return replace(clip, frames=frames, prompts=prompts)


def _write(path: Path, clip_id: str, clip: TrueClip) -> tuple[int, int]:
    """Writes a clip's truth. Returns its numbers of frames and objects."""
    facts = {
        "prompts": list(clip.prompts),
        "frame_index": list(clip.frame_index),
        "height": clip.height,
        "width": clip.width,
    }
    with AnnotationWriter(path, clip_id, {"clip": facts}, TRUTH_SCHEMA) as writer:
        for place, (index, objects) in enumerate(zip(clip.frame_index, clip.frames, strict=True)):
            ordered = tuple(sorted(objects, key=lambda item: item.object_id))
            time_s = place / clip.fps if clip.fps else float(index)
            writer.write(FrameAnnotations(index, index, time_s, clip.height, clip.width, ordered))
        done = writer.finish()
    return done.frames, done.objects
