"""Checks that Meta's SA-Co/VEval evaluators and `sam3ray eval` give the same cgF1 and pHOTA for the same files.

Meta's example (`assets/veval/toy_gt_and_pred` of facebookresearch/sam3) comes from a clone named by $SAM3_REPOSITORY,
else from GitHub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sam3ray.annotations import AnnotationWriter, FrameAnnotations, ObjectAnnotation
from sam3ray.evaluate import Report, evaluate_run
from sam3ray.masks import encode_masks, rle_area, rle_bbox
from sam3ray.truth import import_truth
from tools.interop._place import Place
from tools.interop._result import Result
from tools.interop._upstream import upstream_file

# Without its dependencies, which only the model needs; those of the evaluators come from the project.
REQUIREMENTS = ("--with-project", "--no-deps", "sam3==0.1.4", "iopath==0.1.10", "portalocker==4.4.2", "numpy==2.3.5")
TOLERANCE = 2e-4  # Meta's code adds 1e-4 to denominators
_TOY = "assets/veval/toy_gt_and_pred/toy_saco_veval_sav_test"
_OURS = {
    "cgf1": "video_mask_demo_cgf1_micro_50_95",
    "pmf1": "video_mask_demo_positive_micro_f1_50_95",
    "il_mcc": "video_mask_demo_ilmcc_50_95",
    "phota": "video_mask_all_phrase_HOTA",
}


def check(place: Place) -> list[Result]:
    return [*_toy(place), _drawn(place)]


def _toy(place: Place) -> list[Result]:
    """Checks that Meta's example gives the figures that Meta stored, and that ours agree."""
    files = {
        name: upstream_file("facebookresearch/sam3", f"{_TOY}_{name}.json", "SAM3_REPOSITORY")
        for name in ("gt", "pred", "eval_res")
    }
    version, found, _ = _meta(place, files["gt"], files["pred"], "all")
    stored = json.loads(files["eval_res"].read_text())["dataset_results"]
    off = {name: abs(found.get(name, np.inf) - value) for name, value in stored.items()}
    missing = [name for name in off if name not in found]
    same = [name for name in off if name in found]
    worst = max(off[name] for name in same)
    text = f"{len(same)} figures within {worst:.1e} of the stored ones" + (
        f"; {len(missing)} stored ones are of an older version" if missing else ""
    )
    report = _evaluate(place.folder / "toy", files["gt"], json.loads(files["pred"].read_text()))
    differences = _differences(report, stored)
    ours = max(differences.values())
    return [
        Result("SA-Co/VEval", version, "its example", worst < 2e-4, lost=text),
        Result(
            "sam3ray eval",
            f"beside {version}",
            "Meta's example",
            ours < TOLERANCE,
            lost=f"cgF1, pHOTA within {ours:.1e}",
        ),
    ]


def _drawn(place: Place) -> Result:
    """Checks that figures agree on drawn tracks with every kind of error, overall and pair by pair."""
    truth, predictions = draw(np.random.default_rng(7), videos=12)
    true_file, found_file = place.folder / "drawn-truth.json", place.folder / "drawn-predictions.json"
    true_file.write_text(json.dumps(truth))
    found_file.write_text(json.dumps(predictions))
    version, found, pairs = _meta(place, true_file, found_file, "few")
    report = _evaluate(place.folder / "drawn", true_file, predictions)
    off = max(_differences(report, found).values())
    names = {video["id"]: video["video_name"] for video in truth["videos"]}
    phrases = {category["id"]: category["name"] for category in truth["categories"]}
    ours = {(each.clip_id, each.prompt): float(np.mean(each.phrase["HOTA"]["HOTA"])) for each in report.comparisons}
    each_off = max(abs(ours[names[video], phrases[category]] - value) for (video, category), value in pairs.items())
    text = f"{len(pairs)} pairs: cgF1, pHOTA within {off:.1e}, HOTA of each pair within {each_off:.1e}"
    return Result("sam3ray eval", f"beside {version}", "drawn tracks", max(off, each_off) < TOLERANCE, lost=text)


def _meta(
    place: Place, truth: Path, predictions: Path, which: str
) -> tuple[str, dict[str, float], dict[tuple[int, int], float]]:
    """Meta's version, its overall figures, and HOTA by (video, category)."""
    version, rows = place.read("meta_veval", truth, predictions, which)
    whole = {row.label: float(row.score or 0) for row in rows if row.frame < 0}
    pairs = {(row.frame, row.object_id or 0): float(row.score or 0) for row in rows if row.frame >= 0}
    return version, whole, pairs


def _differences(report: Report, theirs: Mapping[str, float]) -> dict[str, float]:
    return {name: abs((getattr(report.overall, name) or 0) - theirs[metric]) for name, metric in _OURS.items()}


