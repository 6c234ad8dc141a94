"""The values that readers of public datasets yield, and their shared checks. The files are untrusted."""

from __future__ import annotations

import configparser
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from sam3ray.guard.jsontext import parse_json
from sam3ray.masks import EncodedMask, MaskRuns, check_size, encode_masks, rle_area, rle_bbox
from sam3ray.store.storage import Storage
from sam3ray.values.annotations import ObjectAnnotation

MAX_JSON_BYTES = 2**31
MAX_PNG_PIXELS = 2**26
MAX_OBJECTS = 2000  # on a frame
MAX_FRAME = 10_000_000
IGNORED = 0.0  # visibility of a region where predictions count neither as right nor as wrong
_AT_ONCE = 32


@dataclass(frozen=True)
class TrueClip:
    """One sequence of a dataset.

    Attributes:
        frame_index: the labelled frames in the source video, ascending.
        prompts: the dataset's phrases, including those without an object.
        frames: the objects of each labelled frame, in the same order; read once.
        fps: labelled frames per second, if the dataset states it.
    """

    name: str
    height: int
    width: int
    frame_index: tuple[int, ...]
    prompts: tuple[str, ...]
    frames: Iterable[Sequence[ObjectAnnotation]]
    fps: float | None = None


Found = tuple[str, Callable[[], TrueClip]]
"""The name of a sequence, and a function that reads it and raises ValueError if its files are damaged."""


@dataclass(frozen=True)
class Reading:
    """How a dataset is read.

    Attributes:
        storage: the folder of the dataset.
        file: the file in it, if one was named.
        label: the label of all objects, if the format has no labels.
        numbered: whether the number in a frame's file name is its index in the source; else its index is its place in
            the list.
    """

    storage: Storage
    file: str | None
    label: str
    numbered: bool

    def json(self, path: str) -> Mapping[str, Any]:
        data = self.storage.read(path)
        if data is None:
            raise ValueError(f"{path} is missing")
        try:
            value = parse_json(data, MAX_JSON_BYTES)
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from None
        if not isinstance(value, Mapping):
            raise ValueError(f"{path} is not a JSON object")
        return value

    def text(self, path: str) -> str | None:
        data = self.storage.read(path)
        if data is None:
            return None
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{path} is not text in UTF-8") from None

    def ini(self, path: str) -> Mapping[str, str]:
        """The first section of an INI file; empty if there is none."""
        text = self.text(path)
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read_string(text or "")
        except configparser.Error as error:
            raise ValueError(f"{path} is not an INI file: {str(error).splitlines()[0]}") from None
        return dict(parser[parser.sections()[0]]) if parser.sections() else {}

    def pixels(self, path: str) -> np.ndarray:
        """The numbers in a PNG with a palette, 8 or 16 bits."""
        data = self.storage.read(path)
        if data is None:
            raise ValueError(f"{path} is missing")
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                if image.width * image.height > MAX_PNG_PIXELS:
                    raise ValueError(f"{path} has {image.width}x{image.height} pixels; allowed: {MAX_PNG_PIXELS}")
                if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
                    raise ValueError(f"{path}: its pixels are colours ({image.mode}), not numbers of objects")
                return np.asarray(image).astype(np.int32)
        except (OSError, SyntaxError, Image.DecompressionBombError):
            raise ValueError(f"{path} is not a PNG") from None

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, sorted."""
        return sorted(name for name in self.storage.names(folder) if "." not in name)

    def files(self, folder: str, suffix: str) -> list[str]:
        """Names of the files of a kind in a folder, sorted."""
        return sorted(name for name in self.storage.names(folder) if name.endswith(suffix))

    def exported_frames(self, name: str, count: int) -> tuple[int, ...] | None:
        """The frames of a sequence that sam3ray has exported, from the export's own record; None for other datasets."""
        path = f"sam3ray/{name}.json"
        data = self.storage.read(path)
        if data is None:
            return None
        about = self.json(path)
        return frame_numbers(about.get("frame_index"), count, path)

    def indices(self, name: str, files: Sequence[str]) -> tuple[int, ...]:
        """Frame indices in the source of a sequence's images, in their order."""
        known = self.exported_frames(name, len(files))
        if known is not None:
            return known
        if not self.numbered:
            return tuple(range(len(files)))
        numbers = []
        for file in files:
            found = re.search(r"(\d{1,9})\D*$", file.rpartition("/")[2].rpartition(".")[0])
            if found is None:
                raise ValueError(f"the image {file!r} has no number in its name; import with frames counted by place")
            numbers.append(int(found[1]))
        return frame_numbers(numbers, len(files), f"the images of {name}")


