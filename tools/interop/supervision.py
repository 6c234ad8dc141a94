"""supervision reads `coco`."""

from __future__ import annotations

from sam3ray.exports import export
from tools.interop._compare import compared
from tools.interop._place import Place
from tools.interop._result import Result
from tools.interop._run import CLIP

REQUIREMENTS = ("supervision==0.31.2",)


def check(place: Place) -> list[Result]:
    out = place.folder / "coco"
    export(str(place.run), str(out), "coco", images=True)
    version, rows = place.read("supervision_coco", out / "images", out / "annotations" / f"{CLIP}.json")
    return [compared("supervision", version, "coco", rows, time="file name", lost="ids, scores")]
