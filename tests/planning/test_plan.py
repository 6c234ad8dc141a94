"""What `plan` finds, and that nothing a video does can take it down."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam3ray.annotations import AnnotationWriter, FrameAnnotations
from sam3ray.config import JobConfig, VideoConfig, config_from_text, fingerprint
from sam3ray.failures import ClipError, Failure, Reason
from sam3ray.manifest import read_manifest
from sam3ray.planning import plan_job, probe_all
from sam3ray.planning._estimate import EMBEDDED_FRAME_S, EMBEDDED_PROMPT_S
from sam3ray.planning._sharing import RUN_ON, Loads, windows_of_clip
from sam3ray.store import RunStore
from sam3ray.video import VideoInfo


def frames_folder(path: Path, frames: int = 60, size: tuple[int, int] = (32, 16)) -> Path:
    path.mkdir(parents=True)
    for i in range(frames):
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path / f"{i}.png")
    return path


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two clips of 60 frames and one that is no video."""
    frames_folder(tmp_path / "clips/a")
    frames_folder(tmp_path / "clips/b")
    (tmp_path / "clips/c.mp4").write_text("no video")
    return tmp_path / "clips"


def job(tmp_path: Path, *overrides: str, manifest: str = "clips") -> JobConfig:
    text = f"{{manifest: {tmp_path}/{manifest}, output: {tmp_path}/out, prompts: [x], video: {{folder_fps: 30}}}}"
    return config_from_text(text, "job.yaml", overrides)


def tree(path: Path) -> set[Path]:
    return set(path.rglob("*"))


FRAME_S = EMBEDDED_FRAME_S + EMBEDDED_PROMPT_S


@pytest.mark.parametrize("mode", ["checkpoint", "off"])
def test_a_plan_says_which_clips_are_longer_than_a_window(clips: Path, tmp_path: Path, mode: str) -> None:
    frames_folder(tmp_path / "clips/d", frames=20)
    device = ("model.checkpoint=embedded", "cluster.gpus_per_actor=0")
    plan = plan_job(job(tmp_path, *device, f"windows.mode={mode}", "windows.seconds=1.25"))
    assert plan.windows is not None
    assert (plan.windows.mode, plan.windows.clips, plan.windows.frames) == (mode, 2, 25)
    kept_in = 2 if mode == "checkpoint" else 0
    assert [(each.clip_id[0], each.windows, each.sequential) for each in plan.windows.listed] == [
        ("a", kept_in, ""),
        ("b", kept_in, ""),
    ]
    assert "2 clips longer than 1.25 s" in plan.facts()["windows"]
    assert json.loads(json.dumps(plan.as_json()))["windows"]["listed"][0]["windows"] == kept_in
    unknown = plan_job(job(tmp_path, "cluster.gpus_per_actor=0"))
    assert "unknown" in unknown.facts()["windows"]


def test_a_plan_says_how_clips_would_be_cut_and_when_the_job_would_end(clips: Path, tmp_path: Path) -> None:
    frames_folder(tmp_path / "clips/d", frames=20)
    device = ("model.checkpoint=embedded", "cluster.gpus_per_actor=0", "cluster.actors.max=4")
    cut = ("windows.frames=20", "windows.overlap=4", "tracking.recondition_every_nth_frame=4")
    sharing = plan_job(job(tmp_path, *device, *cut)).sharing
    assert sharing is not None
    assert (sharing.mode, sharing.clips, sharing.windows) == ("checkpoint", 2, 6)
    assert sharing.extra_frames == 2 * (38 + 20), "a window runs on through the next one's overlap at most"
    assert sharing.whole_hours == pytest.approx(60 * FRAME_S / 3600)
    assert sharing.cut_hours == pytest.approx(78 * FRAME_S / 3600), "seven pieces on four actors"
    plan = plan_job(job(tmp_path, *device, *cut, "windows.mode=parallel"))
    assert plan.windows is not None
    assert [(each.clip_id[0], each.cut) for each in plan.windows.listed] == [("a", 3), ("b", 3)]
    assert "2 clips are cut into 6 windows, 116 more frames" in plan.facts()["parallel windows"]
    assert "would be" not in plan.facts()["parallel windows"]
    assert "116 frames processed once more" in plan.facts()["assuming"]
    whole = plan_job(job(tmp_path, *device, *cut))
    assert plan.frames == whole.frames == 140
    for of, frames, busy in ((whole, 140, 3), (plan, 140 + 116, 4)):
        assert of.estimate.actor_hours == pytest.approx(frames * FRAME_S / 3600)
        assert of.estimate.wall_hours == pytest.approx(frames * FRAME_S / 3600 / busy)


