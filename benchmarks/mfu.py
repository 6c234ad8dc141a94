"""Model FLOP utilisation: a frame's floating-point operations, divided by its time and by the device's peak.

    python -m benchmarks.mfu --device cuda --size full --dtype bfloat16 --objects 16

torch counts the operations of matrix products, convolutions and attention; a multiply-add counts as two. The peak is
the data sheet's for dense bfloat16 if the GPU is known, else what a large matrix product reaches on this machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import build
from benchmarks.scene import Scene, write_clip
from benchmarks.ways import _wait, ours

# TFLOP/s, dense bfloat16, from NVIDIA's data sheets
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}


def peak(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """FLOP/s, and where the number comes from."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for known, tera in PEAKS.items():
            if known in name:
                return tera * 1e12, f"{name}, data sheet"
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(5):
        _wait(device)
        start = time.perf_counter()
        a @ a
        _wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best, f"a matrix product of {side} x {side} here"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--objects", type=int, default=16)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--frame-batch", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = build(options.size, options.device, options.dtype, options.compile)
    with torch.inference_mode():
        low_res = checkpoint.model.tracker_model.prompt_encoder.mask_input_size[0]
        scene = Scene(options.objects, low_res, checkpoint.device, checkpoint.dtype)
    counted = 4
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        # Results come some frames late, so the last ones of a clip cost no work.
        write_clip(clip, 40 + options.frames + counted + 60, options.objects)
        results = ours(checkpoint, str(clip), scene, {"frame_batch": options.frame_batch})
        for _ in range(40):
            next(results)
        _wait(checkpoint.device)
        start = time.perf_counter()
        for _ in range(options.frames):
            next(results)
        _wait(checkpoint.device)
        seconds = (time.perf_counter() - start) / options.frames
        with FlopCounterMode(display=False) as counter:
            for _ in range(counted):
                next(results)
        results.close()
    flops = counter.get_total_flops() / counted
    best, source = peak(checkpoint.device, checkpoint.dtype)
    print(f"{options.objects} objects: {flops / 1e12:.3f} TFLOP and {1e3 * seconds:.1f} ms per frame")
    print(f"{flops / seconds / 1e12:.2f} TFLOP/s, {100 * flops / seconds / best:.1f}% of {best / 1e12:.1f} ({source})")


if __name__ == "__main__":
    main()