def _evaluate(folder: Path, truth: Path, predictions: Sequence[Mapping[str, Any]]) -> Report:
    """Runs `sam3ray eval` on the same files."""
    import_truth(str(folder / "truth"), str(truth), "saco")
    value = json.loads(truth.read_text())
    phrases = {each["id"]: each["name"] for each in value["categories"]}
    (folder / "run" / "annotations").mkdir(parents=True, exist_ok=True)
    for video in value["videos"]:
        frames: list[list[ObjectAnnotation]] = [[] for _ in range(video["length"])]
        tracks = [each for each in predictions if each["video_id"] == video["id"]]
        for object_id, track in enumerate(tracks, 1):
            for place, rle in enumerate(track["segmentations"]):
                area = rle_area(rle["counts"], *rle["size"]) if rle else 0
                if area:
                    box = rle_bbox(rle["counts"], *rle["size"])
                    found = tuple(map(float, box)), area, rle["counts"]
                    frames[place].append(
                        ObjectAnnotation(object_id, phrases[track["category_id"]], track["score"], 1.0, *found)  # type: ignore[arg-type]
                    )
        name = video["file_names"][0].rpartition("/")[0]
        path = folder / "run" / "annotations" / f"{name}.parquet"
        with AnnotationWriter(path, name, {}) as writer:
            for t, objects in enumerate(frames):
                writer.write(FrameAnnotations(t, t, float(t), video["height"], video["width"], tuple(objects)))
            writer.finish()
    return evaluate_run(str(folder / "run"), str(folder / "truth"))


def draw(rng: np.random.Generator, videos: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draws drifting boxes of three phrases, some of which are missing in some videos, and predictions with errors:
    missed and invented objects, shifted boxes, changed ids, tracks that break off, and low scores.
    """
    height, width, length = 40, 56, 8
    truth: dict[str, Any] = {"videos": [], "annotations": [], "categories": [], "video_np_pairs": []}
    truth["categories"] = [{"id": k, "name": name} for k, name in enumerate(("a cat", "two words", "dog"), 1)]
    predictions = []
    for video in range(1, videos + 1):
        names = [f"clip-{video:02d}/{t:05d}.jpg" for t in range(length)]
        truth["videos"].append(
            {"id": video, "video_name": f"clip-{video:02d}", "file_names": names, "height": height, "width": width,
             "length": length}
        )  # fmt: skip
        for category in (1, 2, 3):
            count = int(rng.integers(0, 4))
            phrase = truth["categories"][category - 1]["name"]
            truth["video_np_pairs"].append(
                {"id": len(truth["video_np_pairs"]) + 1, "video_id": video, "category_id": category,
                 "noun_phrase": phrase, "num_masklets": count}
            )  # fmt: skip
            for _ in range(count):
                start, step = rng.integers((0, 0), (20, 30)), rng.integers(-1, 3, 2)
                track = [_box(start + t * step, (height, width)) for t in range(length)]
                gone = int(rng.integers(0, 3))
                shown = [None if t < gone else mask for t, mask in enumerate(track)]
                truth["annotations"].append(
                    _track(shown) | {"id": len(truth["annotations"]) + 1, "video_id": video, "category_id": category,
                                     "noun_phrase": phrase, "iscrowd": 0, "height": height, "width": width}
                )  # fmt: skip
                if rng.random() < 0.2:
                    continue  # missed
                slip = rng.integers(-3, 4, 2) * (rng.random() < 0.6)
                moved = [_box(start + t * step + slip, (height, width)) for t in range(length)]
                until = length if rng.random() < 0.7 else int(rng.integers(2, length))
                parts = [[mask if t < until else None for t, mask in enumerate(moved)]]
                if until < length:
                    parts.append([None if t < until else mask for t, mask in enumerate(moved)])  # gets another id
                predictions += [_prediction(part, video, category, rng) for part in parts]
            if rng.random() < 0.25:  # invented
                start = rng.integers((0, 0), (20, 30))
                ghost = [_box(start, (height, width))] * length
                predictions.append(_prediction(ghost, video, category, rng))
    return truth, predictions


def _box(corner: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    y, x = (int(v) for v in np.maximum(corner, 0))
    mask[y : y + 11, x : x + 14] = True
    return mask


def _track(masks: Sequence[np.ndarray | None]) -> dict[str, Any]:
    found = [None if mask is None or not mask.any() else encode_masks(mask[None])[0] for mask in masks]
    size = next(mask.shape for mask in masks if mask is not None)
    return {
        "segmentations": [None if each is None else {"size": list(size), "counts": each.rle} for each in found],
        "bboxes": [
            None if each is None else [each.bbox[0], each.bbox[1], each.bbox[2] - each.bbox[0],
                                       each.bbox[3] - each.bbox[1]]
            for each in found
        ],
        "areas": [None if each is None else each.area for each in found],
    }  # fmt: skip


def _prediction(masks: Sequence[np.ndarray | None], video: int, category: int, rng: np.random.Generator) -> Any:
    return _track(masks) | {"video_id": video, "category_id": category, "score": float(rng.choice([0.3, 0.7, 0.9]))}
