"""Compares our run-length encoding (numpy) with pycocotools and, if installed, rlemasklib.

    python -m benchmarks.rle

Prints milliseconds for one 1920x1080 mask, the best of 30, and the ratio to ours. One thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools import mask as coco

from sam3ray.masks import MaskRuns, decode_rle, encode_masks, iou_matrix, read_rle

try:
    from rlemasklib import RLEMask
except ImportError:
    RLEMask = None

HEIGHT, WIDTH = 1080, 1920


def blob(radius: int, y: int, x: int) -> np.ndarray:
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    angle = np.arctan2(rows - y, columns - x)
    return np.asarray(np.hypot(rows - y, columns - x) < radius * (1 + 0.1 * np.sin(7 * angle)))


def best(call: Callable[[], Any], repeats: int = 30) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times) * 1e3


def main() -> None:
    sizes = {"60 px": blob(60, 300, 300), "200 px": blob(200, 500, 900), "500 px": blob(500, 540, 960)}
    for name, mask in sizes.items():
        (encoded,) = encode_masks(mask[None])
        rle = {"size": [HEIGHT, WIDTH], "counts": encoded.rle.encode()}
        assert np.array_equal(coco.decode(rle).astype(bool), mask)
        ways: dict[str, dict[str, Callable[[], Any]]] = {
            "encode": {
                "ours": lambda mask=mask: encode_masks(mask[None]),
                "pycocotools": lambda mask=mask: coco.encode(np.asfortranarray(mask, np.uint8)),
            },
            "decode": {
                "ours": lambda e=encoded: decode_rle(e.rle, HEIGHT, WIDTH),
                "pycocotools": lambda rle=rle: np.ascontiguousarray(coco.decode(rle)),
            },
            "8x8 IoU": {
                "ours": lambda e=encoded: iou_matrix(*[[read_rle(e.rle, HEIGHT, WIDTH) for _ in range(8)]] * 2),
                "pycocotools": lambda rle=rle: coco.iou([rle] * 8, [rle] * 8, [0] * 8),
            },
        }
        if RLEMask is not None:
            runs = RLEMask.from_array(mask)
            counts = MaskRuns.of_mask(mask)
            assert runs.area() == counts.area
            ways["encode"]["rlemasklib"] = lambda mask=mask: RLEMask.from_array(mask).to_dict()
            ways["decode"]["rlemasklib"] = lambda rle=rle: RLEMask.from_dict(rle).to_array(order="C")
            ways["8x8 IoU"]["rlemasklib"] = lambda rle=rle: RLEMask.iou_matrix(
                *[[RLEMask.from_dict(rle) for _ in range(8)]] * 2
            )
        for what, calls in ways.items():
            figures = {way: best(call) for way, call in calls.items()}
            others = ", ".join(f"{way} {ms:.3f} ms ({ms / figures['ours']:.2f}x)" for way, ms in figures.items())
            print(f"{name:>7} {what:<8} {others}")


if __name__ == "__main__":
    main()