def test_the_windows_of_a_plan_run_on() -> None:
    config = JobConfig(
        manifest="m.csv",
        output="out",
        prompts=("x",),
        windows={"frames": 160, "overlap": 16},
        cluster={"actors": {"max": 4}},
    )
    loads = Loads()
    assert loads.add(640, 640.0, config, sequential=False) == 4
    sharing = loads.sharing(config, 1.0, timed=True)
    assert sharing.extra_frames == 3 * (16 + RUN_ON)
    assert sharing.whole_hours == pytest.approx(640 / 3600)
    assert sharing.cut_hours == pytest.approx((160 + 16 + RUN_ON) / 3600)
    assert windows_of_clip(340, config) == [160 + 16 + RUN_ON, 180, 20], "not behind the clip's end"


def test_without_a_known_speed_a_plan_says_how_clips_would_be_cut() -> None:
    config = JobConfig(manifest="m.csv", output="out", prompts=("x",), windows={"frames": 20, "overlap": 4})
    loads = Loads()
    assert loads.add(60, 0.0, config, sequential=True) == loads.add(20, 0.0, config, sequential=False) == 0
    assert loads.add(100, 0.0, config, sequential=False) == 5
    sharing = loads.sharing(config, 1.0, timed=False)
    assert (sharing.clips, sharing.windows, sharing.whole_hours, sharing.cut_hours) == (1, 5, None, None)


