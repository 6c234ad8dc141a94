"""pycocotools, in the project's environment, reads `coco`."""

from __future__ import annotations

import contextlib
import io
from importlib.metadata import version

from sam3ray.exports import export
from tools.interop._compare import compared
from tools.interop._place import Place, Row
from tools.interop._result import Result
from tools.interop._run import CLIP

REQUIREMENTS: tuple[str, ...] = ()


def check(place: Place) -> list[Result]:
    from pycocotools.coco import COCO

    export(str(place.run), str(place.folder / "coco"), "coco")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(place.folder / "coco" / "annotations" / f"{CLIP}.json"))
    rows = [
        Row(
            coco.imgs[each["image_id"]]["frame_index"],
            each["track_id"],
            coco.cats[each["category_id"]]["name"],
            each["score"],
            coco.annToMask(each).astype(bool),
            None,
        )
        for each in coco.anns.values()
    ]
    return [compared("pycocotools", version("pycocotools"), "coco", rows, time="kept")]
