"""The out-of-memory ladder with a real model: what each rung changes, what is recorded, and the same annotations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sam3ray.config import JobConfig
from sam3ray.failures import Reason
from sam3ray.job.driver import run_job
from sam3ray.job.worker import ClipWorker
from sam3ray.manifest import read_manifest
from sam3ray.store import RunStore, verify_run
from tests.e2e.clips import moving_discs
from tests.e2e.runs import annotations_of
from tests.e2e.short_of_memory import NEEDS, TRACKING, ShortOfMemory
from tests.video.media import write_video

pytestmark = pytest.mark.usefixtures("local_ray", "one_thread")
FRAMES = 6


def test_every_rung_is_climbed_and_recorded(tmp_path: Path) -> None:
    rows = []
    for number, name in enumerate(NEEDS):
        path = write_video(tmp_path / f"{name}.mp4", FRAMES, size=(128 + 16 * number, 96), images=_images(number))
        rows.append({"clip_id": name, "uri": str(path), "prompts": ["red circle", "blue circle"]})
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    attempts = tmp_path / "attempts"
    attempts.mkdir()

    def config(name: str) -> JobConfig:
        return JobConfig(
            manifest=str(manifest),
            output=str(tmp_path / name),
            model={"checkpoint": "embedded", "device": "cpu", "image_size": 64},
            tracking=TRACKING,
            cluster={"gpus_per_actor": 0, "cpus_per_actor": 1, "actors": {"min": 1, "max": 1}},
        )

    summary = run_job(config("short"), make_segmenter=ShortOfMemory(str(attempts)))
    assert (summary.done, summary.exit_code, dict(summary.failed)) == (3, 0, {}), summary.message

    made = [json.loads(path.read_text()) for path in sorted(attempts.iterdir())]
    by_clip = {name: [each for each in made if each["clip"] == name] for name in NEEDS}
    assert {name: [each["rung"] for each in found] for name, found in by_clip.items()} == {
        "whole-ladder": [0, 1, 2, 3, 4, 5],
        "half-way": [0, 1, 2],
        "easy": [0],
    }
    in_force = [
        [each[key] for key in ("frame_batch", "object_batch", "offload_state", "prompt_batch")]
        for each in by_clip["whole-ladder"]
    ]
    assert in_force == [
        [4, 16, False, 2],
        [4, 16, False, 2],
        [1, 2, False, 2],
        [1, 2, True, 2],
        [1, 2, True, 1],
        [1, 2, True, 1],
    ]
    last = by_clip["whole-ladder"][-1]
    assert last["pid"] not in {each["pid"] for each in made[: made.index(last)]}  # a process that has run nothing else

    records = [(failure.clip_id, failure.reason) for failure in RunStore(str(tmp_path / "short")).failures()]
    assert sorted(records) == [("half-way", Reason.OUT_OF_MEMORY)] * 2 + [("whole-ladder", Reason.OUT_OF_MEMORY)] * 5
    for name, rung in NEEDS.items():
        metadata = pq.read_metadata(tmp_path / f"short/annotations/{name}.parquet").metadata
        assert json.loads(metadata[b"sam3ray.clip"])["rung"] == rung
    assert verify_run(str(tmp_path / "short")) == []

    _annotate_alone(config("plenty"))
    ours, theirs = annotations_of(tmp_path / "short"), annotations_of(tmp_path / "plenty")
    assert ours.keys() == theirs.keys()
    for name, table in ours.items():
        assert table.num_rows > FRAMES
        for column in table.column_names:
            one, other = table[column].to_pylist(), theirs[name][column].to_pylist()
            if column in ("score", "track_score"):
                np.testing.assert_allclose(one, other, atol=1e-4)  # shapes of batches change the last bits
            else:
                assert one == other, f"{name}: {column}"


def _images(number: int) -> list[np.ndarray]:
    return [np.pad(image, ((0, 0), (0, 16 * number), (0, 0)), constant_values=90) for image in moving_discs(FRAMES)]


def _annotate_alone(config: JobConfig) -> None:
    store = RunStore(config.output)
    clips = read_manifest(config.manifest, config)
    store.create_or_open({"a": 1}, {}, clips)
    worker = ClipWorker(config, store, {})
    for clip in clips:
        worker.process(clip)
    worker.close()
