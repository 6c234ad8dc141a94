"""Measures memory and time per frame over a long clip: the engine over 10,000 frames, transformers' loop over 1,000.

    python -m benchmarks.memory [--frames 10000] [--reference-frames 1000] [--objects 8]

Both follow the same objects with the same random weights. The model is very small, since the question is what is kept,
not how fast it runs. The engine gets its frames one at a time; transformers' loop needs them all beforehand. Times are
CPU time, the median of the last 50 frames.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator

SIZE = 64  # size of the frames, in pixels


def frames(count: int) -> Iterator[object]:
    import numpy as np

    from sam3ray.video import Frame

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(16)]
    for t in range(count):
        yield Frame(t, t, t / 25, images[t % 16].copy())


def child(way: str, count: int, objects: int) -> None:
    import torch

    from benchmarks.models import build
    from benchmarks.scene import FindsDiscs, Scene, follow_discs, patch_transformers
    from benchmarks.ways import resident_mb
    from sam3ray.config import TrackingConfig
    from sam3ray.engine.detector import Detector
    from sam3ray.engine.engine import Engine

    torch.set_num_threads(1)
    checkpoint = build("least", "cpu", "float32", False)
    model = checkpoint.model
    with torch.inference_mode():
        scene = Scene(objects, model.low_res_mask_size, checkpoint.device, torch.float32)
    if way == "ours":
        follow_discs(scene)
        engine = Engine(checkpoint, TrackingConfig(frame_batch=8), FindsDiscs(Detector(checkpoint), scene))
        results: Iterator[object] = engine.annotate(frames(count), SIZE, SIZE, ["disc"])
    else:
        patch_transformers(model, scene)
        session = checkpoint.processor.init_video_session(video=[frame.image for frame in frames(count)])
        session = checkpoint.processor.add_text_prompt(session, "disc")
        results = (
            checkpoint.processor.postprocess_outputs(session, output)
            for output in model.propagate_in_video_iterator(session)
        )
    spent: deque[float] = deque(maxlen=50)
    last = time.process_time()
    for t, _ in enumerate(results):
        spent.append(time.process_time() - last)
        if t in (100, 500, 750, count - 1) or t % 1000 == 0:
            gc.collect()
            row = {"frame": t, "resident_mb": round(resident_mb(), 1), "ms": round(1e3 * statistics.median(spent), 1)}
            print(json.dumps(row), flush=True)
        last = time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--reference-frames", type=int, default=1_000)
    parser.add_argument("--objects", type=int, default=8)
    parser.add_argument("--child", choices=["ours", "transformers"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.frames, options.objects)
        return
    print("| way | frame | resident, MB | CPU ms per frame |\n| --- | --- | --- | --- |")
    for way, count in (("ours", options.frames), ("transformers", options.reference_frames)):
        command = [
            sys.executable,
            "-m",
            "benchmarks.memory",
            "--child",
            way,
            "--frames",
            str(count),
            "--objects",
            str(options.objects),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child_process:
            assert child_process.stdout is not None
            for line in child_process.stdout:
                if line.startswith("{"):
                    row = json.loads(line)
                    print(f"| {way} | {row['frame']} | {row['resident_mb']} | {row['ms']} |", flush=True)
        if child_process.returncode != 0:
            raise SystemExit(f"{way} failed")


if __name__ == "__main__":
    main()
