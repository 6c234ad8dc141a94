"""`sam3ray refine` on a real Ray, with the embedded checkpoint: corrections in, a new run out, and home again."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sam3ray import decode_mask, read_annotations
from sam3ray.cli import app
from sam3ray.config import JobConfig
from sam3ray.masks import encode_masks
from sam3ray.revisions import Add, Delete, Edits
from sam3ray.shapes import ClipSpec, annotate, draw_clip, write_clip
from sam3ray.store import RunStore, verify_run
from sam3ray.store.annotation_file import AnnotationWriter
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.values.clip import Clip

pytestmark = [
    pytest.mark.usefixtures("local_ray", "one_thread"),
    pytest.mark.skipif(
        not (Path(str(resources.files("sam3ray"))) / "embedded" / "model.safetensors").exists(),
        reason="the package holds no checkpoint",
    ),
]
SPEC = ClipSpec(seed=6, frames=8, fps=30, width=160, height=120, objects=(2, 2))


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    """Two clips of one video: in "a" the first object is known on all frames, in "b" nothing is."""
    write_clip(SPEC, tmp_path / "clip.mp4")
    config = JobConfig.model_validate(
        {
            "manifest": "-",
            "output": str(tmp_path / "run"),
            "model": {"checkpoint": "embedded", "device": "cpu"},
            "cluster": {"gpus_per_actor": 0, "cpus_per_actor": 1, "actors": {"min": 1, "max": 1}},
        }
    )
    store = RunStore(config.output)
    clips = [Clip(name, str(tmp_path / "clip.mp4"), ("thing",)) for name in ("a", "b")]
    store.create_or_open({"a": 1}, config.model_dump(mode="json"), clips)
    for clip in clips:
        path = tmp_path / f"{clip.clip_id}.parquet"
        facts = {"uri": clip.uri, "source_fps": 30.0, "time_base": "1/90000"}
        with AnnotationWriter(path, clip.clip_id, {"fingerprint": {"a": 1}, "clip": facts}) as writer:
            for frame in annotate(SPEC, [], {}):
                objects = (item(1, 1, frame.frame_index),) if clip.clip_id == "a" else ()
                times = frame.frame_index, frame.pts, frame.time_s
                writer.write(FrameAnnotations(*times, SPEC.height, SPEC.width, objects))
            writer.finish(seconds=1.0)
        assert store.commit(clip.clip_id, path)
    return store


def drawn(shape: int) -> list[np.ndarray]:
    return [frame.ids == shape for frame in draw_clip(SPEC)]


def item(object_id: int, shape: int, frame: int) -> ObjectAnnotation:
    found = encode_masks(drawn(shape)[frame][None])[0]
    return ObjectAnnotation(object_id, "thing", 0.9, 0.9, tuple(map(float, found.bbox)), found.area, found.rle)


def call(*arguments: str) -> dict[str, object]:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_one_frame_corrected_is_a_track(run, tmp_path):
    edits = Edits(run)
    frame = FrameAnnotations(4, 12000, 4 / 30, SPEC.height, SPEC.width, (item(5, 2, 4),))
    data = edits.put_data("a", [frame])
    edits.append([Add("a", 5, *data), Delete("a", 1, (6, 7))])
    summary = call("refine", run.output)
    new = f"{run.output}-refined-1"
    assert (summary["clips"], summary["done"]) == (1, 1)
    assert verify_run(new) == []
    rows = read_annotations(new).to_table().to_pylist()
    track = {row["frame_index"]: decode_mask(row) for row in rows if row["object_id"] == 5}
    true = drawn(2)
    fits = [(track[n] & true[n]).sum() / (track[n] | true[n]).sum() for n in track]
    assert len(track) == SPEC.frames
    assert min(fits) > 0.5
    assert sorted(row["frame_index"] for row in rows if row["object_id"] == 1) == list(range(6))
    again = call("refine", run.output)
    assert (again["done"], again["skipped"]) == (0, 1)
    assert call("import", run.output, "--from", new, "--format", "run")["revision"] == 2
    assert read_annotations(run.output, revision="latest").to_table().to_pylist() == rows
