"""Exports a run clip by clip: in parallel, resumable, with memory that does not grow with the run.

A process holds one clip's rows at a time. Facts that all clips share (numbers of clips and labels) are computed from
the frozen manifest beforehand, so the files do not depend on the number of processes or on earlier calls.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sam3ray.config import RunSource, run_place
from sam3ray.exports import parquet
from sam3ray.exports._folder import SIDECARS, Folder
from sam3ray.exports._formats import format_of
from sam3ray.exports._images import extract_images
from sam3ray.exports._labels import Choice, ClipLabels, Written
from sam3ray.exports._losses import Losses
from sam3ray.exports._selection import choice_from, read_labels, select
from sam3ray.failures import ClipError, UserError
from sam3ray.files import resolve
from sam3ray.guard.addresses import scheme_of
from sam3ray.guard.processes import in_processes
from sam3ray.guard.redact import redact
from sam3ray.revisions import ClipOperation
from sam3ray.store import RunStore
from sam3ray.store.storage import Storage

if TYPE_CHECKING:
    from sam3ray.values.clip import Clip

VERSION = 5  # version of the exports' layout; raised when a writer's output changes


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        clips: number of clips exported by this call; `already`: by earlier calls.
        failed: clip -> why it could not be exported. All others were.
        lost: what the format could not hold, for all clips together (`exports._losses.SENTENCES`).
        unknown_names: labels to be renamed that the run does not have.
    """

    clips: int
    already: int
    frames: int
    rows: int
    failed: dict[str, str] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    unknown_names: tuple[str, ...] = ()

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
    prints: Mapping[str, Any] | None = None  # fingerprint, if the export is itself a run


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
    """Writes a run's labels for another tool. Safe to repeat: it continues with clips not exported yet.

    Args:
        output: the run's folder, on any fsspec storage; or the job's YAML file, dict or `JobConfig`.
        to: the destination, on any writable storage: an empty folder, or an unfinished export of the same kind.
        format: see `exports._formats.FORMATS`; `variant` if a format has several.
        clips, prompts, min_score, every, names: see `Choice`.
        images: also extract the exported frames as JPEGs, where the tool looks for them.
        revision: apply the corrections up to this one, "latest" or a number; None: the model's result.
        workers: processes.
        progress: called with the number of finished clips and their total.

    Raises:
        UserError: an argument is not usable, `output` is not a run, or `to` holds something else.
    """
    output, storage_options = run_place(output, storage_options)
    variant, way = format_of(format, variant)
    choice = choice_from(clips, prompts, min_score, every, names)
    store = RunStore(output, storage_options)
    run_id = store.run_id()
    selected = select(store, choice, revision)
    wanted, numbers, categories = selected.clips, selected.numbers, selected.categories
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
            "revision": selected.revision,
            "format": format,
            "variant": variant,
            "choice": shown_choice,
            "images": images,
        }
    )
    there = folder.exported()
    todo = [clip for clip in wanted if clip.clip_id not in there]
    prints = parquet.fingerprint(store, shown_choice, selected.revision) if way.is_run else None
    order = _Order(
        store, destination, format, variant, choice, categories, numbers, images, selected.operations, prints
    )
    failed: dict[str, str] = {}
    for done, (clip_id, problem) in enumerate(in_processes(partial(_export_clip, order), todo, workers), 1):
        if problem is not None:
            failed[clip_id] = problem
        if progress is not None:
            progress(done, len(todo))
    # Keeps only summaries, because the sidecars of long clips are large.
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
        unknown_names=selected.unknown_names,
    )


def _written(folder: Folder, clip_id: str) -> Written:
    about = folder.sidecar(clip_id)
    labels = tuple(dict.fromkeys(each["label"] for each in about["objects"]))
    return Written(clip_id, about["number"], about["frames"], about["uri"], about["rows"], labels, about["lost"])


def _export_clip(order: _Order, clip: Clip) -> tuple[str, str | None]:
    """Writes one clip's files, its sidecar last. Returns its id and its error, if any."""
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


def _sidecar(labels: ClipLabels, lost: Losses, ids: Mapping[int, int] | None) -> dict[str, Any]:
    """The facts that formats may lose: times, and each object's label, scores and id.

    Args:
        ids: object id -> its number in the files, if the format renumbers; objects without a number are omitted.
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
                **({} if ids is None else {"exported_id": ids.get(object_id)}),
            }
            for object_id, track in labels.tracks.items()
        ],
        "lost": {kind: count for kind, count in lost.items() if count},
    }
