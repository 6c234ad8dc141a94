"""A plain run folder with the corrections in its rows, for readers that do not support revisions.

`annotations/<clip_id>.parquet`, `manifest.parquet`, `clips.parquet` and, last, `run.json`. It can be read,
verified, rendered, exported and corrected like any run, but `run` does not continue it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from sam3ray.exports._folder import Folder
from sam3ray.exports._labels import Choice, ClipLabels
from sam3ray.exports._losses import Losses
from sam3ray.store import RunStore, frozen, identity, layout
from sam3ray.store.annotation_file import AnnotationWriter
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.clip import Clip


def write_clip(labels: ClipLabels, out: Folder) -> Losses:
    about = labels.about
    clip = dict(about.get("clip", {}))
    own = hashlib.sha256(json.dumps([clip.get("attempt_id"), about.get("fingerprint")]).encode()).hexdigest()[:32]
    facts = {name: about.get(name, {}) for name in ("fingerprint", "clip", "model", "software")}
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "clip.parquet"
        with AnnotationWriter(path, labels.clip_id, facts) as writer:
            for frame in labels.frames:
                objects = labels.objects.get(frame, ())
                pts, time_s = labels.pts.get(frame, 0), labels.time_of(frame)
                writer.write(FrameAnnotations(frame, pts, time_s, labels.height, labels.width, objects))
            # Each export writes the same file: its time is that of the original.
            writer.finish(finished_at=clip.get("finished_at", 0.0), attempt_id=own)
        out.local_file(layout.annotation_path(labels.clip_id), str(path))
    return Losses()


def fingerprint(store: RunStore, choice: Mapping[str, Any], revision: int) -> dict[str, Any]:
    """The run's fingerprint, and the facts that distinguish the export."""
    return {
        **store.run_info()["fingerprint"],
        "export.run": store.run_id(),
        "export.revision": revision,
        "export.choice": dict(choice),
    }


def write_run(
    store: RunStore,
    clips: Sequence[tuple[int, Clip]],
    labels: Mapping[str, Sequence[str]],
    choice: Choice,
    prints: Mapping[str, Any],
    destination: RunStore,
) -> None:
    """Writes the files that turn the clips' files into a run.

    Args:
        clips: exported clips, with their places in the run's manifest.
        labels: clip -> labels of its rows.
        prints: the result of `fingerprint`.
    """
    made = [_clip(clip, labels[clip.clip_id], choice) for _, clip in clips]
    carried = store.carried_columns().take(pa.array([place for place, _ in clips], pa.int64()))
    info = store.run_info()
    config = {**(info.get("config") or {}), "output": destination.output}
    extra: dict[str, Any] = {key: info[key] for key in ("versions", "checkpoint", "device") if key in info}
    run = identity.describe_run(prints, config, len(made), frozen.digest(made), extra)
    run |= {
        "run_id": hashlib.sha256(json.dumps(prints, sort_keys=True).encode()).hexdigest()[:32],
        "created_at": info.get("created_at", run["created_at"]),
    }
    storage = destination.storage
    manifest = frozen.to_parquet(made, carried if carried.num_columns else None)
    storage.create_bytes(manifest, layout.MANIFEST)
    destination.write_clips_table(destination.summaries())
    storage.create_bytes(json.dumps(run, indent=2).encode() + b"\n", layout.RUN)


def _clip(clip: Clip, labels: Sequence[str], choice: Choice) -> Clip:
    """The clip for the new manifest, with the names that its rows use."""
    prompts = tuple(replace(each, label=choice.name_of(each.label)) for each in clip.visual_prompts)
    shown = tuple(
        replace(each, phrase=choice.name_of(each.phrase))
        if each.phrase
        else replace(each, label=choice.name_of(each.label))
        for each in clip.exemplars
    )
    named = {*(each.label for each in prompts), *(each.name for each in shown)}
    asked = [choice.name_of(phrase) for phrase in clip.prompts]
    return replace(
        clip,
        prompts=tuple(dict.fromkeys([*asked, *(label for label in labels if label not in named)])),
        visual_prompts=prompts,
        exemplars=shown,
    )
