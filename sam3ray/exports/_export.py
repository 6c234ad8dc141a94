"""Exports a run: clip by clip, in parallel, resumable, in memory that does not grow with the run.

A process holds one clip's rows at a time. What every clip must agree on (numbers of clips and of labels) is worked out
from the frozen manifest beforehand, so the files do not depend on the number of processes or on earlier calls.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam3ray.config import RunSource, VideoConfig, run_place
from sam3ray.exports import parquet
from sam3ray.exports._folder import SIDECARS, Folder
from sam3ray.exports._formats import format_of
from sam3ray.exports._labels import Choice, ClipLabels, Written, chosen
from sam3ray.exports._losses import Losses
from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.files import read_text, resolve
from sam3ray.guard.addresses import scheme_of
from sam3ray.guard.processes import in_processes
from sam3ray.guard.redact import redact
from sam3ray.revisions import ClipOperation, Edits
from sam3ray.store import RunStore
from sam3ray.store.labelled_frames import labelled_frames
from sam3ray.store.storage import Storage
from sam3ray.values.phrases import as_names, label_problem
from sam3ray.video import VideoCache, VideoReader

if TYPE_CHECKING:
    import numpy as np

    from sam3ray.values.clip import Clip

VERSION = 4  # of the exports' layout: raised when a writer's output changes
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Attributes:
        clips: exported by this call; `already` by calls before.
        failed: clip -> what went wrong with it. The others are exported.
        lost: what the format could not hold, over all clips: see `exports._losses.SENTENCES`.
    """

    clips: int
    already: int
    frames: int
    rows: int
    failed: dict[str, str] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Order:
    """The settings sent to every process."""

    store: RunStore
    destination: Storage
    format: str
    variant: str
    choice: Choice
    categories: Mapping[str, int]
    numbers: Mapping[str, int]
    images: bool
    operations: Mapping[str, Sequence[ClipOperation]]  # clip -> corrections
    prints: Mapping[str, Any] | None = None  # the fingerprint of an export that is a run


