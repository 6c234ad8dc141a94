"""Turns low-resolution logits into a frame's final masks, at the size of the source.

Masks are resized to the source (bilinear) and thresholded. Then overlaps are removed: among the objects of one prompt,
a pixel belongs to the one with the highest track score. Everything else is measured on the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from sam3ray.engine.enlarging import Region, enlarged
from sam3ray.engine.stored import Fleeting, Stored, StoredArray
from sam3ray.engine.transfer import indices, mark
from sam3ray.masks import EncodedMask, encode_crop, encode_masks
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.video import FrameStamp

MaskForm = Literal["rle", "array", "tensor"]

_DEVICE_PIXELS = 2**27  # resized mask pixels held at once on a device, in float32


@dataclass(frozen=True, eq=False)
class FrameResult:
    """The model's output for one frame, before anything is resized.

    Attributes:
        stamp: which frame.
        object_ids: ascending.
        prompts: for each object, its phrase or label.
        groups: among objects of one group, each pixel goes to the best one.
        scores: for each object, the score of the detection that started it.
        track_scores: (n,) float32, the tracker's scores on this frame, 0..1.
        masks: (n, h, w) logits on the device.
        ready: CUDA event after which another stream may read `masks`; None without CUDA.
        arrived: CUDA event after which `track_scores` are on the host; None if they are there already.
    """

    stamp: FrameStamp
    object_ids: Sequence[int]
    prompts: Sequence[str]
    groups: Sequence[int]
    scores: Sequence[float]
    track_scores: StoredArray
    masks: Stored
    ready: Fleeting = None
    arrived: Fleeting = None

    @torch.inference_mode()
    def reunited(self, object_id: int, with_id: int, score: float) -> FrameResult:
        """The same result, with an object under the id and score of another one, which is removed here."""
        if self.arrived is not None:
            self.arrived.synchronize()
        places = [place for place, each in enumerate(self.object_ids) if each != with_id]
        ids = {place: with_id if self.object_ids[place] == object_id else self.object_ids[place] for place in places}
        places.sort(key=ids.__getitem__)
        masks = self.masks[indices(places, self.masks.device)]
        return FrameResult(
            stamp=self.stamp,
            object_ids=[ids[place] for place in places],
            prompts=[self.prompts[place] for place in places],
            groups=[self.groups[place] for place in places],
            scores=[score if ids[place] == with_id else self.scores[place] for place in places],
            track_scores=self.track_scores[places],
            masks=masks,
            ready=mark(masks.device),
        )


def final_masks(
    stamp: FrameStamp,
    parts: Iterable[tuple[FrameResult, Sequence[int]]],
    height: int,
    width: int,
    form: MaskForm = "rle",
    device: torch.device | None = None,
) -> tuple[FrameAnnotations, Any]:
    """Makes the masks of a frame's objects. Objects without a pixel are omitted.

    Args:
        parts: results of the frame, each with the places of the objects to show. No object is in two of them.
        device: of the model, for the tensor of a frame that shows nothing.

    Returns:
        The rows, and None. In other forms than run lengths: rows with only area and box, and in the same order their
        pixels, (n, height, width) bool, as an array or a tensor.
    """
    objects: list[ObjectAnnotation] = []
    pixels: list[torch.Tensor] = []
    for result, shown in parts:
        if not shown:
            continue
        if result.arrived is not None:
            result.arrived.synchronize()
        if form == "rle" and result.masks.device.type == "cpu":
            encoded = _encode_on_host(result, shown, height, width)
        elif form == "rle":
            encoded = list(encode_masks(_pixels(result, shown, height, width)))
        else:
            binary = _pixels(result, shown, height, width)
            encoded = _measured(binary)
            pixels.append(binary[[n for n, mask in enumerate(encoded) if mask]])
        objects += [_row(result, place, m) for place, m in zip(shown, encoded, strict=True) if m and m.area]
    order = sorted(range(len(objects)), key=lambda n: objects[n].object_id)
    rows = tuple(objects[n] for n in order)
    frame = FrameAnnotations(stamp.index, stamp.pts, stamp.time_s, height, width, rows)
    if form == "rle":
        return frame, None
    together = torch.cat(pixels)[order] if pixels else torch.zeros((0, height, width), dtype=torch.bool, device=device)
    return frame, together.cpu().numpy() if form == "array" else together


def _row(result: FrameResult, place: int, mask: EncodedMask) -> ObjectAnnotation:
    return ObjectAnnotation(
        object_id=result.object_ids[place],
        prompt=result.prompts[place],
        score=result.scores[place],
        track_score=float(result.track_scores[place]),
        bbox=tuple(map(float, mask.bbox)),  # type: ignore[arg-type]
        area=mask.area,
        rle=mask.rle,
    )


def _pixels(result: FrameResult, shown: Sequence[int], height: int, width: int) -> torch.Tensor:
    """(n, height, width) bool, on the device of the masks."""
    if result.ready is not None:
        result.ready.wait()
        result.masks.record_stream(torch.cuda.current_stream(result.masks.device))
    masks = result.masks[indices(shown, result.masks.device)].float().unsqueeze(1)
    step = max(1, _DEVICE_PIXELS // (height * width))
    binary = torch.cat(
        [
            F.interpolate(masks[first : first + step], (height, width), mode="bilinear").squeeze(1) > 0
            for first in range(0, len(masks), step)
        ]
    )
    groups = [result.groups[place] for place in shown]
    order = _by_rank(result, shown)
    for group in set(groups):
        members = [place for place in order if groups[place] == group]
        if len(members) > 1:
            rows = indices(members, binary.device)
            ranked = binary[rows]
            # Of the objects that have a pixel, the first in rank counts it first.
            binary[rows] = ranked & (ranked.cumsum(0, dtype=torch.int16) == 1)
    return binary


def _measured(binary: torch.Tensor) -> list[EncodedMask | None]:
    """Areas and boxes of masks (n, height, width), without run lengths; None for an empty one."""
    measured: list[EncodedMask | None] = []
    areas = binary.flatten(1).sum(1).tolist()
    rows, columns = binary.any(2).cpu().numpy(), binary.any(1).cpu().numpy()
    for n, area in enumerate(areas):
        if not area:
            measured.append(None)
            continue
        down, across = np.flatnonzero(rows[n]), np.flatnonzero(columns[n])
        box = (int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1)
        measured.append(EncodedMask("", int(area), box))
    return measured


def _by_rank(result: FrameResult, shown: Sequence[int]) -> list[int]:
    """Places in `shown` by falling tracking score; of equals the lower id first."""
    return np.argsort(-result.track_scores[np.asarray(shown, dtype=np.int64)], kind="stable").tolist()


def _encode_on_host(result: FrameResult, shown: Sequence[int], height: int, width: int) -> list[EncodedMask | None]:
    low = result.masks.float().numpy()
    regions = [enlarged(low[place], height, width) for place in shown]
    groups = [result.groups[place] for place in shown]
    better: dict[int, list[Region]] = {}
    for place in _by_rank(result, shown):
        region = regions[place]
        if region is None:
            continue
        above = better.setdefault(groups[place], [])
        for other in above:
            region.subtract(other)
        above.append(region)
    return [
        None if region is None else encode_crop(region.pixels, region.top, region.left, height, width)
        for region in regions
    ]
