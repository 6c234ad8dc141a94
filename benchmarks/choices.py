"""Measures what faster settings, and exemplars in place of phrases, cost in quality: drawn clips, embedded checkpoint.

    python -m benchmarks.choices                          # every row, 6 clips of 48 frames
    python -m benchmarks.choices --only "image_size: 96"   # one of them
    python -m benchmarks.choices --json rows.jsonl        # keep the rows, and measure only those it lacks
    python -m benchmarks.choices --json rows.jsonl --write   # and put the tables into docs/performance.md

The clips are those of docs/checkpoint.md ("one prompt"), with seeds from 940,000, on which nothing was tuned. Real
weights have not been measured; another model may respond to these settings differently.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pages import put
from sam3ray import ExemplarPrompt, ModelConfig, TrackingConfig
from sam3ray.model import Model
from sam3ray.shapes import DrawnFrame, make_scene
from sam3ray.video import Frame
from tools.training.evaluation import Case, cases, run_case

FIRST_SEED = 940_000
COLUMNS = ("recall", "precision", "IoU", "J", "switches per 1,000", "HOTA", "time")

SPEED: dict[str, dict[str, Any]] = {
    "default": {},
    "`tracking.detect_every: 2`": {"tracking": {"detect_every": 2}},
    "`tracking.detect_every: 4`": {"tracking": {"detect_every": 4}},
    "`tracking.memory_frames: 2` (of 4)": {"tracking": {"memory_frames": 2}},
    "`tracking.memory_frames: 1`": {"tracking": {"memory_frames": 1}},
    "`model.image_size: 96` (of 112)": {"model": {"image_size": 96}},
    "`model.image_size: 80`": {"model": {"image_size": 80}},
}
ASKING: dict[str, dict[str, Any]] = {
    "phrase": {},
    "exemplar, `published`": {"by": "exemplar"},
    "exemplar, `everywhere`": {"by": "exemplar", "tracking": {"exemplars": "everywhere"}},
    "phrase and exemplar, `published`": {"by": "both"},
    "phrase and exemplar, `everywhere`": {"by": "both", "tracking": {"exemplars": "everywhere"}},
}
TABLES = {"speed": SPEED, "exemplars": ASKING}
_HOW = SPEED | ASKING


def shown_by_box(case: Case, drawn: list[DrawnFrame], phrase: str) -> ExemplarPrompt:
    """The most visible instance on the first frame with an instance that is visible as a whole."""
    labels = {thing.object_id: thing.label for thing in make_scene(case.spec).objects if thing.label}
    wanted = case.prompts[0].split()
    for frame in drawn:
        seen = [k for k, share in frame.visible.items() if list(labels.get(k, ())) == wanted and share > 0.9]
        if seen:
            mask = frame.mask(max(seen, key=lambda k: int(frame.mask(k).sum())))
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
            return ExemplarPrompt((box,), frame_index=frame.index, phrase=phrase, label=case.prompts[0])
    raise ValueError(f"clip {case.spec.seed} shows no whole {case.prompts[0]}")


def measure(how: dict[str, Any], clips: int, checkpoint: str) -> dict[str, Any]:
    from sam3ray.evaluate import merge

    model = Model(
        ModelConfig(checkpoint=checkpoint, dtype="float32", device="cpu", **how.get("model", {})),
        TrackingConfig(**how.get("tracking", {})),
    )

    def predict(case: Case, drawn: list[DrawnFrame]) -> Any:
        spec, by = case.spec, how.get("by")
        frames = [Frame(f.index, f.index, f.index / spec.fps, np.ascontiguousarray(f.image)) for f in drawn]
        prompts = () if by == "exemplar" else case.prompts
        shown = [shown_by_box(case, drawn, case.prompts[0] if by == "both" else "")] if by else []
        return list(model.segment(iter(frames), spec.height, spec.width, prompts, exemplars=shown))

    began = time.process_time()
    reports = [run_case(case, predict)[0] for case in cases("one prompt", clips, first=FIRST_SEED)]
    total = merge(reports).overall
    return {
        "recall": total.recall, "precision": total.precision, "IoU": total.mean_iou, "J": total.j,
        "switches per 1,000": total.switches_per_1000, "HOTA": total.hota, "time": time.process_time() - began,
    }  # fmt: skip


def rows_of(path: Path | None) -> dict[str, dict[str, Any]]:
    if path is None or not path.exists():
        return {}
    return {row["choice"]: row for row in map(json.loads, path.read_text().splitlines())}


def table(kind: str, rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield f"| {kind} | {' | '.join(COLUMNS)} |"
    yield f"| --- |{' --- |' * len(COLUMNS)}"
    first = next(iter(rows.values()))["time"]
    for name, row in rows.items():
        cells = [f"{row[column]:.3f}".lstrip("0") for column in COLUMNS[:4]]
        cells += [f"{row['switches per 1,000']:.1f}", f"{row['HOTA']:.3f}".lstrip("0"), f"{row['time'] / first:.2f}"]
        yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--only", action="append", help="rows whose name holds this text; repeatable")
    parser.add_argument("--json", type=Path, help="file of rows, added to")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = rows_of(options.json)
    for choices in TABLES.values():
        for name, how in choices.items():
            if name in done or (options.only and not any(text in name for text in options.only)):
                continue
            same = next((other for other in done if _HOW.get(other) == how), None)
            row = done[same] if same is not None else measure(how, options.clips, options.checkpoint)
            done[name] = {**row, "choice": name}
            if options.json:
                with options.json.open("a") as file:
                    file.write(json.dumps(done[name]) + "\n")
    for kind, choices in TABLES.items():
        rows = {name: done[name] for name in choices if name in done}
        if not rows:
            continue
        text = "\n".join(table("choice" if kind == "speed" else "prompted with", rows))
        print(text, "\n")
        if options.write:
            put("performance.md", f"choices: {kind}", text)


if __name__ == "__main__":
    main()
