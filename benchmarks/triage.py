"""Measures how many true errors are among the first suspects of `sam3ray triage`, on drawn clips with known truth.

    python -m benchmarks.triage run /tmp/triage --clips 80       # draws clips, labels them with the embedded checkpoint
    python -m benchmarks.triage measure /tmp/triage              # the table
    python -m benchmarks.triage measure /tmp/triage --against /tmp/other/run
    python -m benchmarks.triage fit /tmp/tuning                  # prints weights; uses other clips

Seeds from 970,000 on are reserved for this: 970,000 to 974,999 to fit, from 975,000 on to measure. A row is wrong if
its mask has less than .5 IoU with every unmatched true object of its phrase, or if it matches another true object than
most of its track. An object is wrong if more than a fifth of its rows are. A clip's errors are its wrong rows and its
missed true masks.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment, minimize

from sam3ray.annotations import AnnotationWriter, FrameAnnotations, read_frames
from sam3ray.masks import iou_matrix, read_rle
from sam3ray.screening import SIGNALS, triage
from sam3ray.shapes import COLOURS, SHAPES, ClipSpec, clip_phrases, phrases, write_clip

MEASURE, FIT = 975_000, 970_000
SIZES = ((320, 240), (426, 240), (240, 240))
FRAMES = 48
WRONG_SHARE = 0.2
IOU = 0.5


def asked(spec: ClipSpec) -> list[str]:
    """The phrases to ask for: two of the clip, or a shape alone; in every third clip also one that matches nothing."""
    rng = np.random.default_rng([spec.seed, 7])
    own = clip_phrases(spec)
    prompts = [own[i] for i in rng.permutation(len(own))[:2]]
    if spec.seed % 4 == 0:
        prompts = [prompts[0].split()[1]]
    absent = [phrases(c, s)[0] for c in COLOURS for s in SHAPES if phrases(c, s)[0] not in own]
    return [*prompts, absent[int(rng.integers(len(absent)))]] if spec.seed % 3 == 0 else prompts


def label_clips(folder: Path, clips: int, first: int, tracking: dict[str, float]) -> None:
    """Draws and labels the clips that do not exist yet."""
    from sam3ray import load, segment_video
    from sam3ray.config import TrackingConfig

    model = load("embedded", tracking=TrackingConfig(**tracking))
    (folder / "run" / "annotations").mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + clips):
        spec = ClipSpec(seed, *SIZES[seed % 3], FRAMES, objects=(2, 6), look="mixed")
        clip_id, prompts = f"drawn-{seed}", asked(spec)
        video, truth = folder / f"{clip_id}.mp4", folder / "truth" / "annotations" / f"{clip_id}.parquet"
        if not truth.exists():
            write_clip(spec, video, truth, prompts)
        path = folder / "run" / "annotations" / f"{clip_id}.parquet"
        if path.exists():
            continue
        partial = path.with_suffix(".partial")
        with AnnotationWriter(partial, clip_id, {"clip": {"prompts": prompts}}) as writer:
            for frame in segment_video(str(video), prompts, model=model):
                writer.write(frame)
            writer.finish()
        os.replace(partial, path)
        print(f"{clip_id} labelled", flush=True)


@dataclass(frozen=True)
class Errors:
    """A clip's errors: wrong rows and all rows by object, and the number of missed true masks."""

    wrong: Counter[int]
    rows: Counter[int]
    missed: int


def errors_of(predicted: Sequence[FrameAnnotations], truth: Sequence[FrameAnnotations]) -> Errors:
    """Compares a clip with its truth."""
    true_frames = {frame.frame_index: frame for frame in truth}
    stands_for: dict[tuple[int, int], int | None] = {}  # (frame, object) -> true object, 0 if barely visible
    rows: Counter[int] = Counter()
    missed = 0
    given = {frame.frame_index: frame for frame in predicted}
    for t in sorted(true_frames.keys() | given.keys()):
        true, mine = (side[t].objects if t in side else () for side in (true_frames, given))
        size = (true_frames.get(t) or given[t]).height, (true_frames.get(t) or given[t]).width
        masks = [[read_rle(item.rle, *size) for item in side] for side in (true, mine)]
        same = np.array([[p.prompt == q.prompt for q in mine] for p in true]).reshape(len(true), len(mine))
        ious = np.where(same, iou_matrix(*masks), 0.0)
        pairs = {j: i for i, j in zip(*linear_sum_assignment(-ious), strict=True) if ious[i, j] >= IOU}
        plain = [(item.visibility or 0.0) >= 0.25 for item in true]
        missed += sum(plain[i] for i in range(len(true)) if i not in pairs.values())
        for j, item in enumerate(mine):
            rows[item.object_id] += 1
            i = pairs.get(j)
            stands_for[t, item.object_id] = None if i is None else true[i].object_id if plain[i] else 0
    wrong: Counter[int] = Counter()
    for object_id in rows:
        found = [value for (_, k), value in stands_for.items() if k == object_id]
        main = Counter(value for value in found if value).most_common(1)
        wrong[object_id] = sum(value is None or (value != 0 and value != main[0][0]) for value in found)
    return Errors(wrong, rows, missed)


