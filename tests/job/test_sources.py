"""A video that has changed since it was first seen is reported, and never mixed in."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sam3ray.config import JobConfig, VideoConfig
from sam3ray.failures import ClipError, Failure, Reason
from sam3ray.files.sighting import change
from sam3ray.job.driver import run_job
from sam3ray.job.result import ClipResult, JobSummary
from sam3ray.job.running import JobSpec
from sam3ray.job.sources import Sources, first_sight, with_digests
from sam3ray.job.tables import Ledger
from sam3ray.job.worker import ClipWorker
from sam3ray.manifest import Clip, read_manifest
from sam3ray.planning import check_visual_prompts
from sam3ray.prompts import MaskPrompt, resolve_prompts
from sam3ray.store import ClipSummary, RunStore, verify_run
from sam3ray.video import Frame
from sam3ray.video._remote import look_up
from tests.e2e.clips import write_clip
from tests.e2e.runs import annotations_of, config_for
from tests.job.fakes import DrawnSegmenter
from tests.servers import Place
from tests.video.test_folder import write_frames


class Replacing(DrawnSegmenter):
    """Somebody writes another video over the one that is being read."""

    path: Path | None = None

    def on_frame(self, position: int, frame: Any) -> None:
        if position == 3 and self.path is not None:
            write_clip(self.path.with_suffix(".new.mp4"), 5, frames=9)
            os.replace(self.path.with_suffix(".new.mp4"), self.path)


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    write_clip(tmp_path / "a.mp4", 0, frames=6)
    return Clip("a", str(tmp_path / "a.mp4"), ("red",))


@pytest.fixture
def worker(tmp_path: Path, clip: Clip) -> ClipWorker:
    config = JobConfig(manifest="m.csv", output=str(tmp_path / "run"), prompts=("red",))
    store = RunStore(config.output)
    store.create_or_open({"a": 1}, {}, [clip])
    return ClipWorker(config, store, {"a": 1}, Replacing)


def test_a_clip_is_done_while_its_video_is_the_one_that_was_seen(worker: ClipWorker, clip: Clip) -> None:
    (seen,) = first_sight([clip])
    assert seen.source is not None
    result = worker.attempt(seen)
    assert isinstance(result, ClipResult)
    assert change(seen.source, result.source) is None
    metadata = pq.read_metadata(Path(worker.store.output) / "annotations/a.parquet").metadata
    assert json.loads(metadata[b"sam3ray.clip"])["source"]["size"] == os.path.getsize(clip.uri)


def test_a_video_that_was_replaced_before_is_reported(worker: ClipWorker, clip: Clip, tmp_path: Path) -> None:
    (seen,) = first_sight([clip])
    write_clip(tmp_path / "a.mp4", 0, frames=9)
    failure = worker.attempt(seen)
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.NOT_FOUND
    assert "the video has changed since the run first saw it (it had " in failure.message
    assert worker.store.done_ids() == set()


def test_a_video_that_is_replaced_while_it_is_read_is_reported(worker: ClipWorker, clip: Clip) -> None:
    worker.segmenter.path = Path(clip.uri)  # type: ignore[attr-defined]
    failure = worker.attempt(clip)
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.NOT_FOUND
    assert worker.store.done_ids() == set()


def test_what_cannot_be_looked_at_is_left_to_the_worker(tmp_path: Path) -> None:
    clips = [Clip("a", str(tmp_path / "absent.mp4")), Clip("b", "s3://bucket/b.mp4"), Clip("c", str(tmp_path))]
    assert [each.source for each in first_sight(clips)] == [None] * 3


def test_the_first_clip_of_a_video_decides_for_its_others() -> None:
    """Also across runs: what is done says what it saw."""
    ranges = [Clip(f"c{n}", f"https://h/v.mp4?id=1&sig={n}", start_s=float(n)) for n in range(4)]
    done = {"c0": ClipSummary("c0", "done", source='{"size": 5}')}
    sources = Sources(ranges, {}, done)
    assert [sources.with_first_sight(each).source for each in ranges] == ['{"size": 5}'] * 4
    sources.saw(ranges[1], '{"size": 6}')
    assert sources.with_first_sight(ranges[2]).source == '{"size": 5}'
    assert Sources(ranges, {"c3": '{"size": 7}'}, done).with_first_sight(ranges[3]).source == '{"size": 7}'
    fresh = Sources(ranges, {}, {})
    assert fresh.with_first_sight(ranges[2]).source is None
    fresh.saw(ranges[1], '{"size": 6}')
    assert fresh.with_first_sight(ranges[2]).source == '{"size": 6}'


def test_changes_are_named(caplog: pytest.LogCaptureFixture) -> None:
    now = [Clip(f"c{n}", f"/{n}.mp4", source='{"size": 9}') for n in range(7)]
    Sources(now, {clip.clip_id: '{"size": 5}' for clip in now[1:]}, {}).tell_changes(now)
    assert "c1 (it had 5 bytes, and has 9), c2" in caplog.text
    assert "and 1 more" in caplog.text


def test_first_sights_are_frozen_and_read_again(tmp_path: Path, clip: Clip) -> None:
    store = RunStore(str(tmp_path / "frozen"))
    clips = first_sight(
        [replace(clip, carried={"split": "x"}), Clip("b", "s3://b/b.mp4", ("x",), carried={"split": "y"})]
    )
    store.create_or_open({"a": 1}, {}, clips)
    again = RunStore(store.output)
    assert again.first_sights() == {"a": clips[0].source}
    assert [each.source for each in again.manifest()] == [clips[0].source, None]
    assert again.manifest() == clips
    # The frozen manifest may itself be given as a manifest.
    config = JobConfig(manifest=f"{store.output}/manifest.parquet", output="/o", prompts=("x",))
    given = read_manifest(config.manifest, config)
    assert [dict(each.carried) for each in given] == [{"split": "x"}, {"split": "y"}]
    assert not RunStore(store.output).create_or_open({"a": 1}, {}, given)


@pytest.mark.parametrize("glob", ["", "/**/*"])
def test_a_listing_and_a_worker_see_the_same(s3_place: Place, tmp_path: Path, glob: str) -> None:
    fs = fsspec.filesystem("s3", **s3_place.options)
    root = s3_place.uri.removeprefix("s3://").rpartition("/")[0]
    write_frames(tmp_path / "frames", ["1.png", "2.png", "10.png"])
    fs.put(str(tmp_path / "frames"), f"{root}/in/frames", recursive=True)
    fs.pipe(f"{root}/in/v.mp4", b"first")
    config = JobConfig(manifest=f"s3://{root}/in{glob}", output="/o", prompts=("x",), storage=dict(s3_place.options))
    clips = read_manifest(config.manifest, config)
    assert len(clips) == 2

    def now(clip: Clip) -> str:
        return look_up(clip.uri, s3_place.options, VideoConfig())[1].sighting

    assert [change(str(clip.source), now(clip)) for clip in clips] == [None, None]
    fs.pipe(f"{root}/in/v.mp4", b"other")
    fs.pipe(f"{root}/in/frames/{Path(fs.ls(f'{root}/in/frames')[0]).name}", b"other")
    assert all(change(str(clip.source), now(clip)) for clip in clips)


def mask(path: Path, column: int) -> Path:
    image = np.zeros((48, 64), np.uint8)
    image[:, column] = 255
    Image.fromarray(image).save(path)
    return path


def test_a_mask_that_has_changed_since_the_run_began_is_reported(tmp_path: Path, clip: Clip) -> None:
    png = str(mask(tmp_path / "m.png", 3))
    prompted = replace(clip, prompts=(), visual_prompts=(MaskPrompt("", 0, 0, 0, 1, "object 1", png=png),))
    config = JobConfig(manifest="m.csv", output=str(tmp_path / "run"))
    (seen,) = with_digests([prompted], check_visual_prompts([prompted], config))
    store = RunStore(config.output)
    store.create_or_open({"a": 1}, {}, [seen])
    # A resume reads the user's manifest again, which knows no digests.
    (resumed,) = RunStore(config.output).with_mask_digests([prompted])
    assert len(resumed.visual_prompts[0].sha256) == 64  # type: ignore[union-attr]
    (resolved,) = resolve_prompts(resumed.visual_prompts, 64, 48)
    assert isinstance(resolved, MaskPrompt)
    assert resolved.rle
    mask(tmp_path / "m.png", 4)
    with pytest.raises(ClipError, match=r"has changed since the run first read it \(it had the SHA-256 ") as caught:
        resolve_prompts(resumed.visual_prompts, 64, 48)
    assert caught.value.reason is Reason.NOT_FOUND


class FirstFrames(DrawnSegmenter):
    """Gives up all clips but the first of a video."""

    def on_frame(self, position: int, frame: Frame) -> None:
        if frame.index > 2:
            raise ClipError(Reason.OVER_LIMITS, "for a test")


class InThisProcess:
    """Stands in for the driver's loop: its clips one after the other, by one worker."""

    def __init__(self, spec: JobSpec, ledger: Ledger, *_: object) -> None:
        self.spec, self.ledger = spec, ledger

    def run(self) -> JobSummary:
        order = self.spec.order
        worker = ClipWorker(order.config, order.store, order.fingerprint, order.make_segmenter, order.agreed)
        for i in self.spec.todo:
            result = worker.attempt(self.spec.sources.with_first_sight(self.spec.clips[i]))
            if isinstance(result, Failure):
                self.ledger.failed_attempt(replace(result, final=True))
            else:
                self.ledger.clip_done(result)
                self.spec.sources.saw(self.spec.clips[i], result.source)
        self.ledger.close()
        return self.ledger.summary(0.0, "")


