"""TrackEval reads what was exported, as truth and as results at once: every figure is 1."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam3ray.exports import export
from tests.exports.labels import make_run

trackeval = pytest.importorskip("trackeval")
CLIP = "a-clip"


@pytest.fixture(autouse=True)
def _old_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """TrackEval 1.3 uses names that numpy has dropped."""
    for name, kind in (("float", float), ("int", int), ("bool", bool)):
        if name not in np.__dict__:
            monkeypatch.setattr(np, name, kind, raising=False)


def hota(dataset: Any, name: str, sequence: str = CLIP) -> dict[str, float]:
    evaluator = trackeval.Evaluator(
        {"PRINT_RESULTS": False, "PRINT_CONFIG": False, "OUTPUT_SUMMARY": False, "OUTPUT_DETAILED": False}
        | {"PLOT_CURVES": False, "TIME_PROGRESS": False, "BREAK_ON_ERROR": True, "OUTPUT_EMPTY_CLASSES": False}
    )
    found, _ = evaluator.evaluate([dataset], [trackeval.metrics.HOTA({"PRINT_CONFIG": False})])
    classes = found[name]["tracker"][sequence]
    return {kind: float(np.mean(values["HOTA"]["HOTA"])) for kind, values in classes.items()}


def test_mot(tmp_path: Path) -> None:
    make_run(tmp_path, (CLIP,))
    export(str(tmp_path / "run"), str(tmp_path / "gt"), "mot", names={"ring": "pedestrian"}, prompts=["ring"])
    results = tmp_path / "results" / "tracker" / "data"
    results.mkdir(parents=True)
    shutil.copy(tmp_path / "gt" / CLIP / "det" / "results.txt", results / f"{CLIP}.txt")
    dataset = trackeval.datasets.MotChallenge2DBox(
        {
            "GT_FOLDER": str(tmp_path / "gt"),
            "TRACKERS_FOLDER": str(tmp_path / "results"),
            "TRACKERS_TO_EVAL": ["tracker"],
            "CLASSES_TO_EVAL": ["pedestrian"],
            "SEQMAP_FILE": str(tmp_path / "gt" / "seqmaps.txt"),
            "SKIP_SPLIT_FOL": True,
            "DO_PREPROC": False,
            "PRINT_CONFIG": False,
        }
    )
    assert hota(dataset, "MotChallenge2DBox") == {"pedestrian": pytest.approx(1.0)}


def test_mots_challenge(tmp_path: Path) -> None:
    make_run(tmp_path, (CLIP,))
    export(str(tmp_path / "run"), str(tmp_path / "gt"), "mots")
    results = tmp_path / "results" / "tracker" / "data"
    results.mkdir(parents=True)
    shutil.copy(tmp_path / "gt" / CLIP / "gt" / "gt.txt", results / f"{CLIP}.txt")
    dataset = trackeval.datasets.MOTSChallenge(
        {
            "GT_FOLDER": str(tmp_path / "gt"),
            "TRACKERS_FOLDER": str(tmp_path / "results"),
            "TRACKERS_TO_EVAL": ["tracker"],
            "SEQMAP_FILE": str(tmp_path / "gt" / "seqmaps.txt"),
            "SKIP_SPLIT_FOL": True,
            "PRINT_CONFIG": False,
        }
    )
    assert hota(dataset, "MOTSChallenge") == {"pedestrian": pytest.approx(1.0)}


def test_kitti_mots(tmp_path: Path) -> None:
    make_run(tmp_path, (CLIP, "b-clip"))  # TrackEval guesses the separator, for which one line is too little
    export(str(tmp_path / "run"), str(tmp_path / "gt"), "mots", variant="kitti")
    shutil.copytree(tmp_path / "gt" / "instances_txt", tmp_path / "results" / "tracker" / "data")
    dataset = trackeval.datasets.KittiMOTS(
        {
            "GT_FOLDER": str(tmp_path / "gt"),
            "TRACKERS_FOLDER": str(tmp_path / "results"),
            "TRACKERS_TO_EVAL": ["tracker"],
            "CLASSES_TO_EVAL": ["pedestrian"],
            "SPLIT_TO_EVAL": "val",
            "SEQMAP_FILE": str(tmp_path / "gt" / "val.seqmap"),
            "GT_LOC_FORMAT": "{gt_folder}/instances_txt/{seq}.txt",
            "PRINT_CONFIG": False,
        }
    )
    assert hota(dataset, "KittiMOTS", "0000") == {"pedestrian": pytest.approx(1.0)}


def test_youtube_vis(tmp_path: Path) -> None:
    make_run(tmp_path, (CLIP,))
    export(str(tmp_path / "run"), str(tmp_path / "gt"), "ytvis")
    results = tmp_path / "results" / "youtube_vis_val" / "tracker" / "data"
    results.mkdir(parents=True)
    shutil.copy(tmp_path / "gt" / "results" / f"{CLIP}.json", results / "results.json")
    (tmp_path / "gt" / "annotations").rename(tmp_path / "gt" / "youtube_vis_val")
    dataset = trackeval.datasets.YouTubeVIS(
        {
            "GT_FOLDER": f"{tmp_path / 'gt'}/",
            "TRACKERS_FOLDER": f"{tmp_path / 'results'}/",
            "TRACKERS_TO_EVAL": ["tracker"],
            "SPLIT_TO_EVAL": "val",
            "PRINT_CONFIG": False,
        }
    )
    found = hota(dataset, "YouTubeVIS")
    assert found["ring"] == pytest.approx(1.0)
    assert found["two words"] == pytest.approx(1.0)
