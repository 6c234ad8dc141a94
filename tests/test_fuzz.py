"""A sample of `make fuzz`: damaged inputs end as a value, a sentence or a reason, within time and memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.video.media import write_sound, write_video
from tools.fuzz import mutations, originals, targets
from tools.fuzz.__main__ import fuzz


def small_videos(folder: Path) -> None:
    """Fewer kinds than the tool makes for itself, which takes half a minute."""
    folder.mkdir(parents=True)
    write_video(folder / "a.mp4", 12)
    write_video(folder / "front.mp4", 12, sound="aac")
    write_video(folder / "c.webm", 12, codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"})
    write_video(folder / "d.ts", 12)
    write_video(folder / "e.avi", 12, codec="mpeg4", options={"bf": "0"})
    write_video(folder / "f.mov", 6, codec="mjpeg", pix_fmt="yuvj420p", options={"bf": "0"}, full_range=True)
    write_sound(folder / "g.m4a")


def test_damaged_videos_end_as_they_should(tmp_path: Path) -> None:
    small_videos(tmp_path / "originals" / "video")
    report = fuzz(1500, tmp_path, [], ["video"])
    assert report["findings"] == []
    endings = report["endings"]["video"]
    assert sum(endings.values()) == report["done"]["video"] == 150
    assert endings["value"] > 10  # else nothing but the headers was tried
    assert endings["unreadable_video"] > 10


@pytest.mark.parametrize("kind", ["image", "csv", "jsonl", "parquet", "yaml", "prompts"])
def test_other_damaged_inputs_end_as_they_should(tmp_path: Path, kind: str) -> None:
    data = originals.write(kind, tmp_path)
    damaged = [mutations.mutate(kind, data, seed) for seed in range(100)]
    assert damaged == [mutations.mutate(kind, data, seed) for seed in range(100)]
    assert len(set(damaged)) > 80
    endings = Counter(targets.run(kind, each, seed, tmp_path) for seed, each in enumerate(damaged))
    assert 0 < endings["value"] < 80
