"""A clip cut into windows, with the embedded checkpoint: the objects of the unsplit clip, each with one id."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sam3ray.config import JobConfig
from sam3ray.job.graph import Stage, Work
from sam3ray.job.merging import MergeOrder, merge_one
from sam3ray.job.result import ClipCut, ClipResult, PartDone
from sam3ray.job.worker import ClipWorker
from sam3ray.store import RunStore, verify_run
from sam3ray.values.clip import Clip
from sam3ray.video import VideoReader
from tests.e2e.clips import moving_discs
from tests.video.media import write_video

pytestmark = pytest.mark.usefixtures("one_thread")
FRAMES, FIRST = 40, 20


def test_each_object_keeps_its_id_across_windows(tmp_path: Path) -> None:
    images = [*moving_discs(20), *moving_discs(20)[::-1]]
    path = write_video(tmp_path / "long.mp4", FRAMES, size=(128, 96), images=images)
    clip = Clip("long", str(path), ("red circle", "blue circle"))
    config = JobConfig(
        manifest="m.csv",
        output=str(tmp_path / "run"),
        model={"checkpoint": "embedded", "device": "cpu"},
        cluster={"gpus_per_actor": 0},
        windows={"mode": "parallel", "frames": FIRST, "overlap": 6},
    )
    store = RunStore(config.output)
    store.create_or_open({"a": 1}, {}, [clip])
    worker = ClipWorker(config, store, {"a": 1})
    cut = worker.process(clip)
    assert isinstance(cut, ClipCut)
    assert len(cut.cutting.shares) == 2
    for index in (1, 0):
        assert isinstance(worker.process(clip, work=Work(0, Stage.WINDOW, index)), PartDone)
    assert isinstance(worker.process(clip, work=Work(0, Stage.LINK)), PartDone)
    result = merge_one(MergeOrder(store, {"a": 1}), clip)
    assert isinstance(result, ClipResult)
    assert result.frames == FRAMES
    assert verify_run(config.output) == []

    with VideoReader(path) as video:
        whole = list(worker.segmenter.segment(video, 96, 128, clip.prompts))
    worker.close()
    theirs = [(f.frame_index, o.object_id, o.prompt, o.rle) for f in whole for o in f.objects]
    rows = pq.read_table(tmp_path / "run/annotations/long.parquet").to_pylist()
    ours = [(r["frame_index"], r["object_id"], r["prompt"], r["segmentation"]["counts"]) for r in rows]
    assert [row for row in ours if row[0] < FIRST] == [row for row in theirs if row[0] < FIRST]
    assert {row[1:3] for row in ours} == {row[1:3] for row in theirs}
