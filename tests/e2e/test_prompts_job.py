"""Every kind of prompt through the command line and a real Ray job, with the embedded checkpoint.

One way runs so; what the other two do differently is in the worker, which does them in this process.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from sam3ray.cli import app
from sam3ray.config import ModelConfig, load_config
from sam3ray.job.worker import ClipWorker
from sam3ray.masks import decode_rle, encode_masks
from sam3ray.prompts import parse_visual_prompts
from sam3ray.segment import track_video
from sam3ray.shapes import ClipSpec, draw_clip, write_clip
from sam3ray.store import RunStore, verify_run
from tests.e2e.runs import annotations_of

pytestmark = [
    pytest.mark.usefixtures("local_ray", "one_thread"),
    pytest.mark.skipif(
        not (Path(str(resources.files("sam3ray"))) / "embedded" / "model.safetensors").exists(),
        reason="the package holds no checkpoint",
    ),
]
FPS = 30
MODEL = {"checkpoint": "embedded", "device": "cpu", "image_size": 64}
SPEC = ClipSpec(seed=6, frames=10, fps=FPS, width=320, height=180, objects=(2, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompted")
    write_clip(SPEC, folder / "clip.mp4")
    circle, _ = drawn_masks()
    Image.fromarray(circle.astype(np.uint8) * 255).save(folder / "circle.png")
    return folder


def drawn_masks() -> tuple[np.ndarray, np.ndarray]:
    """Of the first two objects on the first frame, (height, width), bool."""
    ids = next(iter(draw_clip(SPEC))).ids
    return ids == 1, ids == 2


def clips_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Every kind of prompt, in pixels and relative, by frame and by time."""
    _, second = drawn_masks()
    rle = {"size": list(second.shape), "counts": encode_masks(second[None])[0].rle}
    return {
        "clicks": {
            "prompts": ["red circle"],
            "visual_prompts": [
                {"object_id": 3, "label": "one click", "frame": 0, "units": "pixels", "points": [[111, 65]]},
                {"label": "several", "time_s": 0.1, "units": "relative", "points": [[0.35, 0.35], [0.3, 0.3]]},
                {"label": "with a negative", "frame": 4, "units": "pixels", "points": [[111, 65], [185, 57]],
                 "labels": [1, 0]},
            ],
        },
        "areas": {
            "visual_prompts": [
                {"object_id": 9, "label": "a box", "frame": 0, "units": "relative", "box": [0.27, 0.22, 0.43, 0.5]},
                {"object_id": 2, "frame": 0, "units": "pixels", "box": [87, 41, 136, 90],
                 "points": [[111, 65], [185, 57]], "labels": [1, 0]},
                {"object_id": 4, "label": "mask", "frame": 0, "mask": rle},
                {"object_id": 5, "label": "mask", "frame": 0, "mask": {"png": str(folder / "circle.png")}},
            ]
        },
        "refined": {
            "start_s": 2 / FPS,
            "fps": 15,
            "visual_prompts": [
                {"object_id": 1, "label": "circle", "frame": 4, "units": "pixels", "points": [[111, 65]]},
                {"object_id": 1, "frame": 6, "units": "pixels", "points": [[111, 65], [50, 20]], "labels": [1, 0]},
                {"object_id": 1, "time_s": 8 / FPS, "units": "pixels", "box": [87, 41, 136, 90]},
            ],
        },
    }  # fmt: skip


# How each object's frames lie to its first and last prompt, and how often the clip is gone through.
WAYS = {
    "both": ["tracking.direction=both", "tracking.refine=throughout"],
    "forward": ["tracking.direction=forward"],
    "backward": ["tracking.direction=backward"],
}
JOB = "both"  # which has all passes: the one that Ray runs
PROMPTED = {
    "clicks": {1: (3, 3), 2: (4, 4), 3: (0, 0)},
    "areas": {2: (0, 0), 4: (0, 0), 5: (0, 0), 9: (0, 0)},
    "refined": {1: (4, 8)},
}


@pytest.fixture(scope="module")
def job(folder: Path, local_ray: None) -> Path:
    """One run of all clips; the prompts of one of them come from a file of their own."""
    clips, output = clips_of(folder), folder / JOB
    joined = clips["refined"].pop("visual_prompts")
    rows = [{"clip_id": clip_id, "uri": str(folder / "clip.mp4"), **clip} for clip_id, clip in clips.items()]
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"clip_id": "refined", **p}) + "\n" for p in joined))
    (folder / "job.yaml").write_text(
        f"manifest: {folder}/clips.jsonl\nvisual_prompts: {folder}/prompts.jsonl\noutput: {output}\n"
        f"model: {json.dumps(MODEL)}\n"
        "cluster: {gpus_per_actor: 0, cpus_per_actor: 1, actors: {min: 1, max: 1}}\n"
    )
    assert run_job_file(folder, JOB)["done"] == len(clips)
    return output


@pytest.fixture(scope="module", params=list(WAYS))
def run(folder: Path, job: Path, request: pytest.FixtureRequest, loaded_once: None) -> tuple[str, Path]:
    """The way, and a run of it. All have the clips as the job's driver resolved them."""
    if request.param == JOB:
        return JOB, job
    output = folder / request.param
    config = load_config(folder / "job.yaml", [f"output={output}", *WAYS[request.param]])
    clips, store = RunStore(str(job)).manifest(), RunStore(str(output))
    identity = {"schema_version": 1}
    store.create_or_open(identity, config.model_dump(mode="json"), clips)
    worker = ClipWorker(config, store, identity)
    for clip in clips:
        worker.process(clip)
    worker.close()
    return request.param, output


