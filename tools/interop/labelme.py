"""LabelMe reads `labelme`; a mask drawn in it is imported and steers `refine`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sam3ray.exports import export
from tools.interop._compare import compared
from tools.interop._place import Place
from tools.interop._result import Result
from tools.interop._run import CLIP
from tools.interop._steered import CLIP as STEERED
from tools.interop._steered import steered

REQUIREMENTS = ("labelme==6.3.1", "numpy", "pillow")


def check(place: Place) -> list[Result]:
    out = place.folder / "out"
    export(str(place.run), str(out), "labelme", images=True)
    version, rows = place.read("labelme_files", out / CLIP)
    return [compared("LabelMe", version, "labelme", rows, time="frame index"), _steered(place, version)]


def _steered(place: Place, version: str) -> Result:
    def correct(out: Path, frame: int, label: str, mask: np.ndarray) -> None:
        np.save(place.folder / "mask.npy", mask)
        place.read("labelme_add", out / STEERED / f"{frame:06d}.json", label, place.folder / "mask.npy")

    iou, frames = steered(place.folder / STEERED, "labelme", None, correct)
    masks = f"IoU {iou:.2f} on {frames} frames nobody drew"
    return Result("LabelMe", version, "one mask, refined", iou > 0.6, masks, "kept")
