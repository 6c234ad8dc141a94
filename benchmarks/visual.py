"""Follows clicked objects in transformers' documented way and with this engine: same weights, same clip.

    python -m benchmarks.visual [--objects 1 8 32] [--frames 200] [--size small|full] [--device cuda]

Measurements alternate, each in its own process; stdout gets a Markdown table. Both ways decode the same video, follow
one click per object through it, and encode every mask as COCO run lengths at the video's size. In both, the clip's
discs replace the models' output, since random weights follow nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from transformers import Sam3TrackerVideoModel, Sam3TrackerVideoProcessor

from benchmarks.models import build
from benchmarks.scene import Scene, centres, follow_discs, write_clip
from benchmarks.ways import peak_mb, resident_mb
from sam3ray.config import TrackingConfig
from sam3ray.engine.checkpoint import Checkpoint
from sam3ray.engine.engine import Engine
from sam3ray.prompts import PointPrompt
from sam3ray.video import ClipFrames


def documented(checkpoint: Checkpoint, clip: str, scene: Scene) -> Iterator[int]:
    """Loads all frames, starts a session, adds a click per object, propagates, and encodes masks one by one."""
    from pycocotools import mask as coco

    with tempfile.TemporaryDirectory() as folder:
        checkpoint.model.save_pretrained(folder)
        model = Sam3TrackerVideoModel.from_pretrained(folder, dtype=checkpoint.dtype).to(checkpoint.device).eval()
    parts = checkpoint.processor
    processor = Sam3TrackerVideoProcessor(
        image_processor=parts.image_processor, video_processor=parts.video_processor, target_size=model.image_size
    )
    del checkpoint
    with av.open(clip) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    session = processor.init_video_session(video=frames, inference_device=model.device, dtype=model.dtype)
    height, width = session.video_height, session.video_width
    clicks = [[[float(x * width), float(y * height)]] for y, x in centres(scene.objects, 0)]
    processor.add_inputs_to_inference_session(
        inference_session=session,
        frame_idx=0,
        obj_ids=list(range(1, scene.objects + 1)),
        input_points=[clicks],
        input_labels=[[[1]] * scene.objects],
    )
    for output in model.propagate_in_video_iterator(session, start_frame_idx=0):
        low = scene.masks(output.frame_idx).unsqueeze(1)
        masks = processor.post_process_masks([low], original_sizes=[[height, width]], binarize=False)[0]
        binary = (masks > 0).cpu().numpy()
        rows = [coco.encode(np.asfortranarray(mask[0], dtype=np.uint8)) for mask in binary]
        yield len(rows)


def ours(checkpoint: Checkpoint, clip: str, scene: Scene) -> Iterator[int]:
    follow_discs(scene)
    source = ClipFrames(clip)
    prompts = [
        PointPrompt(((float(x), float(y)),), (True,), 0, i + 1, units="relative")
        for i, (y, x) in enumerate(centres(scene.objects, 0))
    ]
    for frame in Engine(checkpoint, TrackingConfig()).annotate(source, source.height, source.width, (), prompts):
        yield len(frame.objects)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(job["threads"])
    checkpoint = build(job["size"], job["device"], job["dtype"], compiled=False, plain=job["way"] == "documented")
    low_res = checkpoint.model.tracker_model.prompt_encoder.mask_input_size[0]
    scene = Scene(job["objects"], low_res, checkpoint.device, checkpoint.dtype)
    base = resident_mb()
    way = documented if job["way"] == "documented" else ours
    on_gpu = checkpoint.device.type == "cuda"
    results = way(checkpoint, job["clip"], scene)
    del checkpoint
    counts, at, used, resident = [], [time.perf_counter()], [time.process_time()], []
    for count in results:
        counts.append(count)
        at.append(time.perf_counter())
        used.append(time.process_time())
        resident.append(resident_mb())
    n, steps = len(counts), np.diff(used)
    window, tail = max(1, n // 4), np.arange(n // 3, n)
    return {
        "frames": n,
        "objects": float(np.mean(counts)),
        "seconds": at[-1] - at[0],
        "cpu_seconds": used[-1] - used[0],
        "cpu_ms_early": 1e3 * float(np.median(steps[n // 8 : n // 8 + window])),
        "cpu_ms_late": 1e3 * float(np.median(steps[-window:])),
        "peak_mb": peak_mb() - base,
        "growth_mb_per_1000": 1e3 * float(np.polyfit(tail, np.array(resident)[tail], 1)[0]),
        "device_peak_mb": torch.cuda.max_memory_allocated() / 2**20 if on_gpu else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(measure(json.loads(options.job))))
        return
    print("| objects | way | frames/s | CPU ms a frame, early / late | peak MB | growth, MB per 1,000 frames |")
    print("| --- | --- | --- | --- | --- | --- |")
    for objects in options.objects:
        with tempfile.TemporaryDirectory() as folder:
            clip = Path(folder) / "clip.mp4"
            write_clip(clip, options.frames, objects)
            runs: dict[str, list[dict[str, Any]]] = {"documented": [], "sam3ray": []}
            for _ in range(options.repeats):
                for way in runs:
                    keys = ("size", "device", "dtype", "threads")
                    job = {key: getattr(options, key) for key in keys}
                    job |= {"way": way, "objects": objects, "clip": str(clip)}
                    command = [sys.executable, "-m", "benchmarks.visual", "--job", json.dumps(job)]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    runs[way].append(json.loads(done.stdout.splitlines()[-1]))
        median = {
            way: {key: float(np.median([each[key] for each in results])) for key in results[0]}
            for way, results in runs.items()
        }
        for way, figures in median.items():
            print(
                f"| {objects} | {way} | {figures['frames'] / figures['seconds']:.1f} | {figures['cpu_ms_early']:.0f} / "
                f"{figures['cpu_ms_late']:.0f} | {figures['peak_mb'] + figures['device_peak_mb']:.0f} | "
                f"{figures['growth_mb_per_1000']:+.0f} |",
                flush=True,
            )
        ratio = median["documented"]["cpu_seconds"] / median["sam3ray"]["cpu_seconds"]
        print(f"| {objects} | ratio of CPU time, documented / sam3ray | {ratio:.2f} | | | |", flush=True)


if __name__ == "__main__":
    main()
