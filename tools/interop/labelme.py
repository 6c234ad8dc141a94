"""LabelMe reads `labelme`."""

from __future__ import annotations

from sam3ray.exports import export
from tools.interop._compare import compared
from tools.interop._place import Place
from tools.interop._result import Result
from tools.interop._run import CLIP

REQUIREMENTS = ("labelme==6.3.1", "numpy", "pillow")


def check(place: Place) -> list[Result]:
    out = place.folder / "out"
    export(str(place.run), str(out), "labelme", images=True)
    version, rows = place.read("labelme_files", out / CLIP)
    return [compared("LabelMe", version, "labelme", rows, time="frame index")]
