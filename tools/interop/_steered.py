"""Checks that a correction made in a tool steers `refine`: one mask on one frame becomes a track."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import sam3ray
from sam3ray.config import ActorsConfig, ClusterConfig, JobConfig, ModelConfig
from sam3ray.exports import export, import_labels
from sam3ray.job.worker import ClipWorker
from sam3ray.masks import decode_rle
from sam3ray.shapes import ClipSpec, clip_phrases, write_clip
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import read_frames
from sam3ray.values.annotations import FrameAnnotations
from sam3ray.values.clip import Clip

SEED, FRAMES, CORRECTED_FRAME = 502_102, 24, 12
CLIP = "shapes"


def steered(
    folder: Path, format_: str, variant: str | None, correct: Callable[[Path, int, str, np.ndarray], None]
) -> tuple[float, int]:
    """Labels one phrase of a drawn clip. An annotator then adds an object of another phrase, on one frame.

    Args:
        correct: adds an object with the tool, or to its files; takes the export's folder, frame, label and mask.

    Returns:
        The new object's mean IoU with the truth on the frames where it was not drawn, and their number.
    """
    spec = ClipSpec(SEED, frames=FRAMES, objects=(2, 3))
    phrases = clip_phrases(spec)
    truth = folder / "truth" / "annotations" / f"{CLIP}.parquet"
    write_clip(spec, folder / "clip.mp4", truth, phrases)
    run = _labelled(folder, phrases[0])
    true = {frame.frame_index: frame for frame in read_frames(truth)}
    number, label = _largest(true, phrases[0])
    masks = {
        index: decode_rle(item.rle, frame.height, frame.width)
        for index, frame in true.items()
        for item in frame.objects
        if item.object_id == number
    }
    out = folder / "export"
    export(run.output, str(out), format_, variant=variant, images=True, names=None)
    correct(out, CORRECTED_FRAME, label, masks[CORRECTED_FRAME])
    done = import_labels(run.output, out, format_, author="annotator")
    assert done.clips == {CLIP: {"add": 1}}, done
    sam3ray.refine(run.output, folder / "refined")
    import_labels(run.output, folder / "refined", "run")
    before = {i.object_id for frame in read_frames(run.read_clip(CLIP)) for i in frame.objects}
    rows = sam3ray.read_annotations(run.output, revision="latest").to_table().to_pylist()
    found = {
        row["frame_index"]: sam3ray.decode_mask(row)
        for row in rows
        if row["object_id"] not in before and row["prompt"] == label
    }
    others = [index for index in masks if index != CORRECTED_FRAME]
    fits = [float((masks[n] & found[n]).sum() / (masks[n] | found[n]).sum()) if n in found else 0.0 for n in others]
    return float(np.mean(fits)), len(others)


def _largest(true: dict[int, FrameAnnotations], but: str) -> tuple[int, str]:
    """Id and label of the object of another phrase whose smallest visible area is largest."""
    least: dict[tuple[int, str], int] = {}
    for item in (item for frame in true.values() for item in frame.objects if item.prompt != but):
        key = item.object_id, item.prompt
        least[key] = min(item.area, least.get(key, item.area))
    return max(least, key=lambda key: (least[key], key))


def _labelled(folder: Path, phrase: str) -> RunStore:
    config = JobConfig(
        manifest="-",
        output=str(folder / "run"),
        model=ModelConfig(checkpoint="embedded", device="cpu"),
        cluster=ClusterConfig(gpus_per_actor=0, actors=ActorsConfig(min=1, max=1)),
    )
    store = RunStore(config.output)
    clip = Clip(CLIP, str(folder / "clip.mp4"), (phrase,))
    store.create_or_open({"interop": 1}, config.model_dump(mode="json"), [clip])
    worker = ClipWorker(config, store, {"interop": 1})
    worker.process(clip)
    worker.close()
    return store
