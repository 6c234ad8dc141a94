"""What keeping a clip in windows costs: the same clip with windows and without, in one process, alternating.

    python benchmarks/windows.py                             # embedded checkpoint, CPU: 3 objects' clip, windows of 5 s
    python benchmarks/windows.py --seconds 60 --frames 3000
    python benchmarks/windows.py --write                     # and put the table into docs/long-clips.md

The worker does all that it does in a job, from the video file to the committed annotations on local disk. What a window
costs does not depend on how often there is one, so short ones say what long ones cost: the last column is arithmetic.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch

from sam3ray.config import JobConfig
from sam3ray.job.windows import ClipWindows
from sam3ray.job.worker import ClipWorker
from sam3ray.manifest import read_manifest
from sam3ray.shapes import ClipSpec, write_clip
from sam3ray.store import RunStore

PAGE = Path(__file__).parent.parent / "docs" / "long-clips.md"
BEGIN, END = "<!-- windows benchmark: begin -->", "<!-- windows benchmark: end -->"


def run(folder: Path, manifest: Path, checkpoint: str, windows: dict[str, object]) -> tuple[float, float, list[float]]:
    """Wall and CPU seconds of the clip, and seconds of each window kept."""
    config = JobConfig(
        manifest=str(manifest),
        output=str(folder / "run"),
        model={"checkpoint": checkpoint, "device": "cpu"},
        cluster={"gpus_per_actor": 0},
        windows=windows,
    )
    clips = read_manifest(config.manifest, config)
    store = RunStore(config.output)
    store.create_or_open({}, {}, clips)
    worker = ClipWorker(config, store)
    kept: list[float] = []
    keep = ClipWindows._keep

    def timed(self: ClipWindows, pass_number: int, save: object) -> None:
        began = time.perf_counter()
        keep(self, pass_number, save)  # type: ignore[arg-type]
        kept.append(time.perf_counter() - began)

    ClipWindows._keep = timed  # type: ignore[method-assign]
    try:
        began, used = time.perf_counter(), time.process_time()
        worker.process(clips[0])
        return time.perf_counter() - began, time.process_time() - used, kept
    finally:
        ClipWindows._keep = keep  # type: ignore[method-assign]
        worker.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a window")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--write", action="store_true", help="put the table into docs/long-clips.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clip(ClipSpec(seed=6, frames=options.frames, width=640, height=360, objects=(3, 3)), folder / "clip.mp4")
        row = {"clip_id": "clip", "uri": str(folder / "clip.mp4"), "prompts": ["red circle", "star", "triangle"]}
        (folder / "clips.jsonl").write_text(json.dumps(row) + "\n")
        walls: dict[str, list[float]] = {"off": [], "checkpoint": []}
        used: dict[str, list[float]] = {"off": [], "checkpoint": []}
        kept: list[float] = []
        for repeat in range(options.repeats):
            for mode in walls:
                place = folder / f"{mode}-{repeat}"
                windows = {"mode": mode, "seconds": options.seconds}
                wall, cpu, each = run(place, folder / "clips.jsonl", options.checkpoint, windows)
                walls[mode].append(wall)
                used[mode].append(cpu)
                kept += each
        rows = pq.read_table(folder / "off-0/run/annotations/clip.parquet")
        assert rows.equals(pq.read_table(folder / "checkpoint-0/run/annotations/clip.parquet"))
    each = statistics.median(kept)
    cells = (
        f"{options.seconds:g} s",
        f"{len(kept) / options.repeats:.0f}",
        f"{1e3 * each:.0f} ms",
        *(f"{statistics.median(walls[mode]):.1f} s, {statistics.median(used[mode]):.1f} s" for mode in walls),
        f"{100 * each / options.seconds:.2f}%",
        f"{100 * each / 60:.2f}%",
    )
    table = "\n".join(
        [
            "| windows of | in the clip | one takes | without: wall, CPU | with: wall, CPU | share | at 60 s |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            f"| {' | '.join(cells)} |",
        ]
    )
    print(table)
    if options.write:
        head, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