def run_job_file(folder: Path, way: str) -> dict[str, Any]:
    overrides = [argument for each in WAYS[way] for argument in ("--set", each)]
    result = CliRunner().invoke(app, ["run", str(folder / "job.yaml"), "--json", *overrides])
    assert result.exit_code == 0, result.stderr
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


def test_the_run_is_as_it_should_be(run: tuple[str, Path]) -> None:
    way, output = run
    assert verify_run(str(output)) == []
    for clip_id, table in annotations_of(output).items():
        for row in table.to_pylist():
            if row["object_id"] not in PROMPTED[clip_id]:
                continue
            first, last = PROMPTED[clip_id][row["object_id"]]
            assert row["score"] == 1
            assert row["area"] > 0
            assert {"forward": row["frame_index"] >= first, "backward": row["frame_index"] <= last, "both": True}[way]


def test_a_run_that_goes_on_does_not_probe_its_videos_again(
    job: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe(*_: Any, **__: Any) -> None:
        raise AssertionError("videos were probed again")

    monkeypatch.setattr("sam3ray.planning._visual.probe_all", probe)
    summary = run_job_file(folder, JOB)
    assert (summary["done"], summary["skipped"]) == (0, 3)


def test_ids_of_phrases_lie_above_those_of_prompts(run: tuple[str, Path]) -> None:
    rows = annotations_of(run[1])["clicks"].to_pylist()
    labels = {1: "several", 2: "with a negative", 3: "one click"}
    assert {row["object_id"]: row["prompt"] for row in rows if row["object_id"] <= 3}.items() <= labels.items()
    found = [row for row in rows if row["object_id"] > 3]
    assert {row["prompt"] for row in found} == {"red circle"}
    assert all(row["score"] < 1 for row in found)


def test_masks_come_out_as_they_went_in(run: tuple[str, Path]) -> None:
    """On their own frame, up to the model's resolution."""
    circle, second = drawn_masks()
    rows = {row["object_id"]: row for row in annotations_of(run[1])["areas"].to_pylist() if row["frame_index"] == 0}
    for object_id, given in ((4, second), (5, circle)):
        height, width = rows[object_id]["segmentation"]["size"]
        mask = decode_rle(rows[object_id]["segmentation"]["counts"], height, width)
        assert (mask & given).sum() / (mask | given).sum() > 0.6


def test_files_say_which_prompts_they_were_made_with(run: tuple[str, Path], folder: Path) -> None:
    def prompts_of(clip_id: str) -> list[dict[str, Any]]:
        metadata = pq.read_metadata(run[1] / "annotations" / f"{clip_id}.parquet").metadata
        found: list[dict[str, Any]] = json.loads(metadata[b"sam3ray.clip"])["visual_prompts"]
        return found

    clicks, areas, refined = map(prompts_of, ("clicks", "areas", "refined"))
    assert [(each["object_id"], each["frame"], each["units"]) for each in clicks] == [
        (3, 0, "pixels"),
        (1, 3, "pixels"),
        (2, 4, "pixels"),
    ]
    assert clicks[1]["points"] == [[0.35 * 320, 0.35 * 180], [0.3 * 320, 0.3 * 180]]
    assert [each["object_id"] for each in areas] == [9, 2, 2, 4, 5]
    assert all(each["mask"]["size"] == [180, 320] for each in areas[-2:])
    assert [(each["frame"], each["label"]) for each in refined] == [(4, "circle"), (6, "circle"), (8, "circle")]
    given = clips_of(folder)["areas"]["visual_prompts"]
    (frozen,) = [clip for clip in RunStore(str(run[1])).manifest() if clip.clip_id == "areas"]
    assert frozen.visual_prompts == parse_visual_prompts(given)[0]


@pytest.mark.parametrize("clip_id", ["clicks", "areas", "refined"])
def test_the_job_gives_what_the_function_gives(run: tuple[str, Path], folder: Path, clip_id: str) -> None:
    way, output = run
    clip = clips_of(folder)[clip_id]
    prompts, wrong = parse_visual_prompts(clip["visual_prompts"])
    assert not wrong
    frames = track_video(
        folder / "clip.mp4",
        prompts,
        prompts=clip.get("prompts", ()),
        direction=way,  # type: ignore[arg-type]
        refine="throughout" if way == "both" else "onward",
        model=ModelConfig(**MODEL),
        start_s=clip.get("start_s"),
        fps=clip.get("fps"),
    )
    expected = [(frame.frame_index, each.object_id, each.area, each.rle) for frame in frames for each in frame.objects]
    assert rows_of(annotations_of(output)[clip_id]) == expected
    assert {object_id for _, object_id, _, _ in expected} & PROMPTED[clip_id].keys()


def rows_of(table: pa.Table) -> list[tuple[int, int, int, str]]:
    return [
        (row["frame_index"], row["object_id"], row["area"], row["segmentation"]["counts"]) for row in table.to_pylist()
    ]
