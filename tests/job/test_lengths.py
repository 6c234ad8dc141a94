from __future__ import annotations

from pathlib import Path

import pytest

from sam3ray.config import JobConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.job import lengths
from sam3ray.job.lengths import BYTES_PER_S, lengths_of
from sam3ray.manifest import Clip

CONFIG = JobConfig(manifest="m.csv", output="out", prompts=("a",))


def test_ranges_files_folders_and_the_unknown(tmp_path: Path) -> None:
    video, frames = tmp_path / "a.mp4", tmp_path / "frames"
    video.write_bytes(b"x" * BYTES_PER_S)
    frames.mkdir()
    for number in range(60):
        (frames / f"{number}.png").touch()
    clips = [
        Clip("range", str(video), start_s=5.0, end_s=12.0),
        Clip("whole", str(video)),
        Clip("folder", str(frames)),
        Clip("missing", str(tmp_path / "nowhere.mp4")),
        Clip("sampled", str(video), fps=3.0, end_s=100.0),
    ]
    assert lengths_of(clips, CONFIG) == pytest.approx([7.0, 1.0, 2.0, 7.0, 10.0])


def test_remote_sizes_are_asked_for_once_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def size(uri: str, *_: object) -> int:
        asked.append(uri)
        if "bad" in uri:
            raise ClipError(Reason.NOT_FOUND, "no such key")
        return 3 * BYTES_PER_S

    monkeypatch.setattr(lengths, "video_size", size)
    clips = [Clip("a", "s3://b/a.mp4"), Clip("b", "s3://b/a.mp4"), Clip("c", "s3://b/bad.mp4")]
    assert lengths_of(clips, CONFIG) == [3.0, 3.0, 3.0]
    assert sorted(asked) == ["s3://b/a.mp4", "s3://b/bad.mp4"]
    asked.clear()
    monkeypatch.setattr(lengths, "BUDGET_S", -1.0)
    assert lengths_of(clips, CONFIG) == [0.0, 0.0, 0.0]
    assert asked == []
