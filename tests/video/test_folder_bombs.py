"""Pictures of a few bytes that say they are huge, or keep a decoder busy."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.prompts._resolve import read_mask_file
from sam3ray.video import VideoReader

SIDE = 60_000


def encoded(form: str, mode: str = "RGB", **options: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).convert(mode).save(sink, form, **options)
    return sink.getvalue()


def png_chunk(name: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def huge_png() -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(10**6))) + png_chunk(b"IEND", b"")


def huge_jpeg() -> bytes:
    data = bytearray(encoded("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", SIDE, SIDE)
    return bytes(data)


def huge_webp() -> bytes:
    data = bytearray(encoded("WEBP", "RGBA", lossless=True, exif=b"Exif\0\0" + bytes(20)))
    assert data[12:16] == b"VP8X"
    data[24:30] = (16382).to_bytes(3, "little") * 2
    return bytes(data)


def jpeg_of_many_scans() -> bytes:
    data = encoded("JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 5_000 + data[-2:]


@pytest.mark.parametrize("make", [huge_png, huge_jpeg, huge_webp, jpeg_of_many_scans])
def test_frames_that_ask_for_too_much_are_over_the_limits(tmp_path: Path, make: object) -> None:
    data = make()  # type: ignore[operator]
    suffix = {0x89: "png", 0x52: "webp"}.get(data[0], "jpg")
    (tmp_path / f"1.{suffix}").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ClipError) as caught, VideoReader(tmp_path, limits=VideoConfig()) as video:
            list(video)
    assert caught.value.reason is Reason.OVER_LIMITS, caught.value


def test_masks_that_ask_for_too_much_are_over_the_limits(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(huge_png())
    with pytest.raises(ClipError) as caught:
        read_mask_file(str(tmp_path / "m.png"), {})
    assert caught.value.reason is Reason.OVER_LIMITS


def test_pictures_within_the_limits_are_read(tmp_path: Path) -> None:
    forms = (("JPEG", "jpg", {"progressive": True}), ("PNG", "png", {}), ("WEBP", "webp", {"lossless": True}))
    for form, suffix, options in forms:
        folder = tmp_path / form
        folder.mkdir()
        (folder / f"1.{suffix}").write_bytes(encoded(form, **options))
        with VideoReader(folder, limits=VideoConfig(max_pixels=256)) as video:
            assert [frame.image.shape for frame in video] == [(16, 16, 3)]
        with pytest.raises(ClipError) as caught:
            VideoReader(folder, limits=VideoConfig(max_pixels=255))
        assert caught.value.reason is Reason.OVER_LIMITS
