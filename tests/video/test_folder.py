"""Folders of numbered frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video import VideoReader, probe
from tests.video.media import picture


def write_frames(folder: Path, names: list[str], size: tuple[int, int] = (40, 30)) -> Path:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        Image.fromarray(picture(i, *size)).save(folder / name, quality=95)
    return folder


def fails(folder: Path, reason: Reason, **options: object) -> str:
    with pytest.raises(ClipError) as caught, VideoReader(folder, **options) as video:  # type: ignore[arg-type]
        list(video)
    assert caught.value.reason is reason, str(caught.value)
    return caught.value.message


def test_frames_are_sorted_as_numbers(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "f", [f"shot2_{i}.png" for i in range(12)])
    (folder / "notes.txt").write_text("not a frame")
    (folder / "._shot2_3.png").write_bytes(b"left by another system")
    (folder / "nested").mkdir()
    with VideoReader(folder) as video:
        frames = list(video)
    assert [f.index for f in frames] == list(range(12))
    assert [f.pts for f in frames] == list(range(12))
    assert all(np.array_equal(f.image, picture(f.index, 40, 30)) for f in frames)
    assert video.info.frame_count == 12
    assert (video.info.width, video.info.height) == (40, 30)


def test_frames_may_be_webp(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(picture(i, 40, 30)).save(folder / f"{i}.webp", lossless=True)
    with VideoReader(folder) as video:
        assert all(np.array_equal(f.image, picture(f.index, 40, 30)) for f in video)
    pictures = [Image.fromarray(picture(i, 40, 30)) for i in range(3)]
    pictures[0].save(folder / "1.webp", save_all=True, append_images=pictures[1:])
    assert "an animation, not one picture" in fails(folder, Reason.UNREADABLE_VIDEO)


def test_time_goes_by_the_configured_rate(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "f", [f"{i}.jpg" for i in range(20)])
    limits = VideoConfig(folder_fps=10)
    with VideoReader(folder, start_s=0.5, end_s=1.5, fps=5, limits=limits) as video:
        assert [(f.index, f.time_s) for f in video] == [(5, 0.5), (7, 0.7), (9, 0.9), (11, 1.1), (13, 1.3)]
    assert probe(folder, limits).duration_s == 2.0


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    Image.fromarray(picture(0, 40, 30)).save(folder / "0.png", exif=exif)
    with VideoReader(folder) as video:
        (frame,) = video
    assert np.array_equal(frame.image, np.rot90(picture(0, 40, 30), -1))
    assert (video.info.width, video.info.height) == (30, 40)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "LA", "1"])
def test_any_kind_of_pixels_becomes_rgb(tmp_path: Path, mode: str) -> None:
    grey = np.tile(np.arange(0, 256, 4, np.uint8), (16, 1))
    folder = tmp_path / "f"
    folder.mkdir()
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "0.png")
    else:
        Image.fromarray(grey).convert(mode).save(folder / "0.png")
    with VideoReader(folder) as video:
        (frame,) = video
    assert frame.image.shape == (16, 64, 3)
    assert frame.image.dtype == np.uint8
    tolerance = 255 if mode == "1" else 0
    assert np.abs(frame.image.astype(int) - grey[..., None]).max() <= tolerance


def test_what_cannot_be_a_video(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    fails(folder, Reason.NO_VIDEO_STREAM)
    write_frames(folder, ["1.png", "01.png"])
    assert "'01.png' and '1.png' have the same number" in fails(folder, Reason.UNREADABLE_VIDEO)
    assert "'cover.png' has no number" in fails(write_frames(tmp_path / "g", ["cover.png"]), Reason.UNREADABLE_VIDEO)
    assert "3 frames; allowed: at most 2 (video.max_frames)" in fails(
        write_frames(tmp_path / "h", ["1.png", "2.png", "3.png"]), Reason.OVER_LIMITS, limits=VideoConfig(max_frames=2)
    )
    fails(tmp_path / "h", Reason.OVER_LIMITS, limits=VideoConfig(max_pixels=100))
    fails(tmp_path / "h", Reason.EMPTY_RANGE, start_s=9.0)


def test_frames_of_two_sizes(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "f", ["1.png", "2.png"])
    write_frames(folder, ["2.png"], (41, 30))
    assert "2.png has 41x30 pixels, the first 40x30" in fails(folder, Reason.UNREADABLE_VIDEO)


@pytest.mark.parametrize("at", [1, 2])
def test_a_damaged_frame_is_named(tmp_path: Path, at: int) -> None:
    folder = write_frames(tmp_path / "f", ["1.jpg", "2.jpg"], (300, 200))
    path = folder / f"{at}.jpg"
    path.write_bytes(path.read_bytes()[:1500])
    fails(folder, Reason.UNREADABLE_VIDEO)
    path.write_bytes(b"text")
    fails(folder, Reason.UNREADABLE_VIDEO)
