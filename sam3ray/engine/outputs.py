"""From low-resolution logits to the final masks of a frame, at the size of the source.

Masks are resized to the source (bilinear), thresholded, and made to exclude each other: among the objects of one
prompt a pixel belongs to the one with the highest tracking score. Everything else is measured on the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from sam3ray.engine.enlarging import Region, enlarged
from sam3ray.engine.transfer import indices, mark
from sam3ray.masks import EncodedMask, decode_rle, encode_crop, encode_masks
from sam3ray.values.annotations import FrameAnnotations, ObjectAnnotation
from sam3ray.video import FrameStamp

MaskForm = Literal["rle", "array", "tensor"]

_DEVICE_PIXELS = 2**27  # resized mask pixels held at once on a device, in float32


@dataclass(frozen=True, eq=False)
class FrameResult:
    """What the model says of one frame, before anything is resized.

    Attributes:
        stamp: which frame.
        object_ids: ascending.
        prompts: for each object, its phrase or label.
        groups: objects of one group share the pixels of the frame: each goes to the best of them.
        scores: for each object, the score of the detection that started it.
        track_scores: (n,) float32, the tracker's scores on this frame, 0..1.
        masks: (n, h, w) logits on the device.
        ready: CUDA event after which `masks` may be read from another stream; None elsewhere.
        arrived: CUDA event after which `track_scores` are there; None where they are.
    """

    stamp: FrameStamp
    object_ids: Sequence[int]
    prompts: Sequence[str]
    groups: Sequence[int]
    scores: Sequence[float]
    track_scores: np.ndarray
    masks: torch.Tensor
    ready: torch.cuda.Event | None = None
    arrived: torch.cuda.Event | None = None

    @torch.inference_mode()
    def reunited(self, object_id: int, with_id: int, score: float) -> FrameResult:
        """The same, where an object goes on under the id and the score of another one, whose place here goes."""
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


@dataclass(frozen=True)
class FrameMasks:
    """The final masks of one frame; none is empty. Object ids ascend.

    Attributes:
        pixels: (n, height, width) bool, an array or a tensor, where that was asked for: then `masks` have an area and a
            box, but no run lengths.
    """

    stamp: FrameStamp
    height: int
    width: int
    object_ids: tuple[int, ...]
    prompts: tuple[str, ...]
    scores: tuple[float, ...]
    track_scores: tuple[float, ...]
    masks: tuple[EncodedMask, ...]
    pixels: Any = None

    @classmethod
    def nothing(cls, stamp: FrameStamp, height: int, width: int, form: MaskForm = "rle") -> FrameMasks:
        """A frame without objects."""
        none: Any = None
        if form != "rle":
            none = np.zeros((0, height, width), bool)
            none = torch.from_numpy(none) if form == "tensor" else none
        return cls(stamp, height, width, (), (), (), (), (), none)

    @classmethod
    def of(cls, frame: FrameAnnotations) -> FrameMasks:
        """From rows: the inverse of `annotations`."""
        objects = frame.objects
        return cls(
            FrameStamp(frame.frame_index, frame.pts, frame.time_s),
            frame.height,
            frame.width,
            object_ids=tuple(each.object_id for each in objects),
            prompts=tuple(each.prompt for each in objects),
            scores=tuple(each.score for each in objects),
            track_scores=tuple(each.track_score for each in objects),
            masks=tuple(EncodedMask(each.rle, each.area, tuple(map(int, each.bbox))) for each in objects),  # type: ignore[arg-type]
        )

    def annotations(self) -> FrameAnnotations:
        """The same as rows."""
        rows = zip(self.object_ids, self.prompts, self.scores, self.track_scores, self.masks, strict=True)
        objects = tuple(
            ObjectAnnotation(
                object_id=object_id,
                prompt=prompt,
                score=score,
                track_score=track_score,
                bbox=tuple(float(edge) for edge in mask.bbox),  # type: ignore[arg-type]
                area=mask.area,
                rle=mask.rle,
            )
            for object_id, prompt, score, track_score, mask in rows
        )
        stamp = self.stamp
        return FrameAnnotations(stamp.index, stamp.pts, stamp.time_s, self.height, self.width, objects)


def final_masks(
    result: FrameResult, shown: Sequence[int], height: int, width: int, form: MaskForm = "rle"
) -> FrameMasks:
    """Final masks of the objects at the indices `shown`."""
    on_device = result.masks.device.type != "cpu"
    if result.arrived is not None:
        result.arrived.synchronize()
    pixels: Any = None
    if form == "rle":
        encoded = (_encode_on_device if on_device else _encode_on_host)(result, shown, height, width)
    else:
        encoded, pixels = _measured(_pixels(result, shown, height, width))
    kept = [(n, place, mask) for n, (place, mask) in enumerate(zip(shown, encoded, strict=True)) if mask and mask.area]
    places = [place for _, place, _ in kept]
    if pixels is not None:
        pixels = pixels[[n for n, _, _ in kept]]
        pixels = pixels.cpu().numpy() if form == "array" else pixels
    return FrameMasks(
        stamp=result.stamp,
        height=height,
        width=width,
        object_ids=tuple(result.object_ids[place] for place in places),
        prompts=tuple(result.prompts[place] for place in places),
        scores=tuple(result.scores[place] for place in places),
        track_scores=tuple(float(result.track_scores[place]) for place in places),
        masks=tuple(mask for _, _, mask in kept),
        pixels=pixels,
    )


def _encode_on_device(result: FrameResult, shown: Sequence[int], height: int, width: int) -> list[EncodedMask | None]:
    return list(encode_masks(_pixels(result, shown, height, width))) if shown else []


def _pixels(result: FrameResult, shown: Sequence[int], height: int, width: int) -> torch.Tensor:
    """(n, height, width) bool, on the device of the masks."""
    if not shown:
        return torch.zeros((0, height, width), dtype=torch.bool, device=result.masks.device)
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
            # Of those that have a pixel, the first in rank is the one that is first to count it.
            binary[rows] = ranked & (ranked.cumsum(0, dtype=torch.int16) == 1)
    return binary


def _measured(binary: torch.Tensor) -> tuple[list[EncodedMask | None], torch.Tensor]:
    """Areas and boxes of masks (n, height, width), without run lengths; and the masks."""
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
    return measured, binary


def without_pixels(masks: FrameMasks) -> FrameMasks:
    """The same with run lengths."""
    if masks.pixels is None:
        return masks
    return replace(masks, pixels=None, masks=tuple(encode_masks(masks.pixels)) if len(masks.pixels) else ())


def with_pixels(masks: FrameMasks, form: MaskForm) -> FrameMasks:
    """The same in another form."""
    if form == "rle":
        return masks
    pixels: Any = np.zeros((len(masks.masks), masks.height, masks.width), bool)
    for n, mask in enumerate(masks.masks):
        pixels[n] = decode_rle(mask.rle, masks.height, masks.width)
    return replace(masks, pixels=torch.from_numpy(pixels) if form == "tensor" else pixels)


def merged(first: FrameMasks, second: FrameMasks | None) -> FrameMasks:
    """Both results of one frame; they have no object in common."""
    if second is None or not second.object_ids:
        return first
    if not first.object_ids:
        return second
    ids = first.object_ids + second.object_ids
    order = sorted(range(len(ids)), key=ids.__getitem__)
    columns: dict[str, Any] = {}
    for name in ("object_ids", "prompts", "scores", "track_scores", "masks"):
        values = getattr(first, name) + getattr(second, name)
        columns[name] = tuple(values[n] for n in order)
    pixels = None
    if first.pixels is not None:
        join: Any = torch.cat if isinstance(first.pixels, torch.Tensor) else np.concatenate
        pixels = join([first.pixels, second.pixels])[order]
    return replace(first, pixels=pixels, **columns)


def _by_rank(result: FrameResult, shown: Sequence[int]) -> list[int]:
    """Places in `shown` by falling tracking score; of equals the lower id first."""
    return np.argsort(-result.track_scores[np.asarray(shown, dtype=np.int64)], kind="stable").tolist()


def _encode_on_host(result: FrameResult, shown: Sequence[int], height: int, width: int) -> list[EncodedMask | None]:
    if not shown:
        return []
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