def test_a_video_that_changes_between_two_runs_is_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Three clips of one video: one is done, the video is replaced, the job goes on."""
    monkeypatch.setattr("sam3ray.job.driver.connected", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr("sam3ray.job.driver.Job", InThisProcess)
    monkeypatch.setattr("sam3ray.job.driver.ray_metrics", lambda *_: [])
    path = tmp_path / "v.mp4"
    write_clip(path, 0, frames=10)
    rows = [{"uri": str(path), "clip_id": f"c{n}", "start_s": n / 4, "end_s": (n + 1) / 4} for n in range(3)]
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config_for(manifest, tmp_path / "run", actors=1)
    first = run_job(config, make_segmenter=FirstFrames)
    assert (first.done, dict(first.failed)) == (1, {"over_limits": 2})
    before = annotations_of(tmp_path / "run")

    write_clip(path, 0, frames=12, height=64)
    RunStore(config.output).clear_failures()
    second = run_job(config, make_segmenter=DrawnSegmenter)
    assert (second.done, second.skipped, dict(second.failed)) == (0, 1, {"not_found": 2})
    assert "videos have changed since the run first saw them: c0 (it had " in caplog.text
    messages = {failure.message for failure in RunStore(config.output).failures()}
    assert len(messages) == 1
    assert "the video has changed since the run first saw it" in messages.pop()
    assert annotations_of(tmp_path / "run") == before
    assert verify_run(config.output) == []
