"""Measures what correcting one frame in N is worth, with and without `refine`: HOTA and J&F on drawn clips.

    python -m benchmarks.refine [--clips 8] [--every 24 12 6]

The embedded checkpoint labels the clips. A simulated annotator, who knows the truth, looks at every N-th frame, draws
missing objects, redraws those with an IoU below .9, and deletes false ones. Three runs are compared: the original, the
one with these corrections, and the one that `refine` makes of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from sam3ray.config import JobConfig
from sam3ray.evaluate import evaluate_run
from sam3ray.job.refinement import latest_refinement
from sam3ray.job.worker import ClipWorker
from sam3ray.manifest import Clip
from sam3ray.masks import decode_rle
from sam3ray.revisions import Add, ClipOperation, Delete, Edits, ReplaceMask
from sam3ray.shapes import ClipSpec, clip_phrases, write_clip
from sam3ray.store import RunStore
from sam3ray.store.annotation_file import read_frames
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation

FIRST_SEED = 502_001  # used nowhere else
GOOD = 0.9  # the annotator accepts a mask from this IoU on
SAME = 0.5  # and from which it is that object


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--every", type=int, nargs="+", default=[24, 12, 6])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        clips = [_draw(place, FIRST_SEED + n, given.frames) for n in range(given.clips)]
        truth = str(place / "truth")
        run, worker = _begin(place / "run", clips)
        for clip in clips:
            worker.process(clip)
        _tell("as the model left it", 0, run.output, truth)
        for every in given.every:
            _tried(place, worker, run, truth, every)


def _draw(place: Path, seed: int, frames: int) -> Clip:
    spec = ClipSpec(seed, frames=frames, objects=(3, 6))
    name, phrases = f"shapes-{seed}", clip_phrases(spec)
    write_clip(spec, place / f"{name}.mp4", place / "truth" / "annotations" / f"{name}.parquet", phrases)
    return Clip(name, str(place / f"{name}.mp4"), tuple(phrases))


def _begin(output: Path, clips: Sequence[Clip]) -> tuple[RunStore, ClipWorker]:
    config = JobConfig(
        manifest="-",
        output=str(output),
        model={"checkpoint": "embedded", "device": "cpu"},
        tracking={"direction": "both", "refine": "throughout"},
        cluster={"gpus_per_actor": 0},
    )
    store = RunStore(config.output)
    store.create_or_open({"benchmark": 1}, config.model_dump(mode="json"), clips)
    return store, ClipWorker(config, store, {"benchmark": 1})


def _tried(place: Path, worker: ClipWorker, run: RunStore, truth: str, every: int) -> None:
    edits = Edits(run)
    drawn = 0
    operations: list[ClipOperation] = []
    for clip in run.manifest():
        made, count = _corrections(edits, run, RunStore(truth), clip.clip_id, every)
        operations, drawn = operations + made, drawn + count
    number = edits.append(operations, tool="benchmark")
    _tell(f"1 frame in {every} corrected", drawn, run.output, truth, revision=number)
    refinement = latest_refinement(run, number)
    clips = refinement.clips()
    store = RunStore(str(place / f"refined-{every}"))
    store.create_or_open(refinement.fingerprint, {}, clips, extra=refinement.facts)
    worker.store, worker.refinement = store, refinement
    for clip in clips:
        worker.process(clip)
    for clip in run.manifest():  # those that needed no correction
        if not store.is_done(clip.clip_id):
            store.commit(clip.clip_id, Path(run.output, "annotations", f"{clip.clip_id}.parquet"))
    _tell(f"1 frame in {every} corrected, refined", drawn, store.output, truth)
    edits.undo(number)


def _corrections(
    edits: Edits, run: RunStore, truth: RunStore, clip_id: str, every: int
) -> tuple[list[ClipOperation], int]:
    """The annotator's corrections of a clip, and the number of masks drawn."""
    found = {frame.frame_index: frame for frame in read_frames(run.read_clip(clip_id))}
    true = {frame.frame_index: frame for frame in read_frames(truth.read_clip(clip_id))}
    last = int(run.read_clip_metadata(clip_id)["clip"]["frames"])
    ids: dict[int, int] = {}  # true object -> ours
    fresh = 1 + max((item.object_id for frame in found.values() for item in frame.objects), default=0)
    masks: dict[int, list[FrameAnnotations]] = {}
    spurious: set[int] = set()
    new: set[int] = set()
    for index in range(every // 2, last, every):
        ours = {item.object_id: item for item in found[index].objects} if index in found else {}
        theirs = {item.object_id: item for item in true[index].objects} if index in true else {}
        facts = true.get(index) or found.get(index)
        overlap = _overlaps(theirs, ours, facts)
        free = [number for number in ours if number not in ids.values()]
        unknown = [number for number in theirs if number not in ids]
        if free and unknown:
            table = np.array([[overlap[t, o] for o in free] for t in unknown])
            for row, column in zip(*linear_sum_assignment(-table), strict=True):
                if table[row, column] >= SAME and theirs[unknown[row]].prompt == ours[free[column]].prompt:
                    ids[unknown[row]] = free[column]
        for number, item in theirs.items():
            if number not in ids:
                ids[number], fresh = fresh, fresh + 1
                new.add(ids[number])
            if overlap.get((number, ids[number]), 0.0) < GOOD:
                row = ObjectAnnotation(ids[number], item.prompt, 1.0, 1.0, item.bbox, item.area, item.rle)
                masks.setdefault(ids[number], []).append(
                    FrameAnnotations(index, facts.pts, facts.time_s, facts.height, facts.width, (row,))
                )
        spurious |= {number for number in ours if number not in ids.values()}
    operations: list[ClipOperation] = [Delete(clip_id, number) for number in sorted(spurious - set(ids.values()))]
    for number, frames in sorted(masks.items()):
        data = edits.put_data(clip_id, frames)
        if number in new:
            operations.append(Add(clip_id, number, *data))
        else:
            operations.append(ReplaceMask(clip_id, number, (frames[0].frame_index, frames[-1].frame_index), *data))
    return operations, sum(map(len, masks.values()))


def _overlaps(theirs: Any, ours: Any, facts: Any) -> dict[tuple[int, int], float]:
    pixels = {
        side: {n: decode_rle(item.rle, facts.height, facts.width) for n, item in items.items()}
        for side, items in (("t", theirs), ("o", ours))
    }
    return {
        (t, o): float((a & b).sum() / max(1, (a | b).sum()))
        for t, a in pixels["t"].items()
        for o, b in pixels["o"].items()
    }


def _tell(what: str, drawn: int, output: str, truth: str, revision: int | None = None) -> None:
    found = evaluate_run(output, truth, revision=revision).overall
    line = {"what": what, "masks drawn": drawn, "of true boxes": found.true_boxes}
    figures = {"HOTA": found.hota, "J&F": found.j_and_f, "IDF1": found.idf1}
    print(json.dumps(line | {name: round(value or 0, 3) for name, value in figures.items()}), flush=True)


if __name__ == "__main__":
    main()
