"""Which frames count: those that the truth speaks of and the run has looked at."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from sam3ray.evaluate._frames import compared_frames
from sam3ray.video import VideoReader, VideoWriter

NOTHING: set[int] = set()


def test_without_a_number_of_frames_those_that_have_rows_are_compared():
    assert compared_frames({}, {}, {0, 5, 10}, {1, 2}) == [0, 5, 10]


def test_with_it_all_are():
    assert compared_frames({"frames": 4}, {}, {1}, NOTHING) == [0, 1, 2, 3]


def test_a_truth_of_every_fifth_frame_is_not_taken_for_the_first_ones():
    assert compared_frames({"frames": 3}, {}, {0, 5, 10}, NOTHING) == [0, 5, 10]
    said = {"frames": 3, "fps": 5.0, "source_fps": 25.0}
    assert compared_frames(said, {}, {0}, {11}) == [0, 5, 10]  # nothing is to be found on 5 and 10


def test_the_rate_of_a_drawn_clip_is_no_sampling():
    assert compared_frames({"frames": 4, "fps": 12.0}, {"source_fps": 12.0, "fps": None}, {1}, NOTHING) == [0, 1, 2, 3]


@pytest.mark.parametrize("frames", [-1, "many", 10**12, 2.5])
def test_what_is_no_number_of_frames_is_said_to_be_none(frames):
    with pytest.raises(ValueError, match="the metadata says frames"):
        compared_frames({"frames": frames}, {}, NOTHING, NOTHING)


def test_a_frame_beyond_all_sense_fills_no_memory():
    with pytest.raises(ValueError, match="it has a frame 2147483647; allowed: below"):
        compared_frames({"frames": 1, "source_fps": 25.0, "fps": 5.0}, {}, {2**31 - 1}, NOTHING)


@pytest.mark.parametrize(
    "asked",
    [
        {"start_s": None, "end_s": None, "fps": 5.0},
        {"start_s": 0.4, "end_s": 1.2, "fps": None},
        {"start_s": 0.3, "end_s": None, "fps": 7.0},
    ],
)
def test_a_part_is_the_frames_that_were_really_read(tmp_path, asked):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 64, 48, Fraction(1001, 30000), Fraction(30000, 1001)) as writer:
        for index in range(60):
            writer.write(np.full((48, 64, 3), index, np.uint8), index)
    with VideoReader(path, **asked) as video:
        read = [frame.index for frame in video]
        facts = {"source_fps": float(video.info.fps), "time_base": str(video.info.time_base), **asked}
    assert 3 < len(read) < 60
    assert compared_frames({"frames": 60}, facts, NOTHING, NOTHING) == read
    assert compared_frames({"frames": len(read), **facts}, {}, {59}, NOTHING) == sorted({*read, 59})
