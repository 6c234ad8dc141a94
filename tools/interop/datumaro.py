"""Datumaro reads `coco`, `cvat` and `mots` (PNG)."""

from __future__ import annotations

import shutil

from sam3ray.exports import export
from tools.interop._compare import compared
from tools.interop._place import Place, Row
from tools.interop._result import Result
from tools.interop._run import CLIP

REQUIREMENTS = ("datumaro==1.13.12",)


def check(place: Place) -> list[Result]:
    return [_coco(place), _cvat_boxes(place), _cvat_masks(place), _mots(place)]


def _coco(place: Place) -> Result:
    out, given = place.folder / "coco", place.folder / "coco-given"
    export(str(place.run), str(out), "coco", images=True)
    (given / "annotations").mkdir(parents=True)
    shutil.copy(out / "annotations" / f"{CLIP}.json", given / "annotations" / f"instances_{CLIP}.json")
    shutil.copytree(out / "images", given / "images" / CLIP)
    version, rows = place.read("datumaro_dataset", "coco_instances", given)
    return compared("Datumaro", version, "coco", rows, time="file name", lost="track_score is an attribute")


def _cvat_boxes(place: Place) -> Result:
    out = place.folder / "cvat-boxes"
    export(str(place.run), str(out), "cvat", variant="boxes")
    version, rows = place.read("datumaro_dataset", "cvat", out / f"{CLIP}.xml")
    return compared("Datumaro", version, "cvat (boxes)", rows, keyframes=True, time="frame index", lost="masks, scores")


def _cvat_masks(place: Place) -> Result:
    out = place.folder / "cvat-masks"
    export(str(place.run), str(out), "cvat", variant="masks", images=True)
    version, rows = place.read("datumaro_dataset", "cvat", out / f"{CLIP}.xml")
    return compared("Datumaro", version, "cvat (masks)", rows, time="file name", lost="scores, tracks")


def _mots(place: Place) -> Result:
    out = place.folder / "mots"
    export(str(place.run), str(out), "mots", variant="png", images=True)
    version, rows = place.read("datumaro_dataset", "mots", out / CLIP)
    numbers: dict[str, list[int | None]] = {}
    for row in sorted(rows, key=lambda each: each.object_id or 0):
        known = numbers.setdefault(row.label, [])
        if row.object_id not in known:
            known.append(row.object_id)

    def renumbered(row: Row) -> int | None:
        return {1: 1, 2: 1, 1203: 2}[row.object_id or 0]

    return compared(
        "Datumaro", version, "mots (png)", rows, covered=True, id_of=renumbered, lost="scores, overlaps, ids renumbered"
    )