def frame_numbers(value: Any, count: int, where: str) -> tuple[int, ...]:
    """`count` frame indices, ascending."""
    if (
        not isinstance(value, Sequence)
        or len(value) != count
        or not all(type(n) is int and 0 <= n < MAX_FRAME for n in value)
        or any(a >= b for a, b in pairwise(value))
    ):
        raise ValueError(f"{where}: its frame numbers are not {count} ascending whole numbers from 0")
    return tuple(value)


def items(value: Mapping[str, Any], key: str, path: str) -> list[Mapping[str, Any]]:
    """A list of JSON objects."""
    found = value.get(key)
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise ValueError(f"{path}: {key!r} is not a list of objects")
    return found


def whole(value: Any, least: int, most: int, what: str) -> int:
    """A whole number; a float without a fraction is also accepted."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{what} is {value!r:.60}; allowed: whole numbers from {least} to {most}")
    return value


def phrase(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 200:
        raise ValueError(f"{what} is {value!r:.60}; allowed: text of 1 to 200 characters")
    return value


def size_of(value: Mapping[str, Any], where: str, names: tuple[str, str] = ("height", "width")) -> tuple[int, int]:
    height, width = (whole(value.get(name), 1, 2**31 - 1, f"{where}: {name}") for name in names)
    check_size(height, width)
    return height, width


def read_mask(value: Any, size: tuple[int, int], where: str) -> EncodedMask | None:
    """A mask in run lengths, compressed or not; None if it is missing or empty."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or list(value.get("size") or ()) != list(size):
        raise ValueError(f"{where}: no mask of {size[1]}x{size[0]} pixels")
    counts = value.get("counts")
    if isinstance(counts, list):
        if not all(type(n) is int and 0 <= n < 2**31 for n in counts) or sum(counts) != size[0] * size[1]:
            raise ValueError(f"{where}: its run lengths do not add up to {size[1]}x{size[0]} pixels")
        counts = MaskRuns.of_counts(np.array(counts, np.int64), *size).encoded().rle
    if not isinstance(counts, str):
        raise ValueError(f"{where}: its run lengths are neither text nor a list")
    return of_rle(counts, size, where)


def of_rle(rle: str, size: tuple[int, int], where: str) -> EncodedMask | None:
    """The mask of an RLE; None if it is empty."""
    try:
        area = rle_area(rle, *size)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return EncodedMask(rle, area, rle_bbox(rle, *size)) if area else None


def true_object(object_id: int, prompt: str, mask: EncodedMask, visibility: float | None = None) -> ObjectAnnotation:
    xmin, ymin, xmax, ymax = map(float, mask.bbox)
    return ObjectAnnotation(object_id, prompt, 1.0, 1.0, (xmin, ymin, xmax, ymax), mask.area, mask.rle, visibility)


def masks_of(pixels: np.ndarray, where: str, skipped: Sequence[int] = (0,)) -> Iterator[tuple[int, EncodedMask]]:
    """The mask of every number in an image except those in `skipped`, ascending."""
    numbers = [int(n) for n in np.unique(pixels) if n not in skipped]
    if len(numbers) > MAX_OBJECTS:
        raise ValueError(f"{where} has {len(numbers)} objects; allowed: {MAX_OBJECTS}")
    for first in range(0, len(numbers), _AT_ONCE):
        some = numbers[first : first + _AT_ONCE]
        yield from zip(some, encode_masks(pixels[None] == np.array(some)[:, None, None]), strict=True)