def read(folder: Path) -> dict[str, Errors]:
    found = {}
    for path in sorted((folder / "run" / "annotations").glob("*.parquet")):
        truth = folder / "truth" / "annotations" / path.name
        found[path.stem] = errors_of(list(read_frames(path)), list(read_frames(truth)))
    return found


def is_wrong(errors: Errors, object_id: int) -> bool:
    return errors.wrong[object_id] > WRONG_SHARE * errors.rows[object_id]


def share_in_first(errors: Sequence[float], share: float = 0.1) -> tuple[float, float]:
    """The share of errors in the first tenth of a ranking, and the largest share that any order could have there."""
    first = max(1, round(share * len(errors)))
    total = sum(errors) or 1
    return sum(errors[:first]) / total, sum(sorted(errors, reverse=True)[:first]) / total


def measure(folder: Path, against: str | None) -> None:
    errors = read(folder)
    ranking = triage(str(folder / "run"), against=against).ranking.to_pylist()
    objects = [(row["clip_id"], row["object_id"]) for row in ranking if row["level"] == "object"]
    clips = [row["clip_id"] for row in ranking if row["level"] == "clip"]
    lines = {
        "wrong objects, first 10% of objects": [float(is_wrong(errors[c], k)) for c, k in objects],
        "wrong rows, first 10% of objects": [float(errors[c].wrong[k]) for c, k in objects],
        "errors, first 10% of clips": [sum(errors[c].wrong.values()) + float(errors[c].missed) for c in clips],
    }
    print(f"{len(clips)} clips, {len(objects)} objects")
    print("| of all | there are | found | at random | at most |\n| --- | --- | --- | --- | --- |")
    for name, values in lines.items():
        found, best = share_in_first(values)
        chance = round(0.1 * len(values)) / len(values)
        print(f"| {name} | {sum(values):.0f} | {found:.0%} | {chance:.0%} | {best:.0%} |")


def fit(folder: Path) -> None:
    """Fits weights by which the wrong objects of these clips are likely. A ridge keeps uninformative weights at 1. None
    falls below .25, because other clips may show errors that drawn clips do not.
    """
    errors = read(folder)
    rows = [row for row in triage(str(folder / "run")).ranking.to_pylist() if row["level"] == "object"]
    x = np.array([[row[name] for name in SIGNALS] for row in rows])
    y = np.array([is_wrong(errors[row["clip_id"]], row["object_id"]) for row in rows], float)

    def loss(theta: np.ndarray) -> float:
        z = theta[0] + x @ theta[1:]
        return float(np.mean(np.logaddexp(0, z) - y * z) + 0.01 * np.sum((theta[1:] - 1.0) ** 2))

    bounds = [(None, None), *[(0.25, 8.0)] * len(SIGNALS)]
    best = minimize(loss, np.r_[-3.0, np.ones(len(SIGNALS))], bounds=bounds, method="L-BFGS-B").x
    print(f"{len(rows)} objects, {int(y.sum())} of them wrong\nBIAS = {best[0]:.2f}")
    for name, weight, mean in zip(SIGNALS, best[1:], x.mean(0), strict=True):
        print(f'    "{name}": {weight:.2f},  # mean {mean:.3f}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "measure", "fit"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=80)
    parser.add_argument("--first", type=int, default=MEASURE, help="first seed")
    parser.add_argument("--against", default=None)
    parser.add_argument("--tracking", nargs="*", default=[], metavar="KEY=VALUE", help="for another run to compare")
    given = parser.parse_args()
    if given.what == "run":
        label_clips(
            given.folder, given.clips, given.first, {k: float(v) for k, v in (t.split("=") for t in given.tracking)}
        )
    elif given.what == "measure":
        measure(given.folder, given.against)
    else:
        fit(given.folder)


if __name__ == "__main__":
    main()
