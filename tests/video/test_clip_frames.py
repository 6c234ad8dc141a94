"""Reading a clip's frames again, and from the middle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sam3ray.config import VideoConfig
from sam3ray.engine.source import position_of
from sam3ray.failures import ClipError, Reason
from sam3ray.video import ClipFrames, Frame, VideoReader
from sam3ray.video import _clip_frames as clip_frames_module
from sam3ray.video import _reader as reader_module
from tests.video.media import write_video
from tests.video.test_folder import write_frames


def same(a: list[Frame], b: list[Frame]) -> bool:
    return [(f.index, f.pts, f.time_s) for f in a] == [(f.index, f.pts, f.time_s) for f in b] and all(
        np.array_equal(x.image, y.image) for x, y in zip(a, b, strict=True)
    )


@pytest.fixture(params=["file", "folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "folder":
        return write_frames(tmp_path / "f", [f"{i}.png" for i in range(100)])
    return write_video(tmp_path / "a.mp4", 100)


@pytest.mark.parametrize("selection", [{}, {"start_s": 0.5, "end_s": 3.1, "fps": 11.0}])
def test_any_part_is_that_of_one_pass(source: Path, selection: dict[str, float]) -> None:
    with VideoReader(source, **selection) as video:  # type: ignore[arg-type]
        everything = list(video)
    clip = ClipFrames(source, **selection)  # type: ignore[arg-type]
    assert (clip.height, clip.width) == everything[0].image.shape[:2]
    middle = len(everything) * 2 // 3
    assert same(list(clip.read()), everything)
    assert same(list(clip.read(0, 5)), everything[:5])
    assert same(list(clip.read(middle)), everything[middle:])
    assert same(list(clip.read(3, 7)), everything[3:7])
    assert list(clip.read(len(everything))) == []


def test_two_readings_at_once(source: Path) -> None:
    clip = ClipFrames(source)
    pairs = list(zip(clip.read(), clip.read(10), strict=False))
    assert [(a.index, b.index) for a, b in pairs] == [(i, i + 10) for i in range(90)]


@pytest.mark.parametrize("selection", [{}, {"start_s": 2.5, "end_s": 3.5}, {"fps": 5.0}])
def test_a_position_is_found_without_decoding_where_there_is_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selection: dict[str, float]
) -> None:
    path = write_video(tmp_path / "a.mp4", 100)
    with VideoReader(path, **selection) as video:  # type: ignore[arg-type]
        indices = [frame.index for frame in video]
    clip = ClipFrames(path, **selection)  # type: ignore[arg-type]

    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    for module in (clip_frames_module, reader_module):
        monkeypatch.setattr(module, "decode", decoded)
    assert [position_of(clip, index) for index in indices] == list(range(len(indices)))
    assert position_of(clip, None) == len(indices) - 1
    assert position_of(clip, indices[-1] + 1) is None
    assert clip.frame_at(indices[3] / 25) == indices[3]


def test_the_frame_at_a_moment(tmp_path: Path) -> None:
    clip = ClipFrames(write_video(tmp_path / "a.mp4", 50), start_s=0.4)
    assert [clip.frame_at(t) for t in (0.0, 0.4, 0.419, 0.439, 0.44, 1.0, 99.0)] == [10, 10, 10, 10, 11, 25, 49]


def test_of_a_sampled_clip_the_nearest_frame_is_meant(tmp_path: Path) -> None:
    clip = ClipFrames(write_video(tmp_path / "a.mp4", 50), start_s=0.4, fps=5.0)
    assert [clip.frame_at(t) for t in (0.0, 0.4, 0.49, 0.51, 0.6, 1.0, 99.0)] == [10, 10, 10, 15, 15, 25, 45]


def test_an_empty_range_is_one_here_too(source: Path) -> None:
    with pytest.raises(ClipError) as caught:
        ClipFrames(source, start_s=50.0).frame_at(0)
    assert caught.value.reason is Reason.EMPTY_RANGE


def test_a_clip_that_turns_out_too_long_is_so_wherever_it_is_read_from(tmp_path: Path) -> None:
    """A resumed clip fails where one that nothing disturbed does."""
    path = tmp_path / "no_length.ts"
    path.write_bytes(write_video(tmp_path / "a.ts", 25).read_bytes() * 2)
    limits = VideoConfig(max_duration_s=1.5)
    with pytest.raises(ClipError) as whole, VideoReader(path, limits=limits) as video:
        list(video)
    with pytest.raises(ClipError) as part:
        list(ClipFrames(path, limits=limits).read(30, 32))
    assert (part.value.reason, str(part.value)) == (whole.value.reason, str(whole.value))
