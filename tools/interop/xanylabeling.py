"""X-AnyLabeling reads `xanylabeling`. Its masks include the polygons' edges, which shows in thin parts."""

from __future__ import annotations

from sam3ray.exports import export
from tools.interop._compare import compared
from tools.interop._place import Place
from tools.interop._result import Result
from tools.interop._run import CLIP

REQUIREMENTS = ("x-anylabeling-cvhub[cpu]==4.2.1",)


def check(place: Place) -> list[Result]:
    out = place.folder / "out"
    export(str(place.run), str(out), "xanylabeling", images=True)
    version, rows = place.read("xanylabeling_files", out / CLIP)
    return [compared("X-AnyLabeling", version, "xanylabeling", rows, time="frame index", least_iou=0.4)]