def test_a_plan_counts_and_writes_nothing(clips: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    plan = plan_job(job(tmp_path))
    assert (plan.clips, plan.to_do, plan.done) == (3, 3, 0)
    assert plan.frames == 120
    assert plan.hours == pytest.approx(4 / 3600)
    assert plan.unreadable == {"unreadable_video": 1}
    assert [item.clip_id.split("-")[0] for item in plan.listed] == ["c"]
    assert plan.estimate.output_bytes > 0
    assert plan.estimate.actor_hours is not None
    assert tree(tmp_path) == before
    json.dumps(plan.as_json())


def test_ranges_and_sampling_count(clips: Path, tmp_path: Path) -> None:
    rows = [
        {"uri": str(clips / "a"), "clip_id": "half", "start_s": 1},
        {"uri": str(clips / "a"), "clip_id": "sampled", "fps": 10},
        {"uri": str(clips / "a"), "clip_id": "beyond", "start_s": 5},
        {"uri": str(clips / "a"), "clip_id": "faster", "fps": 500},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plan = plan_job(job(tmp_path, manifest="m.jsonl"))
    assert plan.frames == 30 + 20 + 60
    assert plan.unreadable == {"empty_range": 1}


def test_a_sample_is_scaled_up(tmp_path: Path) -> None:
    for i in range(10):
        frames_folder(tmp_path / f"clips/{i}", frames=10)
    plan = plan_job(job(tmp_path), sample=3)
    assert (plan.sampled, plan.to_do, plan.frames) == (3, 10, 100)
    assert plan_job(job(tmp_path), sample=10).sampled is None


def test_finished_and_failed_clips_are_not_probed_again(clips: Path, tmp_path: Path) -> None:
    config = job(tmp_path)
    manifest = read_manifest(config.manifest, config)
    store = RunStore(config.output)
    store.create_or_open(fingerprint(config, manifest), config.model_dump(mode="json"), manifest)
    a, _, c = manifest
    writer = AnnotationWriter(tmp_path / "a.parquet", a.clip_id, {})
    writer.write(FrameAnnotations(0, 0, 0.0, 16, 32))
    writer.finish()
    assert store.commit(a.clip_id, tmp_path / "a.parquet")
    store.record_failure(Failure(c.clip_id, Reason.UNREADABLE_VIDEO, "no video", final=True))
    (clips / "a/0.png").unlink()

    plan = plan_job(config)
    assert (plan.done, plan.settled, plan.to_do) == (1, {"unreadable_video": 1}, 1)
    assert (plan.frames, plan.unreadable) == (60, {})
    assert plan.refusals == ()

    (refusal,) = plan_job(job(tmp_path, "tracking.new_det_thresh=0.9")).refusals
    assert "tracking.new_det_thresh" in refusal


INFO = VideoInfo(32, 16, Fraction(30), 2.0, 60, Fraction(1, 30), "png")


def hostile_probe(uri: str, limits: VideoConfig, storage_options: Mapping[str, Any]) -> VideoInfo | ClipError:
    """Runs in another process: dies of one video, hangs on another."""
    if uri == "crash":
        os.kill(os.getpid(), 11)
    if uri == "hang":
        time.sleep(3600)
    return INFO


def test_a_video_that_crashes_the_decoder_is_blamed_alone() -> None:
    uris = [f"v{i}" for i in range(150)]
    uris.insert(70, "crash")
    facts = probe_all(uris, VideoConfig(), {}, probe=hostile_probe, processes=2)
    assert set(facts) == set(uris)
    assert [uri for uri, fact in facts.items() if isinstance(fact, ClipError)] == ["crash"]
    assert isinstance(facts["crash"], ClipError)
    assert facts["crash"].reason is Reason.UNREADABLE_VIDEO


def test_a_video_on_which_the_decoder_hangs_is_blamed_alone() -> None:
    facts = probe_all(["a", "hang", "b"], VideoConfig(), {}, probe=hostile_probe, processes=1, hang_s=2)
    assert [uri for uri, fact in facts.items() if isinstance(fact, ClipError)] == ["hang"]
    assert isinstance(facts["hang"], ClipError)
    assert facts["hang"].reason is Reason.OVER_LIMITS


def test_remote_videos_are_probed_without_being_fetched(s3_place: Any, tmp_path: Path) -> None:
    import fsspec

    from tests.planning.small_video import write_video

    path = write_video(tmp_path / "v.mp4", frames=24, fps=12, padding=3_000_000)
    fs, root = fsspec.core.url_to_fs(s3_place.uri, **s3_place.options)
    fs.put_file(str(path), f"{root}/v.mp4")
    uri = f"{s3_place.uri}/v.mp4"
    small_cache = VideoConfig(cache_bytes=1)  # fetching would fail
    facts = probe_all([uri, f"{s3_place.uri}/none.mp4"], small_cache, s3_place.options)
    assert isinstance(facts[uri], VideoInfo)
    assert (facts[uri].frame_count, facts[uri].width, facts[uri].height) == (24, 64, 48)
    missing = facts[f"{s3_place.uri}/none.mp4"]
    assert isinstance(missing, ClipError)
    assert missing.reason is Reason.NOT_FOUND


def eats_memory(uri: str, limits: VideoConfig, storage_options: Mapping[str, Any]) -> VideoInfo | ClipError:
    """A stand-in for a probe: the demuxer of one video asks for more than there may be, and others meet the end."""
    wanted = 40 * 2**30 if uri == "bomb" else 2**20
    try:
        len(bytearray(wanted))
    except MemoryError:
        return ClipError(Reason.OVER_LIMITS, "it needs more memory than is available", uri)
    return INFO


def test_a_video_that_asks_for_all_the_memory_is_over_the_limits() -> None:
    found = probe_all(["a", "bomb", "b"], VideoConfig(), {}, probe=eats_memory, processes=1)
    assert (found["a"], found["b"]) == (INFO, INFO)
    assert isinstance(found["bomb"], ClipError)
    assert found["bomb"].reason is Reason.OVER_LIMITS