def export(
    output: RunSource,
    to: str | os.PathLike[str],
    format: str,
    *,
    variant: str | None = None,
    clips: str | Sequence[str] | None = None,
    prompts: str | Sequence[str] | None = None,
    min_score: float = 0.0,
    every: int = 1,
    names: Mapping[str, str] | None = None,
    images: bool = False,
    revision: int | str | None = None,
    workers: int = 1,
    storage_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Writes a run's labels for another tool. Safe to repeat: it continues with the clips that are not exported yet.

    Args:
        output: the run's folder, on any fsspec storage; or the job's YAML file, dict or `JobConfig`.
        to: the destination, empty or an unfinished export of the same; on any storage that can be written.
        format: see `exports._formats.FORMATS`; `variant` where a format has several.
        clips, prompts, min_score, every, names: see `Choice`.
        images: also extract the exported frames as JPEGs, where the tool looks for them.
        revision: None is what the model found, "latest" or a number applies the corrections up to there.
        workers: processes.
        progress: called with how many clips are done, of how many.

    Raises:
        UserError: an argument does not fit, `output` is no run, or `to` holds something else.
    """
    output, storage_options = run_place(output, storage_options)
    variant, way = format_of(format, variant)
    choice = choice_from(clips, prompts, min_score, every, names)
    store = RunStore(output, storage_options)
    run_id = store.run_id()
    manifest = store.manifest()
    numbers = {clip.clip_id: n for n, clip in enumerate(manifest, 1)}
    wanted = wanted_clips(manifest, store.done_ids(), choice)
    edits = Edits(store)
    revision = edits.number_of(revision)
    operations = edits.operations(revision)
    corrected = edits.labels(operations)
    check_prompts(manifest, choice, corrected)
    categories = categories_of(manifest, choice, corrected)
    if images and way.image is None:
        raise UserError(f"--images: {format}{f' ({variant})' if variant else ''} reads no images")
    destination = Storage(resolve(os.fspath(to)), storage_options)
    if f"{destination.uri}/".startswith(f"{store.storage.uri}/"):
        raise UserError(f"--to {destination.shown()} is inside the run; allowed: a folder outside of it")
    if workers > 1 and scheme_of(destination.uri) == "memory":
        raise UserError(
            f"--to {destination.shown()} exists only within one process; allowed: a path, s3://, gs:// or az://, "
            "or one worker"
        )
    folder = Folder(destination)
    shown_choice = {**asdict(choice), "names": dict(choice.names) if choice.names else None}
    folder.claim(
        {
            "version": VERSION,
            "run": run_id,
            "revision": revision,
            "format": format,
            "variant": variant,
            "choice": shown_choice,
            "images": images,
        }
    )
    there = folder.exported()
    todo = [clip for clip in wanted if clip.clip_id not in there]
    prints = parquet.fingerprint(store, shown_choice, revision) if way.is_run else None
    order = _Order(store, destination, format, variant, choice, categories, numbers, images, operations, prints)
    failed: dict[str, str] = {}
    for done, (clip_id, problem) in enumerate(in_processes(partial(_export_clip, order), todo, workers), 1):
        if problem is not None:
            failed[clip_id] = problem
        if progress is not None:
            progress(done, len(todo))
    # Summaries alone are kept of the sidecars: those of long clips are large.
    ids = [clip.clip_id for clip in wanted if clip.clip_id not in failed]
    written = {each.clip_id: each for each in destination.each(partial(_written, folder), ids)}
    if way.write_dataset is not None and not failed:
        with folder:
            way.write_dataset([written[clip_id] for clip_id in ids], categories, folder)
    if prints is not None and not failed:
        places = [(numbers[clip.clip_id] - 1, clip) for clip in wanted]
        labels = {clip_id: each.labels for clip_id, each in written.items()}
        parquet.write_run(store, places, labels, choice, prints, RunStore(destination.uri, storage_options))
    lost = Losses()
    for clip_id in ids:
        lost.update(written[clip_id].lost)
    return Exported(
        clips=len(todo) - len(failed),
        already=len(wanted) - len(todo),
        frames=sum(each.frames for each in written.values()),
        rows=sum(each.rows for each in written.values()),
        failed=failed,
        lost={kind: count for kind, count in sorted(lost.items()) if count},
    )


def _written(folder: Folder, clip_id: str) -> Written:
    about = folder.sidecar(clip_id)
    labels = tuple(dict.fromkeys(each["label"] for each in about["objects"]))
    return Written(clip_id, about["number"], about["frames"], about["uri"], about["rows"], labels, about["lost"])


def choice_from(
    clips: str | Sequence[str] | None,
    prompts: str | Sequence[str] | None,
    min_score: float,
    every: int,
    names: Mapping[str, str] | None,
) -> Choice:
    problems = []
    if type(every) is not int or every < 1:
        problems.append(f"--every {every}: allowed: 1 and above, whole")
    if not isinstance(min_score, int | float) or not 0 <= min_score <= 1:
        problems.append(f"--min-score {min_score}: allowed: 0 to 1")
    for label, name in (names or {}).items():
        if not isinstance(label, str):
            problems.append(f"label {label!r} is no text")
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


def wanted_clips(manifest: Sequence[Clip], done: set[str], choice: Choice) -> list[Clip]:
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


def check_prompts(manifest: Sequence[Clip], choice: Choice, corrected: Sequence[str]) -> None:
    """Raises UserError where one of the chosen labels is none of the run: a slip would export nothing."""
    known = {label for clip in manifest for label in clip.names} | set(corrected)
    if unknown := [label for label in choice.prompts or () if label not in known]:
        named = ", ".join(sorted(known)[:20])
        raise UserError([f"--prompts {label}: the run has no such label; allowed: {named}" for label in unknown])


def categories_of(manifest: Sequence[Clip], choice: Choice, corrected: Sequence[str] = ()) -> dict[str, int]:
    """Label -> number from 1, in the order in which the manifest first asks for them, those of corrections last."""
    asked = [label for clip in manifest for label in _asked(clip, choice)]
    wanted = None if choice.prompts is None else set(choice.prompts)
    asked += [choice.name_of(label) for label in corrected if wanted is None or label in wanted]
    return {label: n for n, label in enumerate(dict.fromkeys(asked), 1)}


def _asked(clip: Clip, choice: Choice) -> list[str]:
    wanted = None if choice.prompts is None else set(choice.prompts)
    return list(dict.fromkeys(choice.name_of(label) for label in clip.names if wanted is None or label in wanted))


def _export_clip(order: _Order, clip: Clip) -> tuple[str, str | None]:
    """Writes one clip's files, its sidecar last. Returns its id, and what went wrong with it."""
    way = format_of(order.format, order.variant)[1]
    try:
        corrections = order.operations.get(clip.clip_id, ())
        number = order.numbers[clip.clip_id]
        labels = read_labels(order.store, clip, number, order.categories, order.choice, corrections)
        if order.prints is not None:
            labels = replace(labels, about={**labels.about, "fingerprint": order.prints})
        with Folder(order.destination) as folder:
            if order.images:
                assert way.image is not None
                extract_images(order.store, clip, labels, partial(way.image, labels), folder)
            lost = way.write_clip(labels, folder)
            folder.settle()
            folder.json(f"{SIDECARS}/{clip.clip_id}.json", _sidecar(labels, lost, way.ids and way.ids(labels)))
    except (ClipError, ValueError, FileNotFoundError) as error:
        return clip.clip_id, redact(" ".join(str(error).split()))[:500]
    return clip.clip_id, None


def read_labels(
    store: RunStore,
    clip: Clip,
    number: int,
    categories: Mapping[str, int],
    choice: Choice,
    corrections: Sequence[ClipOperation] = (),
) -> ClipLabels:
    """One finished clip as the writers take it.

    Raises:
        ValueError: its rows have a label that the manifest does not ask for, or a size of their own.
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


def _sidecar(labels: ClipLabels, lost: Losses, ids: Mapping[int, int] | None) -> dict[str, Any]:
    """What formats lose: times, and each object's label, scores and id.

    Args:
        ids: object id -> its number in the files, where that is another one.
    """
    return {
        "clip_id": labels.clip_id,
        "uri": labels.uri,
        "number": labels.number,
        "height": labels.height,
        "width": labels.width,
        "frames": len(labels.frames),
        "rows": sum(map(len, labels.objects.values())),
        "frame_index": list(labels.frames),
        "pts": [labels.pts.get(frame) for frame in labels.frames],
        "time_s": [labels.times.get(frame) for frame in labels.frames],
        "objects": [
            {
                "object_id": object_id,
                "label": next(iter(track.values())).prompt,
                "score": float(next(iter(track.values())).score),
                "first_frame": next(iter(track)),
                "track_scores": [round(float(item.track_score), 6) for item in track.values()],
                **({} if ids is None else {"exported_id": ids[object_id]}),
            }
            for object_id, track in labels.tracks.items()
        ],
        "lost": {kind: count for kind, count in lost.items() if count},
    }


def extract_images(
    store: RunStore, clip: Clip, labels: ClipLabels, name: Callable[[int, int], str], folder: Folder
) -> None:
    """The exported frames as JPEGs, decoded once, in order.

    Args:
        name: that of an image, from the frame's index and its place among the exported frames.
    """
    options, limits = store.storage.options, VideoConfig()
    wanted = set(labels.frames)
    with ExitStack() as resources:
        work = resources.enter_context(tempfile.TemporaryDirectory())
        cache = resources.enter_context(VideoCache(work, limits.cache_bytes, options, limits=limits))
        source = resources.enter_context(cache.open(clip.uri))
        reader = resources.enter_context(VideoReader(source, start_s=clip.start_s, end_s=clip.end_s, fps=clip.fps))
        for frame in reader:
            if frame.index in wanted:
                wanted.discard(frame.index)
                folder.bytes(name(frame.index, labels.place[frame.index]), _jpeg(frame.image))
            if not wanted:
                break
    if wanted:
        raise ClipError(Reason.UNREADABLE_VIDEO, f"frame {min(wanted)} is not in the video", f"frame {min(wanted)}")


def _jpeg(image: np.ndarray) -> bytes:
    import cv2

    done, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done
    return bytes(data.tobytes())


def read_names(path: str) -> dict[str, str]:
    """A file of labels and their new names: YAML or JSON, `person: pedestrian`.

    Raises:
        UserError: it is not a mapping of texts.
    """
    text = read_text(path, {}, 1_000_000, what="label file")
    if Path(path).suffix == ".json":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise UserError(f"label file {path} is not JSON") from None
    else:
        import yaml

        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"label file {path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(value, dict) or not all(isinstance(v, str) for pair in value.items() for v in pair):
        raise UserError(f"label file {path} must map labels to names, one per line, as in `person: pedestrian`")
    return value
