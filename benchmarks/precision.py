"""Measures what bfloat16 and autocast cost: their agreement with float32 on drawn clips.

    python -m benchmarks.precision [--checkpoint embedded] [--clips 4] [--write]

Gives two figures per dtype: the mean IoU of float32's masks with the best mask of the same frame and phrase (0 if there
is none), and the share of masks that only one of the two has. `--write` puts the table into docs/engine.md.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np

from benchmarks.pages import put
from sam3ray.annotations import FrameAnnotations
from sam3ray.config import ModelConfig, TrackingConfig
from sam3ray.engine import Engine, load_checkpoint
from sam3ray.masks import decode_rle
from sam3ray.shapes import demo_clips
from sam3ray.video import VideoReader

DTYPES = ("float32", "autocast", "bfloat16")


def annotate(model: ModelConfig, clips: list[dict]) -> list[FrameAnnotations]:
    engine = Engine(load_checkpoint(model), TrackingConfig())
    frames = []
    for clip in clips:
        with VideoReader(clip["uri"]) as reader:
            frames += engine.annotate(reader, reader.info.height, reader.info.width, clip["prompts"])
    return frames


def masks(frame: FrameAnnotations, prompt: str) -> list[np.ndarray]:
    return [decode_rle(o.rle, frame.height, frame.width) for o in frame.objects if o.prompt == prompt]


def compare(reference: list[FrameAnnotations], other: list[FrameAnnotations]) -> tuple[float, float, int]:
    """Mean IoU over the reference's masks, share of masks without a partner of IoU >= 0.5, masks of the reference."""
    ious, alone, total = [], 0, 0
    for first, second in zip(reference, other, strict=True):
        for prompt in sorted({o.prompt for o in (*first.objects, *second.objects)}):
            a, b = masks(first, prompt), masks(second, prompt)
            best = np.array([[(x & y).sum() / (x | y).sum() for y in b] for x in a]).reshape(len(a), len(b))
            ious += best.max(axis=1, initial=0).tolist()
            alone += int((best.max(axis=1, initial=0) < 0.5).sum() + (best.max(axis=0, initial=0) < 0.5).sum())
            total += len(a) + len(b)
    return float(np.mean(ious)) if ious else float("nan"), alone / max(1, total), len(ious)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="embedded")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = [clip for clip in demo_clips(folder, options.clips) if clip.get("prompts")]
        results = {
            dtype: annotate(ModelConfig(checkpoint=options.checkpoint, device=options.device, dtype=dtype), clips)
            for dtype in DTYPES
        }
    lines = ["| dtype | mean IoU with float32 | masks without a partner |", "| --- | --- | --- |"]
    for dtype in DTYPES[1:]:
        iou, alone, count = compare(results["float32"], results[dtype])
        lines.append(f"| {dtype} | {iou:.4f} | {100 * alone:.1f}% |")
    lines.append(f"\n{count} masks on {len(results['float32'])} frames of {len(clips)} drawn clips.")
    text = "\n".join(lines)
    print(text)
    if options.write:
        put("engine.md", "precision", text)


if __name__ == "__main__":
    main()
