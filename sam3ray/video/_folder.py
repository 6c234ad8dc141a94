"""A folder of numbered JPEG, PNG or WebP frames as a video."""

from __future__ import annotations

import mmap
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sam3ray.config import VideoConfig
from sam3ray.failures import ClipError, Reason
from sam3ray.video._frame import Frame, VideoInfo
from sam3ray.video._source import check_pixels

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_FORMATS = ("JPEG", "PNG", "WEBP")
# Pillow's decoders may raise any of these for damaged data.
DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, OverflowError,
    struct.error, zlib.error,
)  # fmt: skip
_LARGE_FILE = 2**28  # bytes; frames with many pixels may have more
_MAX_SCANS = 200  # of a progressive JPEG, which usually has about ten: each scan is a pass over all pixels
_LAST_NUMBER = re.compile(r"(\d+)\D*$")


def sort_frames(names: Iterable[str], where: str) -> list[str]:
    """The image files among `names`, ordered by the last number in each name: 2.jpg before 10.jpg.

    Other files and hidden ones are ignored. An image without a number, or two with the same number, are an error,
    because their order would be a guess.
    """
    numbered: dict[int, str] = {}
    for name in sorted(names):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in SUFFIXES or name.startswith("."):
            continue
        match = _LAST_NUMBER.search(stem)
        if match is None:
            raise ClipError(Reason.UNREADABLE_VIDEO, f"the frame {name!r} has no number in its name", where)
        number = int(match[1])
        if number in numbered:
            raise ClipError(
                Reason.UNREADABLE_VIDEO, f"the frames {numbered[number]!r} and {name!r} have the same number", where
            )
        numbered[number] = name
    if not numbered:
        raise ClipError(Reason.NO_VIDEO_STREAM, "the folder has no .jpg, .jpeg, .png or .webp files", where)
    return [numbered[n] for n in sorted(numbered)]


def list_frames(folder: Path, limits: VideoConfig) -> list[Path]:
    names = sort_frames((entry.name for entry in os.scandir(folder) if entry.is_file()), folder.name)
    if len(names) > limits.max_frames:
        raise ClipError(
            Reason.OVER_LIMITS,
            f"the folder has {len(names)} frames; allowed: at most {limits.max_frames} (video.max_frames)",
            folder.name,
        )
    return [folder / name for name in names]


def probe_folder(folder: Path, limits: VideoConfig) -> VideoInfo:
    """Count the frames and measure the first. `pts` of a folder's frames is their index."""
    frames = list_frames(folder, limits)
    fps = Fraction(limits.folder_fps).limit_denominator(1001)
    with _opened(frames[0], limits) as image:
        width, height = _displayed_size(image)
        codec = (image.format or "").lower()
    return VideoInfo(
        width=width,
        height=height,
        fps=fps,
        duration_s=float(len(frames) / fps),
        frame_count=len(frames),
        time_base=1 / fps,
        codec=codec,
        size_bytes=sum(f.stat().st_size for f in frames),
    )


def read_image(path: Path, limits: VideoConfig) -> np.ndarray:
    """One frame as uint8 RGB (height, width, 3), with its EXIF orientation applied."""
    with _opened(path, limits) as image:
        turned = ImageOps.exif_transpose(image)
        if turned.mode.startswith("I"):  # 16 bits per pixel: Pillow would clip at 255 instead of scaling
            grey = (np.asarray(turned).astype(np.uint32) >> 8).astype(np.uint8)
            return np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2))
        return np.array(turned.convert("RGB"))


@contextmanager
def _opened(path: Path, limits: VideoConfig) -> Iterator[Image.Image]:
    """Opens an image and reads its header. Any error, then or later, becomes a `ClipError`."""
    where = f"{path.parent.name}/{path.name}"
    try:
        _check_size(path, limits, where)
        with Image.open(path, formats=_FORMATS) as image:
            check_pixels(image.width, image.height, limits, where)
            if image.format == "WEBP" and getattr(image, "is_animated", False):
                raise ClipError(Reason.UNREADABLE_VIDEO, "the frame is an animation, not one picture", where)
            if image.format == "JPEG":
                _check_scans(path, where)
            yield image
    except Image.DecompressionBombError as error:
        raise ClipError(Reason.OVER_LIMITS, "the frame claims more pixels than can be decoded", where) from error
    except FileNotFoundError as error:
        raise ClipError(Reason.NOT_FOUND, "the frame does not exist", where) from error
    except PermissionError as error:
        raise ClipError(Reason.PERMISSION_DENIED, "permission denied: the frame cannot be read", where) from error
    except UnidentifiedImageError as error:
        raise ClipError(Reason.UNREADABLE_VIDEO, "the frame is neither JPEG nor PNG nor WebP", where) from error
    except MemoryError as error:
        raise ClipError(Reason.OVER_LIMITS, "the frame needs more memory than is available", where) from error
    except DECODING_ERRORS as error:
        raise ClipError(Reason.UNREADABLE_VIDEO, f"the frame cannot be decoded: {error}", where) from error


def _check_size(path: Path, limits: VideoConfig, where: str) -> None:
    """Checks the size before Pillow opens the file: of a WebP, Pillow reads all and allocates memory for the canvas."""
    allowed = max(_LARGE_FILE, 16 * limits.max_pixels)
    if (size := path.stat().st_size) > allowed:
        raise ClipError(Reason.OVER_LIMITS, f"the frame has {size} bytes; allowed: at most {allowed}", where)
    with open(path, "rb") as file:
        head = file.read(30)
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return
    if head[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    check_pixels(width, height, limits, where)


def _check_scans(path: Path, where: str) -> None:
    """Limits the scans: a few hundred kilobytes of empty scans would keep the decoder busy for hours."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at, count = 0, 0
        while count <= _MAX_SCANS and (at := data.find(b"\xff\xda", at)) >= 0:
            at, count = at + 2, count + 1
    if count > _MAX_SCANS:
        raise ClipError(Reason.OVER_LIMITS, f"the frame is a JPEG of more than {_MAX_SCANS} scans", where)


def folder_frame(path: Path, index: int, info: VideoInfo, limits: VideoConfig) -> Frame:
    """One frame of the folder that `info` describes; all frames must have the size of the first."""
    image = read_image(path, limits)
    if image.shape[:2] != (info.height, info.width):
        raise ClipError(
            Reason.UNREADABLE_VIDEO,
            f"frame {path.name} has {image.shape[1]}x{image.shape[0]} pixels, the first {info.width}x{info.height}",
            path.parent.name,
        )
    return Frame(index, index, float(index * info.time_base), image)


def _displayed_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(0x0112) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else (image.width, image.height)
