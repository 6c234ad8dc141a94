"""Masks as COCO run lengths: encode, decode, and measure without touching pixels twice.

A mask of (height, width) is read column by column into alternating run lengths, background first. The
compressed form writes each length (from the fourth on, its difference to the one two places before) in
groups of five bits, lowest first, as the characters "0" to "o"; 0x20 marks a group that is continued.
The format is pycocotools' (`maskApi.c`, rleToString and rleFrString); output is identical, byte for byte.

Two encoders find the places where a mask changes, in column-major order, and share the rest. On the host, only the
rectangle around each mask is read, column by column. On a device, one `nonzero` over the changes of all masks finds
every run, so that a few kilobytes of run starts are copied to the host instead of every pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 2**31 - 1  # larger masks overflow the 32-bit run lengths and areas of every COCO reader
_DEVICE_CHUNK = 2**28  # mask pixels handled at once on a device: bounds its memory, and nonzero's 32-bit index
_MAX_GROUPS = 7  # 35 bits: more than any difference of two 32-bit run lengths


@dataclass(frozen=True, slots=True)
class EncodedMask:
    """One mask.

    Attributes:
        rle: COCO compressed run lengths.
        area: number of pixels; 0 for an empty mask.
        bbox: (xmin, ymin, xmax, ymax) in pixels, max exclusive, tight; all zero for an empty mask.
    """

    rle: str
    area: int
    bbox: tuple[int, int, int, int]


def encode_masks(masks: np.ndarray | torch.Tensor) -> list[EncodedMask]:
    """Encodes masks of one size.

    Args:
        masks: (n, height, width), bool or uint8 (non-zero is foreground): a numpy array of any memory
            order or a torch tensor on any device.

    Returns:
        n masks, in order.

    Raises:
        ValueError: wrong shape or dtype, no pixels, or more than 2**31 - 1 of them.
    """
    if not isinstance(masks, np.ndarray):
        if masks.device.type != "cpu":
            return _encode_on_device(masks)
        masks = masks.detach().numpy()
    if masks.dtype not in (np.bool_, np.uint8):
        raise ValueError(f"masks must be bool or uint8, got {masks.dtype}")
    _check_shape(masks.shape)
    n, height, width = masks.shape
    changes = [_changes(mask, height) for mask in masks]
    starts = [each + i * height * width for i, each in enumerate(changes)]
    return _from_starts(np.concatenate(starts), n, height, width) if n else []


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise ValueError(f"masks must have the shape (n, height, width), got {tuple(shape)}")
    check_size(int(shape[1]), int(shape[2]))


def check_size(height: int, width: int) -> None:
    """Raises ValueError unless a mask of this size can be written as COCO run lengths."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"a mask must have 1 to {MAX_PIXELS} pixels, got height {height} and width {width}")


def encode_crop(crop: np.ndarray, top: int, left: int, height: int, width: int) -> EncodedMask:
    """Encodes a mask of (height, width) that is background outside a bool crop with its corner at (top, left)."""
    check_size(height, width)
    return _from_starts(_changes_of_crop(crop, top, left, height, width), 1, height, width)[0]


