"""A few kilobytes that make a demuxer allocate gigabytes."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import av
import pytest

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video import VideoReader
from sam3ray.video._decode import RgbConverter
from tests.video.media import write_sound, write_video

LISTED = 2**26 - 1


def patched(data: bytes, name: bytes, offset: int, *values: int, last: bool = False) -> bytes:
    """The file with 32-bit numbers of a box changed, counted from behind its name."""
    changed = bytearray(data)
    at = data.rfind(name) if last else data.find(name)
    struct.pack_into(f">{len(values)}I", changed, at + 4 + offset, *values)
    return bytes(changed)


def bombs(folder: Path) -> dict[str, bytes]:
    plain = write_video(folder / "plain.mp4", 8).read_bytes()
    one_size = patched(plain, b"stsz", 4, 1, LISTED)
    in_one_chunk = patched(one_size, b"stsc", 12, LISTED)
    fragmented = write_video(folder / "fragmented.mp4", 24, container_options={"movflags": "frag_keyframe+empty_moov"})
    return {
        "stsz": one_size,
        "stsz and stsc": in_one_chunk,
        "all tables": patched(in_one_chunk, b"stts", 8, LISTED),
        "first fragment": patched(fragmented.read_bytes(), b"trun", 0, 1, LISTED),
        "last fragment": patched(fragmented.read_bytes(), b"trun", 0, 1, LISTED, last=True),
    }


def test_tables_that_ask_for_gigabytes_are_over_the_limits(tmp_path: Path) -> None:
    before = _peak_bytes()
    for name, data in bombs(tmp_path).items():
        path = tmp_path / "bomb.mp4"
        path.write_bytes(data)
        with pytest.raises(ClipError) as caught, VideoReader(path, limits=VideoConfig()) as video:
            list(video)
        assert caught.value.reason is Reason.OVER_LIMITS, f"{name}: {caught.value}"
    assert _peak_bytes() - before < 200 * 2**20


def _peak_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_files_that_list_what_they_have_are_read(tmp_path: Path) -> None:
    with_sound = write_video(tmp_path / "a.mov", 8, sound="pcm_s16le")
    fragmented = write_video(tmp_path / "f.mp4", 24, container_options={"movflags": "frag_keyframe+empty_moov"})
    for path, frames in ((with_sound, 8), (fragmented, 24)):
        with VideoReader(path, limits=VideoConfig(max_open_bytes=2**26)) as video:
            assert len(list(video)) == frames
    with pytest.raises(ClipError) as caught:
        VideoReader(write_sound(tmp_path / "s.m4a"))
    assert caught.value.reason is Reason.NO_VIDEO_STREAM


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    for path in (tmp_path / "fifo.mp4", Path("/dev/zero")):
        with pytest.raises(ClipError) as caught:
            VideoReader(path)
        assert caught.value.reason is Reason.UNREADABLE_VIDEO
        assert "not a regular file" in caught.value.message


def test_lengths_beyond_every_disk_are_damage(tmp_path: Path) -> None:
    matroska = bytearray(write_video(tmp_path / "a.mkv", 8).read_bytes())
    at = matroska.index(b"\x18\x53\x80\x67") + 4  # the segment, whose length takes eight bytes
    matroska[at : at + 8] = b"\x01\x7f" + b"\xff" * 6
    movie = bytearray(write_video(tmp_path / "a.mp4", 8).read_bytes())
    movie[0:0] = struct.pack(">I4sQ", 1, b"free", 2**64 - 16)
    for data in (matroska, movie):
        path = tmp_path / "damaged"
        path.write_bytes(data)
        with pytest.raises(ClipError) as caught, VideoReader(path) as video:
            list(video)
        assert caught.value.reason is Reason.UNREADABLE_VIDEO


@pytest.mark.parametrize("matrix", [3, 14, 255])
def test_colours_that_cannot_be_converted_are_a_reason(matrix: int) -> None:
    frame = av.VideoFrame(16, 16, "yuv420p")
    frame.colorspace = matrix
    with pytest.raises(ClipError) as caught:
        RgbConverter()(frame)
    assert caught.value.reason is Reason.UNREADABLE_VIDEO
