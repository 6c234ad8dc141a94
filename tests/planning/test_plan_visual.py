"""Visual prompts against their videos: what is refused before anything starts, and what is left to the job."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sam3ray.config import JobConfig, config_from_text
from sam3ray.failures import ClipError, Reason, UserError
from sam3ray.manifest import Clip, read_manifest
from sam3ray.planning import check_visual_prompts, plan_job
from sam3ray.planning._visual import mask_sizes, prompt_problems
from sam3ray.prompts import MaskPrompt, PointPrompt
from sam3ray.video import VideoInfo
from tests.planning.test_plan import frames_folder
from tests.video.media import write_video

INFO = VideoInfo(32, 16, Fraction(30), 2.0, 60, Fraction(1, 30), "png")


def job(folder: Path, *overrides: str) -> JobConfig:
    text = f"{{manifest: {folder}/m.jsonl, output: {folder}/out, prompts: [x], video: {{folder_fps: 30}}}}"
    return config_from_text(text, "job.yaml", overrides)


def clicked(uri: Path | str, *frames: int, **selection: Any) -> Clip:
    clicks = tuple(PointPrompt(((1, 1),), (True,), frame, 1) for frame in frames)
    return Clip("c", str(uri), visual_prompts=clicks, **selection)


def problems_of(clip: Clip, info: VideoInfo = INFO, *overrides: str) -> list[str]:
    return prompt_problems(clip, info, job(Path("/nowhere"), *overrides), {})


def test_only_clips_with_prompts_are_looked_at(tmp_path: Path) -> None:
    point = {"object_id": 1, "units": "pixels", "points": [[40, 2]]}
    folder = frames_folder(tmp_path / "a")
    (tmp_path / "c.mp4").write_text("no video")
    rows = [
        {"uri": str(folder), "clip_id": "a", "visual_prompts": [{**point, "frame": 0}, {**point, "frame": 60}]},
        {"uri": str(tmp_path / "c.mp4"), "clip_id": "c", "visual_prompts": [{**point, "frame": 0}]},
        {"uri": str(tmp_path / "never/read"), "clip_id": "text"},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = job(tmp_path)
    with pytest.raises(UserError) as caught:
        check_visual_prompts(read_manifest(config.manifest, config), config)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["clip a", "clip a"]
    with pytest.raises(UserError):
        plan_job(config)


@pytest.mark.parametrize("says", [5, None])
def test_a_prompt_is_not_refused_because_headers_lie(tmp_path: Path, says: int | None) -> None:
    lie = replace(INFO, frame_count=says, duration_s=None)
    folder = frames_folder(tmp_path / "a")
    assert problems_of(clicked(folder, 59), lie) == []
    assert "has 60 frames" in problems_of(clicked(folder, 60), lie)[0]


def test_a_remote_video_is_not_fetched_to_count_its_frames() -> None:
    """Near the end of what its headers tell, the worker will see."""
    remote = replace(INFO, frame_count=58)
    assert problems_of(clicked("s3://bucket/v.mp4", 61), remote) == []
    assert problems_of(clicked("s3://bucket/v.mp4", 62), remote) != []
    assert problems_of(clicked("s3://bucket/v.mp4", 59, fps=1.0)) == []


def test_frames_that_range_or_sampling_leave_out(tmp_path: Path) -> None:
    folder = frames_folder(tmp_path / "a")
    assert problems_of(clicked(folder, 15, 29, start_s=0.5, end_s=1.0)) == []
    before, behind = problems_of(clicked(folder, 14, 30, start_s=0.5, end_s=1.0))
    assert "on frame 14" in before
    assert "nearest that is read is 15; allowed: one of the 15 from 15 to 29" in before
    assert "nearest that is read is 29" in behind
    assert problems_of(clicked(folder, 6, fps=5.0)) == []
    assert "nearest that is read is 6" in problems_of(clicked(folder, 7, fps=5.0))[0]
    assert "nearest that is read is 6" in problems_of(clicked(folder, 7), INFO, "video.fps=5")[0]


def test_a_frame_is_not_refused_because_the_rate_varies(tmp_path: Path) -> None:
    """By the mean rate frame 9 would lie at 0.95 s."""
    times = [*range(0, 100, 10), *range(1000, 2000, 100)]
    video = write_video(tmp_path / "v.mp4", 20, pts=times)
    info = VideoInfo(64, 48, Fraction(10), 2.0, 20, Fraction(1, 1000), "h264")
    assert problems_of(clicked(video, 9, end_s=0.5), info) == []
    assert "to 9, or time_s" in problems_of(clicked(video, 10, end_s=0.5), info)[0]


def test_mask_files_are_read_before_anything_starts(tmp_path: Path) -> None:
    for name, size in (("good", (32, 16)), ("small", (16, 16))):
        Image.fromarray(np.full(size[::-1], 255, np.uint8)).save(tmp_path / f"{name}.png")
    names = ("good.png", "small.png", "none.png")
    masks = tuple(MaskPrompt("", 0, 0, 0, i, png=str(tmp_path / name)) for i, name in enumerate(names, start=1))
    clip = Clip("c", "v.mp4", visual_prompts=masks)
    none, small = prompt_problems(clip, INFO, job(tmp_path), mask_sizes([clip], {}))
    assert "the mask of object 2 on frame 0: the mask has 16x16 pixels" in small
    assert "none.png cannot be read: there is no such file" in none


def test_a_store_that_fails_is_no_mistake_of_the_prompts() -> None:
    clip = Clip("c", "v.mp4", visual_prompts=(MaskPrompt("", 0, 0, 0, 1, png="s3://b/m.png"),))
    failed = {"s3://b/m.png": ClipError(Reason.STORAGE, "the store did not answer in time")}
    assert prompt_problems(clip, INFO, job(Path("/nowhere")), failed) == []


def test_an_object_cannot_start_with_what_it_is_not() -> None:
    clicks = [PointPrompt(((1, 1),), (shown,), frame, 1) for frame, shown in ((0, True), (9, False))]
    clip = Clip("c", "s3://b/v.mp4", visual_prompts=tuple(clicks))
    assert problems_of(clip) == problems_of(clip, INFO, "tracking.direction=both") == []
    (problem,) = problems_of(clip, INFO, "tracking.direction=backward")
    assert "object 1 starts on frame 9 (direction backward) with negative clicks only" in problem
    mixed = Clip("c", "s3://b/v.mp4", visual_prompts=(replace(clicks[0], frame_index=-1, time_s=0.0), clicks[1]))
    assert problems_of(mixed, INFO, "tracking.direction=backward") == []  # which is later, the worker will see