def _changes(mask: np.ndarray, height: int) -> np.ndarray:
    """Column-major positions (int64) at which a mask of (height, width) differs from the pixel before."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return np.zeros(0, np.int64)
    top, left = int(rows[0]), int(columns[0])
    return _changes_of_crop(mask[top : rows[-1] + 1, left : columns[-1] + 1], top, left, height, mask.shape[1])


def _changes_of_crop(crop: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """The same for a mask that is background outside a rectangle."""
    rows, columns = crop.shape
    # A column of background pixels below the rectangle keeps the runs of neighbouring columns apart.
    padded = np.zeros((columns, rows + 1), np.bool_)
    padded[:, :rows] = crop.T if crop.dtype == np.bool_ else crop.T != 0
    flat = padded.reshape(-1)
    changes = (flat[1:] != flat[:-1]).nonzero()[0] + 1
    if flat.size and flat[0]:
        changes = np.concatenate(([0], changes))
    x, y = np.divmod(changes, rows + 1)
    places = (left + x) * height + top + y
    # If the rectangle is as high as the frame, a run may continue from the foot of a column to the head of the next.
    split = (places[1:] == places[:-1]).nonzero()[0]
    if len(split):
        places = np.delete(places, np.concatenate((split, split + 1)))
    return places[places < height * width]


def _encode_on_device(masks: torch.Tensor) -> list[EncodedMask]:
    """One `nonzero` over the column-major changes of all masks, one copy to the host."""
    import torch

    if masks.dtype not in (torch.bool, torch.uint8):
        raise ValueError(f"masks must be bool or uint8, got {masks.dtype}")
    _check_shape(tuple(masks.shape))
    n, height, width = masks.shape
    pixels = height * width
    step = max(1, _DEVICE_CHUNK // pixels)
    encoded: list[EncodedMask] = []
    for first in range(0, n, step):
        columns = masks[first : first + step].transpose(1, 2).reshape(-1, pixels)
        columns = columns if columns.dtype == torch.bool else columns != 0
        changes = torch.empty_like(columns, memory_format=torch.contiguous_format)
        changes[:, 0] = columns[:, 0]
        torch.logical_xor(columns[:, 1:], columns[:, :-1], out=changes[:, 1:])
        starts = changes.view(-1).nonzero().view(-1).cpu().numpy()
        encoded += _from_starts(starts, len(columns), height, width)
    return encoded


def _from_starts(starts: np.ndarray, n: int, height: int, width: int) -> list[EncodedMask]:
    """Makes masks from the starts of their runs.

    Args:
        starts: int64, ascending: mask * height * width + the column-major position of a pixel that differs
            from the one before it (the pixel before a mask's first is background).
    """
    pixels = height * width
    owner, position = np.divmod(starts, pixels)
    per_mask = np.bincount(owner, minlength=n)
    ends = np.cumsum(per_mask + 1)  # each mask has one more run than it has changes
    run_offsets = np.concatenate(([0], ends))
    # Run boundaries of all masks in sequence: the changes, and each mask's end after its last change.
    bounds = np.full(int(run_offsets[-1]), pixels, dtype=np.int64)
    bounds[np.arange(len(starts)) + owner] = position
    begins = np.empty_like(bounds)
    begins[1:] = bounds[:-1]
    begins[run_offsets[:-1]] = 0
    counts = bounds - begins
    areas, boxes = measure_runs(counts, run_offsets, height)
    text, text_offsets = _write_runs(counts, run_offsets)
    return [
        EncodedMask(text[text_offsets[i] : text_offsets[i + 1]], int(areas[i]), tuple(boxes[i].tolist()))
        for i in range(n)
    ]


def measure_runs(
    counts: np.ndarray, run_offsets: np.ndarray, heights: int | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Areas and tight boxes of many masks from their run lengths.

    Args:
        counts: int64, the run lengths of all masks in a row.
        run_offsets: n + 1 indices into `counts`; mask i owns `counts[run_offsets[i]:run_offsets[i + 1]]`.
        heights: of the masks, one for all or one each.

    Returns:
        int64 areas (n,) and int64 boxes (n, 4): xmin, ymin, xmax, ymax, max exclusive, zero where empty.
    """
    n = len(run_offsets) - 1
    per_mask = np.diff(run_offsets)
    owner = np.repeat(np.arange(n), per_mask)
    total = np.cumsum(counts)
    base = np.zeros(n, dtype=np.int64)
    base[1:] = total[run_offsets[1:-1] - 1]
    end = total - np.repeat(base, per_mask)
    foreground = ((np.arange(len(counts)) - np.repeat(run_offsets[:-1], per_mask)) % 2 == 1) & (counts > 0)
    owner, length = owner[foreground], counts[foreground]
    last = end[foreground] - 1
    height = heights if isinstance(heights, int) else np.asarray(heights)[owner]
    x0, y0 = np.divmod(last + 1 - length, height)
    x1, y1 = np.divmod(last, height)
    across = x1 > x0  # such a run reaches the bottom of one column and the top of the next
    y0 = np.where(across, 0, y0)
    y1 = np.where(across, height - 1, y1)
    areas = np.zeros(n, dtype=np.int64)
    boxes = np.zeros((n, 4), dtype=np.int64)
    if len(owner):
        # Runs of one mask are neighbours: reduce over each stretch of equal owners.
        first = np.flatnonzero(np.concatenate(([True], owner[1:] != owner[:-1])))
        filled = owner[first]
        areas[filled] = np.add.reduceat(length, first)
        boxes[filled, 0] = np.minimum.reduceat(x0, first)
        boxes[filled, 1] = np.minimum.reduceat(y0, first)
        boxes[filled, 2] = np.maximum.reduceat(x1, first) + 1
        boxes[filled, 3] = np.maximum.reduceat(y1, first) + 1
    return areas, boxes


def _write_runs(counts: np.ndarray, run_offsets: np.ndarray) -> tuple[str, np.ndarray]:
    """Writes run lengths of many masks into one string, with the n + 1 offsets of the masks' parts."""
    place = np.arange(len(counts)) - np.repeat(run_offsets[:-1], np.diff(run_offsets))
    value = counts.copy()
    delta = np.flatnonzero(place > 2)
    value[delta] -= counts[delta - 2]
    groups = np.ones(len(value), dtype=np.int64)
    for n in range(1, _MAX_GROUPS):  # a value needs more than n groups unless it fits 5n bits, signed
        groups += (value < -(1 << (5 * n - 1))) | (value >= 1 << (5 * n - 1))
    stops = np.cumsum(groups)
    starts = stops - groups
    index = np.arange(int(stops[-1]) if len(stops) else 0) - np.repeat(starts, groups)
    chars = (np.repeat(value, groups) >> (5 * index)) & 0x1F
    chars += 0x20 * (index < np.repeat(groups, groups) - 1)
    text = (chars + 48).astype(np.uint8).tobytes().decode("ascii")
    return text, np.concatenate(([0], stops))[run_offsets]


def read_runs(chars: np.ndarray, offsets: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parses and checks many compressed RLEs at once.

    Args:
        chars: uint8, the characters of all RLEs in a row.
        offsets: n + 1 indices into `chars`.
        pixels: (n,), height * width of each mask.

    Returns:
        counts: int64 run lengths of all masks in a row. Those of a malformed mask mean nothing.
        run_offsets: n + 1 indices into `counts`.
        valid: (n,) bool: whether every character is allowed, the last number is complete, no number is
            longer than 35 bits, no run is negative and the runs sum to the mask's pixels.
    """
    n = len(offsets) - 1
    offsets = np.asarray(offsets, dtype=np.int64)
    lengths = np.diff(offsets)
    valid = lengths > 0
    char_owner = np.repeat(np.arange(n), lengths)
    codes = chars[offsets[0] : offsets[-1]].astype(np.int64) - 48
    valid[char_owner[(codes < 0) | (codes > 63)]] = False
    is_last = (codes & 0x20) == 0
    ends = offsets[1:] - 1 - offsets[0]
    some = lengths > 0
    valid[np.flatnonzero(some)[~is_last[ends[some]]]] = False
    is_last[ends[some]] = True  # keep the masks apart, whatever a malformed one contains
    stops = np.flatnonzero(is_last) + 1
    starts = np.concatenate(([0], stops[:-1])) if len(stops) else stops
    groups = stops - starts
    owner = char_owner[starts]
    valid[owner[groups > _MAX_GROUPS]] = False
    index = np.minimum(np.arange(len(codes)) - np.repeat(starts, groups), _MAX_GROUPS)
    value = np.add.reduceat((codes & 0x1F) << (5 * index), starts) if len(starts) else starts
    bits = 5 * np.minimum(groups, _MAX_GROUPS)
    value = np.where((codes[stops - 1] & 0x10) != 0, value - (np.int64(1) << bits), value)
    run_offsets = np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=n))))
    counts = _sum_every_second(value, run_offsets)
    valid[owner[(counts < 0) | (counts > MAX_PIXELS)]] = False
    totals = np.zeros(n, dtype=np.int64)
    np.add.at(totals, owner, np.clip(counts, -1, MAX_PIXELS + 1))
    valid &= totals == pixels
    return counts, run_offsets, valid


def _sum_every_second(value: np.ndarray, run_offsets: np.ndarray) -> np.ndarray:
    """Undoes the differences: from a mask's fourth number on, each adds the one two places before it."""
    counts = value.copy()
    per_mask = np.diff(run_offsets)
    place = np.arange(len(value)) - np.repeat(run_offsets[:-1], per_mask)
    for parity in (0, 1):
        chosen = np.flatnonzero((place % 2 == parity) & (place > 0))
        if not len(chosen):
            continue
        total = np.cumsum(value[chosen])
        first = np.flatnonzero(place[chosen] == (1 if parity else 2))
        before = np.concatenate(([0], total))[first]
        repeats = np.diff(np.concatenate((first, [len(chosen)])))
        counts[chosen] = total - np.repeat(before, repeats)
    return counts


def rle_counts(rle: str, height: int, width: int) -> np.ndarray:
    """Run lengths (int64, background first) of one compressed RLE.

    Raises:
        ValueError: the size is out of range, or the string is no RLE of a mask of that size.
    """
    check_size(height, width)
    chars = np.frombuffer(rle.encode("utf-8"), dtype=np.uint8)
    counts, _, valid = read_runs(chars, np.array([0, len(chars)]), np.array([height * width]))
    if not valid[0]:
        shown = rle if len(rle) <= 40 else rle[:40] + "..."
        raise ValueError(f"not the RLE of a mask of height {height} and width {width}: {shown!r}")
    return counts


def decode_rle(rle: str, height: int, width: int) -> np.ndarray:
    """The mask as a C-contiguous bool array of shape (height, width).

    Raises:
        ValueError: the size is out of range, or the string is no RLE of a mask of that size.
    """
    return MaskRuns.of_counts(rle_counts(rle, height, width), height, width).pixels()


@dataclass(frozen=True, eq=False)
class MaskRuns:
    """A mask as its foreground runs, which can be measured and compared without pixels.

    Attributes:
        height, width: of the mask, in pixels.
        starts, ends: int64, ascending: the runs [start, end) in column-major positions; none is empty, and none touches
            the next.
    """

    height: int
    width: int
    starts: np.ndarray
    ends: np.ndarray

    @classmethod
    def of_counts(cls, counts: np.ndarray, height: int, width: int) -> MaskRuns:
        """From run lengths (int64, background first, their sum height * width)."""
        ends = np.cumsum(counts)[1::2]
        starts = ends - counts[1::2]
        some = ends > starts
        starts, ends = starts[some], ends[some]
        apart = starts[1:] != ends[:-1]  # a background run of no length joins its neighbours
        if not apart.all():
            starts, ends = starts[np.concatenate(([True], apart))], ends[np.concatenate((apart, [True]))]
        return cls(height, width, starts, ends)

    @classmethod
    def of_mask(cls, mask: np.ndarray) -> MaskRuns:
        """From pixels: (height, width), bool or uint8."""
        height, width = mask.shape
        changes = _changes(mask, height)
        if len(changes) % 2:
            changes = np.concatenate((changes, [height * width]))
        return cls(height, width, changes[::2], changes[1::2])

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def area(self) -> int:
        return int((self.ends - self.starts).sum())

    @property
    def bbox(self) -> tuple[int, int, int, int]:
        """(xmin, ymin, xmax, ymax), max exclusive, tight; all zero for an empty mask."""
        if not len(self.starts):
            return 0, 0, 0, 0
        x0, y0 = np.divmod(self.starts, self.height)
        x1, y1 = np.divmod(self.ends - 1, self.height)
        low, high = (0, self.height) if (x1 > x0).any() else (int(y0.min()), int(y1.max()) + 1)
        return int(x0[0]), low, int(x1[-1]) + 1, high

    def pixels(self) -> np.ndarray:
        """bool, (height, width), C-contiguous."""
        mask = np.zeros(self.shape, np.bool_)
        x0, y0, x1, y1 = self.bbox
        if x1 > x0:
            mask[y0:y1, x0:x1] = self.crop(x0, y0, x1, y1)
        return mask

    def encoded(self) -> EncodedMask:
        """The same mask as an `EncodedMask`."""
        changes = np.stack((self.starts, self.ends), axis=1).reshape(-1)
        return _from_starts(changes[changes < self.height * self.width], 1, self.height, self.width)[0]

    def crop(self, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """The pixels of a rectangle within the mask (max exclusive): bool, (y1 - y0, x1 - x0)."""
        begin, end = x0 * self.height, x1 * self.height
        first, last = np.searchsorted(self.ends, begin, "right"), np.searchsorted(self.starts, end, "left")
        bounds = np.empty(2 * (last - first) + 2, np.int64)
        bounds[0], bounds[-1] = begin, end
        bounds[1:-1:2], bounds[2:-1:2] = self.starts[first:last], self.ends[first:last]
        lengths = np.diff(bounds.clip(begin, end))
        inside = np.zeros(len(lengths), np.bool_)
        inside[1::2] = True
        return np.repeat(inside, lengths).reshape(x1 - x0, self.height)[:, y0:y1].T

    def common(self, others: Sequence[MaskRuns]) -> np.ndarray:
        """Pixels in common with each of some masks of the same size: int64, (len(others),)."""
        if not others or not len(self.starts):
            return np.zeros(len(others), np.int64)
        before = np.concatenate(([0], np.cumsum(self.ends - self.starts)))
        bounds = np.concatenate([each for other in others for each in (other.starts, other.ends)])
        run = np.searchsorted(self.starts, bounds, "right")
        covered = before[run]  # foreground pixels of this mask before each place
        open_run = run > 0
        covered[open_run] -= np.maximum(self.ends[run[open_run] - 1] - bounds[open_run], 0)
        sizes = np.repeat([len(other.starts) for other in others], 2)
        signs = np.repeat(np.tile([-1, 1], len(others)), sizes)
        owner = np.repeat(np.repeat(np.arange(len(others)), 2), sizes)
        return np.bincount(owner, signs * covered, len(others)).astype(np.int64)


def iou_matrix(a: Sequence[MaskRuns], b: Sequence[MaskRuns]) -> np.ndarray:
    """IoU of each mask of `a` with each of `b`, all of one size: float64, (len(a), len(b)). Two empty masks have 0."""
    if not a or not b:
        return np.zeros((len(a), len(b)))
    common = np.array([each.common(b) for each in a])
    union = np.array([each.area for each in a])[:, None] + np.array([each.area for each in b]) - common
    return common / np.maximum(union, 1)


def read_rle(rle: str, height: int, width: int) -> MaskRuns:
    """The mask as its runs, to be measured and compared without pixels.

    Raises:
        ValueError: the size is out of range, or the string is no RLE of a mask of that size.
    """
    return MaskRuns.of_counts(rle_counts(rle, height, width), height, width)


def rle_area(rle: str, height: int, width: int) -> int:
    """Pixels of the mask. Raises ValueError as `rle_counts` does."""
    return int(rle_counts(rle, height, width)[1::2].sum())


def rle_bbox(rle: str, height: int, width: int) -> tuple[int, int, int, int]:
    """Tight box (xmin, ymin, xmax, ymax), max exclusive. Raises ValueError as `rle_counts` does."""
    counts = rle_counts(rle, height, width)
    _, boxes = measure_runs(counts, np.array([0, len(counts)]), height)
    xmin, ymin, xmax, ymax = boxes[0].tolist()
    return xmin, ymin, xmax, ymax
