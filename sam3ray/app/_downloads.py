"""What people can download after a try: Parquet, an annotated video, an export for another tool, or a batch job."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sam3ray.app._library import Entry
from sam3ray.app._open_clips import OpenClip
from sam3ray.app._order import Order
from sam3ray.app._results import Result
from sam3ray.config import JobConfig, ModelConfig, TrackingConfig, config_from_text
from sam3ray.exports import FORMATS, SENTENCES, export
from sam3ray.failures import UserError
from sam3ray.guard.redact import redact
from sam3ray.rendering import render_clip
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import AnnotationWriter
from sam3ray.values.clip import Clip
from sam3ray.values.exemplars import exemplar_items
from sam3ray.values.prompt_writing import prompt_items


def save_parquet(result: Result, opened: OpenClip, model: dict[str, Any], path: Path, min_score: float) -> None:
    """Rows in the annotation schema, of the frames that were processed."""
    clip, info = result.order.clip, opened.frames.info
    facts = {
        "uri": clip.uri,
        "start_s": clip.start_s,
        "end_s": clip.end_s,
        "fps": clip.fps,
        "prompts": list(result.order.phrases),
        "visual_prompts": prompt_items((*result.order.visual, *result.order.refinements)),
        "source_fps": float(info.fps) if info.fps else None,
        "time_base": str(info.time_base),
        "codec": info.codec,
        "height": info.height,
        "width": info.width,
    }
    with AnnotationWriter(path, clip.clip_id, {"clip": facts, "model": model}) as writer:
        for frame in result.in_order(min_score):
            writer.write(frame)
        writer.finish()


def save_video(result: Result, opened: OpenClip, path: Path, min_score: float) -> None:
    """The whole clip with what was found drawn on it."""
    clip = result.order.clip
    render_clip(opened.path, result.in_order(min_score), path, clip, limits=result.order.limits)


def save_export(
    result: Result, opened: OpenClip, model: dict[str, Any], format: str, folder: Path, min_score: float
) -> tuple[Path, list[str]]:
    """A ZIP of an export, as `sam3ray export` makes it of a run: without images. And what the format does not hold.

    Args:
        format: with its variant, as "mots png".

    Raises:
        UserError: there is no such format, or it cannot hold the clip.
    """
    name, _, variant = format.partition(" ")
    if name not in FORMATS or variant not in ("", *FORMATS[name]):
        raise UserError(f"format {format!r:.60}: allowed: {', '.join(FORMATS)}, with their variants")
    clip = result.order.clip
    phrases = tuple(dict.fromkeys([*result.order.phrases, *(o.prompt for f in result.in_order() for o in f.objects)]))
    clip = Clip(clip.clip_id, clip.uri, phrases, clip.start_s, clip.end_s, clip.fps)
    store = RunStore(str(folder / "run"))
    store.create_or_open({"schema_version": 1, "page": result.order.id}, {"output": "try"}, [clip])
    save_parquet(result, opened, model, folder / "rows.parquet", min_score)
    store.commit(clip.clip_id, folder / "rows.parquet")
    done = export(str(folder / "run"), str(folder / "export"), name, variant=variant or None)
    if done.failed:
        raise UserError(f"{format} cannot hold this clip: {'; '.join(done.failed.values())}")
    lost = [f"{SENTENCES[kind]}: {count:,}" for kind, count in done.lost.items()]
    return _zipped(folder / "export", folder / "export.zip"), lost


def save_job(
    entries: Sequence[Entry], key: str, order: Order, model: ModelConfig, defaults: TrackingConfig
) -> tuple[dict[str, str], int]:
    """The files of a job for these clips: `job.yaml` and `clips.jsonl`, by name. And how many clips are not in it.

    Args:
        key: of the clip that the order is for: the job has its clicks and boxes. Other clips have its phrases; without
            any, clips keep those of their manifest, and are left out if they have none.

    Raises:
        UserError: the configuration is not valid.
    """
    rows = []
    for entry in entries:
        clip = entry.clip
        phrases = order.phrases or clip.prompts
        row: dict[str, Any] = {"clip_id": clip.clip_id, "uri": redact(clip.uri), "prompts": list(phrases)}
        row |= {name: getattr(clip, name) for name in ("start_s", "end_s", "fps") if getattr(clip, name) is not None}
        if entry.key == key and order.visual:
            row["visual_prompts"] = json.dumps(prompt_items(order.visual))
        if entry.key == key and order.exemplars:
            row["exemplars"] = json.dumps(exemplar_items(order.exemplars))
        if phrases or "visual_prompts" in row or "exemplars" in row:
            rows.append(row)
    phrases, tracking = order.phrases, order.tracking
    changed = {
        name: value
        for name, value in tracking.model_dump(mode="json").items()
        if value != defaults.model_dump(mode="json")[name]
    }
    if order.visual and order.way != "forward":
        changed["direction"] = order.way
    chosen = model.model_dump(mode="json")
    config: dict[str, Any] = {
        "manifest": "clips.jsonl",
        "output": "run",
        **({"prompts": list(phrases)} if phrases else {}),
        "model": {name: chosen[name] for name in ("checkpoint", "revision", "dtype", "device")},
        **({"tracking": changed} if changed else {}),
        "cluster": {"actors": {"min": 1, "max": 8}, "gpus_per_actor": 0 if model.device == "cpu" else 1},
    }
    text = "# Made by the page. Check it with `sam3ray plan job.yaml`, then `sam3ray run job.yaml`.\n"
    if model.checkpoint == "embedded":
        config["cluster"]["gpus_per_actor"] = 0
        text += "# The embedded checkpoint knows only drawn shapes: name your own under model.checkpoint.\n"
    text += yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    check: JobConfig = config_from_text(text, "job.yaml")  # never hand out what `run` would refuse
    del check
    files = {"job.yaml": text, "clips.jsonl": "".join(json.dumps(row) + "\n" for row in rows)}
    return files, len(entries) - len(rows)


def job_notes(entries: Sequence[Entry], order: Order, frames: int, left_out: int, folder: Path) -> list[str]:
    """Sentences on what to do with the files, and on what the job will not do as the page did.

    Args:
        frames: of the order's clip.
        left_out: clips that are not in the job.
        folder: the page's own, deleted when its server ends.
    """
    notes = ["Saved job.yaml and clips.jsonl. Put both into one folder and start the job with: sam3ray run job.yaml."]
    if count := sum(each.clip.uri.startswith(str(folder)) for each in entries):
        notes.append(
            f"{count} of the clips were uploaded or drawn for this page and are deleted with it: "
            "give their uri in clips.jsonl a lasting place."
        )
    if order.refinements:
        notes.append(
            "Prompts on objects that phrases found are not in the job, which cannot know those objects beforehand."
        )
    if left_out:
        notes.append(f"{left_out} of the clips are not in the job: without a phrase, there is nothing to look for.")
    elif (order.visual or order.exemplars) and len(entries) > 1:
        notes.append("Clicks and boxes are those of the clip that is open; the other clips have none.")
    if order.last - order.first + 1 < frames:
        notes.append("The job processes whole clips, not the range that is chosen here.")
    if order.way != "forward" and (order.phrases or order.exemplars):
        notes.append("The job looks for phrases from the first frame of a clip on.")
    return notes


def _zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                archive.write(each, each.relative_to(folder))
    return path
