"""Meta's SA-Co/VEval evaluators read `saco` both as truth and as predictions: every figure is 1."""

from __future__ import annotations

from sam3ray.exports import export
from tools.interop._place import Place
from tools.interop._result import Result
from tools.interop._run import CLIP
from tools.interop.veval import REQUIREMENTS as REQUIREMENTS

_WANTED = (
    "video_mask_mAP_50_95",
    "video_mask_phrase_ap_50_95",
    "video_mask_all_phrase_HOTA",
    "video_mask_all_cgf1_micro_50_95",
)


def check(place: Place) -> list[Result]:
    out = place.folder / "out"
    export(str(place.run), str(out), "saco")
    truth, results = out / "annotations" / f"{CLIP}.json", out / "results" / f"{CLIP}.json"
    version, rows = place.read("saco_evaluator", truth, results)
    figures = {row.label: row.score for row in rows if row.label in _WANTED}
    ok = len(figures) >= 3 and all(value is not None and abs(value - 1) < 1e-6 for value in figures.values())
    lost = "track scores" if ok else f"{figures}"
    return [Result("SA-Co/VEval", version, "saco", ok, "mAP, phrase AP and HOTA 1", "kept", "one per track", "-", lost)]
