"""Ultralytics reads `yolo` and draws the polygons that it trains on."""

from __future__ import annotations

import yaml

from sam3ray.exports import export
from tools.interop._compare import compared
from tools.interop._place import Place
from tools.interop._result import Result
from tools.interop._run import CLIP

# torch comes from the project's environment, since one copy is enough.
REQUIREMENTS = ("--with-project", "--no-deps", "ultralytics==8.4.190", "ultralytics-thop", "py-cpuinfo")


def check(place: Place) -> list[Result]:
    out = place.folder / "out"
    export(str(place.run), str(out), "yolo", images=True)
    names = yaml.safe_load((out / "data.yaml").read_text())["names"]
    classes = ",".join(names[n] for n in sorted(names))
    version, rows = place.read("ultralytics_labels", out / "images" / CLIP, out / "labels" / CLIP, classes)
    return [
        compared(
            "Ultralytics", version, "yolo", rows, time="file name", by_label=True, least_iou=0.8, lost="ids, scores"
        )
    ]
