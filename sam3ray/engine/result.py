"""A frame as it leaves a session."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sam3ray.display.html import facts
from sam3ray.engine.outputs import MaskForm
from sam3ray.masks import decode_rle, encode_masks
from sam3ray.values.annotations import FrameAnnotations


@dataclass(frozen=True, eq=False)
class SessionResult:
    """One frame.

    Attributes:
        frame: its objects; without run lengths if the session makes pixels.
        tentative: ids of objects that a later frame may still retract (under `live`).
        retracted: ids shown on earlier frames that turned out to be spurious, on those frames too.
    """

    frame: FrameAnnotations
    _pixels: Any = None
    tentative: frozenset[int] = frozenset()
    retracted: frozenset[int] = frozenset()

    @property
    def frame_index(self) -> int:
        """Index of the frame in the source video."""
        return self.frame.frame_index

    @property
    def time_s(self) -> float:
        return self.frame.time_s

    @property
    def shown(self) -> tuple[int, ...]:
        """Ids of the objects of this frame, ascending."""
        return tuple(each.object_id for each in self.frame.objects)

    @property
    def annotations(self) -> FrameAnnotations:
        """The frame as rows, for a session whose masks are run lengths.

        Raises:
            ValueError: they are arrays or tensors.
        """
        if self._pixels is not None:
            raise ValueError('rows hold run lengths; allowed: a session with masks="rle"')
        return self.frame

    @property
    def pixels(self) -> Any:
        """(n, height, width) bool, in the order of `shown`: an array, or a tensor on the model's device.

        Raises:
            ValueError: the session's masks are run lengths.
        """
        if self._pixels is None:
            raise ValueError('this session makes run lengths; allowed: masks="array" or masks="tensor"')
        return self._pixels

    def in_form(self, form: MaskForm) -> SessionResult:
        """The same with masks in another form."""
        frame, pixels = self.frame, self._pixels
        if pixels is not None:
            encoded = encode_masks(pixels) if len(pixels) else []
            rows = (replace(each, rle=mask.rle) for each, mask in zip(frame.objects, encoded, strict=True))
            frame, pixels = replace(frame, objects=tuple(rows)), None
        if form != "rle":
            pixels = np.zeros((len(frame.objects), frame.height, frame.width), bool)
            for mask, each in zip(pixels, frame.objects, strict=True):
                mask[:] = decode_rle(each.rle, frame.height, frame.width)
            pixels = torch.from_numpy(pixels) if form == "tensor" else pixels
        return replace(self, frame=frame, _pixels=pixels)

    def _repr_html_(self) -> str:
        """For notebooks: the masks and the objects, and which of them may be retracted."""
        said = {
            name: ", ".join(map(str, ids))
            for name, ids in (
                ("shown", self.shown),
                ("tentative", sorted(self.tentative)),
                ("retracted", sorted(self.retracted)),
            )
        }
        shown = facts(f"frame {self.frame_index}, {self.time_s:.3f} s", said)
        return shown if self._pixels is not None else self.frame._repr_html_() + shown
