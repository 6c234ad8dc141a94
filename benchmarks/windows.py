"""Measures what windows cost: labels the same clip with and without windows, alternating in one process.

    python -m benchmarks.windows                             # embedded checkpoint on a CPU, 3 objects, windows of 2 s
    python -m benchmarks.windows --seconds 60 --frames 6000
    python -m benchmarks.windows --write                     # and put the tables into docs/long-clips.md

The worker does everything it does in a job, from the video file to the committed annotations on local disk. Each window
is measured: how long the work stops, and the processor time of both threads. A window's cost does not depend on its
length, so many short windows tell what long ones cost.

The second table is for a state of full size: everything that an object can have, in the full model's shapes in
bfloat16, with random content, written to local disk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch

from benchmarks.pages import put
from sam3ray.config import JobConfig
from sam3ray.engine.state import Snapshot
from sam3ray.engine.stored import StateTensors
from sam3ray.job.windows import ClipWindows
from sam3ray.job.worker import ClipWorker
from sam3ray.manifest import read_manifest
from sam3ray.shapes import ClipSpec, clip_phrases, write_clip
from sam3ray.store import RunStore

MEMORY, POINTER, MASK = (72 * 72, 64), (256,), (288, 288)  # of the full model: facebook/sam3
OBJECTS = 16
MEMORIES = 10  # memories of an object, at most: 4 conditioning frames and 6 others
POINTERS = 20  # the same: 4 and 16
HELD = 14  # frames that wait for hotstart: its delay less one


@dataclass
class Costs:
    """Seconds of each window, in order. The upload runs beside the work, which does not wait for it."""

    stops: list[float]
    cpu: list[float]
    uploads: list[float]
    fullest: Snapshot | None = None  # with the most memories for each object


class Measured(ClipWindows):
    costs: Costs

    def _cut(self, *given: object) -> object:
        began, used = time.perf_counter(), time.thread_time()
        cut = super()._cut(*given)  # type: ignore[arg-type]
        self.costs.stops.append(time.perf_counter() - began)
        self.costs.cpu.append(time.thread_time() - used)
        if self.costs.fullest is None or memories(cut.state) > memories(self.costs.fullest):  # type: ignore[arg-type]
            self.costs.fullest = cut.state  # type: ignore[assignment]
        return cut

    def _keep(self, cut: object) -> object:
        number, began, used = len(self.costs.cpu) - 1, time.perf_counter(), time.thread_time()
        note = super()._keep(cut)  # type: ignore[arg-type]
        self.costs.uploads.append(time.perf_counter() - began)
        self.costs.cpu[number] += time.thread_time() - used
        return note


def objects_in(state: Snapshot) -> int:
    return len((json.loads(state.text)["propagation"] or {}).get("objects", ()))


def memories(state: Snapshot) -> float:
    """For each object."""
    found = json.loads(state.text)["propagation"]
    return len(found["rows"]["memory_rows"]) / max(1, objects_in(state)) if found else 0.0


def run(folder: Path, manifest: Path, checkpoint: str, windows: dict[str, object]) -> tuple[float, float, Costs]:
    """Labels the clip; returns wall and CPU seconds, and the cost of its windows."""
    import sam3ray.job.worker as module

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
    Measured.costs = Costs([], [], [])
    module.ClipWindows = Measured  # type: ignore[misc]
    worker = ClipWorker(config, store)
    try:
        began, used = time.perf_counter(), time.process_time()
        worker.process(clips[0])
        return time.perf_counter() - began, time.process_time() - used, Measured.costs
    finally:
        module.ClipWindows = ClipWindows  # type: ignore[misc]
        worker.close()


def of_full_size(state: Snapshot) -> Snapshot:
    """With the text of a small one."""
    assert memories(state) <= MEMORIES
    shapes = {
        "memories": (OBJECTS * MEMORIES, *MEMORY),
        "pointers": (OBJECTS * POINTERS, *POINTER),
    }
    shapes |= {f"{n}.masks": (OBJECTS, *MASK) for n in range(HELD)}
    tensors = StateTensors()
    for name, shape in shapes.items():
        tensors.values[name] = torch.randint(0, 2**15, shape, dtype=torch.int16).view(torch.bfloat16)
    return Snapshot(state.text, tensors)


def full_size_row(state: Snapshot, folder: Path) -> str:
    full = of_full_size(state)
    began = time.perf_counter()
    copied = StateTensors()
    for name, tensor in full.tensors.values.items():
        copied.put(name, tensor)
    copy_s = time.perf_counter() - began
    began, used = time.perf_counter(), time.thread_time()
    full.write(folder / "full.safetensors")
    write_s, cpu_s = time.perf_counter() - began, time.thread_time() - used
    size = (folder / "full.safetensors").stat().st_size
    masks = sum(t.numel() * t.element_size() for name, t in full.tensors.values.items() if name.endswith("masks"))
    return (
        f"| {OBJECTS}, {MEMORIES} memories each "
        f"| {size / 1e6:.0f} MB | {size / 1e6 / OBJECTS:.2f} MB | {masks / 1e6 / OBJECTS:.2f} MB "
        f"| {1e3 * copy_s:.0f} ms | {write_s:.1f} s, {cpu_s:.1f} s | {size / 1e8:.1f} s |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a window")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/long-clips.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = ClipSpec(seed=6, frames=options.frames, width=640, height=360, objects=(3, 3))
        write_clip(spec, folder / "clip.mp4")
        row = {"clip_id": "clip", "uri": str(folder / "clip.mp4"), "prompts": list(clip_phrases(spec))}
        (folder / "clips.jsonl").write_text(json.dumps(row) + "\n")
        used: dict[str, list[float]] = {"off": [], "checkpoint": []}
        all_costs: list[Costs] = []
        for repeat in range(options.repeats):
            for mode in used if repeat % 2 == 0 else reversed(used):
                place = folder / f"{mode}-{repeat}"
                windows = {"mode": mode, "seconds": options.seconds}
                _, cpu, costs = run(place, folder / "clips.jsonl", options.checkpoint, windows)
                used[mode].append(cpu)
                if mode == "checkpoint":
                    all_costs.append(costs)
        rows = pq.read_table(folder / "off-0/run/annotations/clip.parquet")
        assert rows.equals(pq.read_table(folder / "checkpoint-0/run/annotations/clip.parquet"))
        stop, cpu, upload = (
            statistics.median(each for costs in all_costs for each in getattr(costs, what))
            for what in ("stops", "cpu", "uploads")
        )
        count = sum(len(costs.stops) for costs in all_costs)
        state = max((costs.fullest for costs in all_costs if costs.fullest is not None), key=memories)
        full = full_size_row(state, folder)
    cells = (
        f"{options.seconds:g} s",
        str(count),
        f"{1e3 * stop:.1f} ms",
        f"{1e3 * upload:.0f} ms",
        f"{1e3 * cpu:.0f} ms",
        *(f"{statistics.median(used[mode]):.1f} s" for mode in ("off", "checkpoint")),
        f"{100 * cpu / 60:.2f}%",
    )
    heads = (
        "windows of | measured | work stops for | upload, beside it | CPU | clip without: CPU | with: CPU | at 60 s",
        "full size: objects | state | an object | held masks | work stops for | writing: wall, CPU | at 100 MB/s",
    )
    rules = ("--- | " * (head.count("|") + 1) for head in heads)
    small, large = (f"| {head} |\n| {rule.strip()}" for head, rule in zip(heads, rules, strict=True))
    table = f"{small}\n| {' | '.join(cells)} |\n\n{large}\n{full}"
    print(table)
    if options.write:
        put("long-clips.md", "windows benchmark", table)


if __name__ == "__main__":
    main()
