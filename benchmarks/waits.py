"""Counts how often the host waits for a GPU and what it launches, per frame in the middle of a clip. Needs a GPU.

    python -m benchmarks.waits                              # full size, bfloat16, 16 objects
    python -m benchmarks.waits --objects 1 16 64 --stacks   # also where each wait comes from
    python -m benchmarks.waits --strict                     # exit 1 if it waits more than once a frame

The launching thread waits if it asks for an event that has not passed, or calls a torch operation that synchronizes
(`torch.cuda.set_sync_debug_mode`). A separate thread finishes masks; its waits delay nobody and are counted separately.
Launches are those that the profiler sees from Python; a replayed graph counts as one.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.models import build
from benchmarks.scene import Scene, write_clip
from benchmarks.ways import ours

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
COPIES = ("cudaMemcpyAsync", "cudaMemsetAsync")


@dataclass
class Waits:
    """Counts waits by thread, and where they come from."""

    launching: int = 0
    finishing: int = 0
    places: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str) -> None:
        if threading.current_thread() is threading.main_thread():
            self.launching += 1
            self.places[kind + "\n" + "".join(traceback.format_stack(limit=9)[:-2])] += 1
        else:
            self.finishing += 1


@contextmanager
def watched() -> Iterator[Waits]:
    waits = Waits()
    wait_for = torch.cuda.Event.synchronize

    def synchronize(event: torch.cuda.Event) -> None:
        if not event.query():
            waits.add("an event that had not passed")
        wait_for(event)

    def warned(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            waits.add("an operation that synchronizes")

    torch.cuda.Event.synchronize = synchronize  # type: ignore[method-assign]
    shown = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = warned
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = shown
            torch.cuda.Event.synchronize = wait_for  # type: ignore[method-assign]


def measure(objects: int, options: argparse.Namespace, folder: Path) -> Waits:
    checkpoint = build(options.size, options.device, options.dtype, compiled=False)
    with torch.inference_mode():
        low_res = checkpoint.model.tracker_model.prompt_encoder.mask_input_size[0]
        scene = Scene(objects, low_res, checkpoint.device, checkpoint.dtype)
    clip, n = folder / f"{objects}.mp4", options.frames
    write_clip(clip, 40 + 3 * n + 60, objects)
    results = ours(checkpoint, str(clip), scene, {})
    for _ in range(40):
        next(results)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(n):
        next(results)
    torch.cuda.synchronize()
    milliseconds = 1e3 * (time.perf_counter() - start) / n
    with watched() as waits:
        for _ in range(n):
            next(results)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(n):
            next(results)
        torch.cuda.synchronize()
    results.close()
    events = {each.key: each.count for each in profiler.key_averages()}
    launches = sum(events.get(name, 0) for name in LAUNCHES) / n
    copies = sum(events.get(name, 0) for name in COPIES) / n
    graphs = events.get("cudaGraphLaunch", 0) / n
    rates = (f"{milliseconds:.1f}", f"{waits.launching / n:.2f}", f"{waits.finishing / n:.1f}", f"{launches:.0f}")
    rest = (f"{graphs:.1f}", f"{copies:.0f}", f"{torch.cuda.max_memory_allocated() / 2**20:.0f}")
    print(f"| {objects} | {' | '.join((*rates, *rest))} |", flush=True)
    if options.profile:
        print(profiler.key_averages().table(sort_by="cuda_time_total", row_limit=40, max_name_column_width=90))
    if options.stacks:
        for place, count in waits.places.most_common(8):
            print(f"{count / n:.2f} a frame: {place}")
    return waits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[16])
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--size", choices=["small", "full"], default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--stacks", action="store_true", help="print where the launching thread waits")
    parser.add_argument("--profile", action="store_true", help="print the profiler's table of operators and kernels")
    parser.add_argument("--strict", action="store_true", help="exit 1 if it waits more than once a frame")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this needs a GPU; `python -m benchmarks.ghost` counts without one")
    print(torch.cuda.get_device_name(options.device))
    print(
        "| objects | waits a frame | of the finishing thread | launches | of them graphs | copies | peak memory, MB |"
    )
    print("| --- " * 7 + "|")
    most = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for objects in options.objects:
            torch.cuda.reset_peak_memory_stats()
            most = max(most, measure(objects, options, Path(folder)).launching / options.frames)
    if options.strict and most > 1:
        raise SystemExit(f"the launching thread waits {most:.2f} times a frame; allowed: 1")


if __name__ == "__main__":
    main()
