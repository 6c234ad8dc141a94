"""Makes the tracker's features of a frame from the vision backbone's output.

Detector and tracker share the backbone, and each has its own neck. Here the backbone's output goes through
`Sam3VideoModel.tracker_neck`; for clicks, boxes and masks, the detector and its neck never run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Sam3VideoModel

from sam3ray.engine.capture import Captured, kept


@dataclass(frozen=True, eq=False)
class FrameFeatures:
    """The tracker's features of one frame; g is the side of the patch grid, C the hidden size.

    Attributes:
        fine: (1, C/8, 4g, 4g) and
        middle: (1, C/4, 2g, 2g), both already projected for the mask decoder.
        top: (1, g*g, C), the features that memories are attached to.
        position: (1, g*g, C), sine positions of `top`, the same for every frame.
    """

    fine: Tensor
    middle: Tensor
    top: Tensor
    position: Tensor


def sine_positions(encoding: Any, channels: int, grid: tuple[int, int], like: Tensor) -> Tensor:
    """(1, channels, *grid): a model's sine positions, computed in float32, with the dtype and device of `like`.

    transformers computes them in the model's dtype: bfloat16 shifts a position at 1008 pixels by up to 14% of a grid
    step. Meta's code uses float32.
    """
    shape = torch.Size((1, channels, *grid))
    # Cloned, because transformers' cache might drop what a CUDA graph still reads.
    return encoding(shape, like.device, torch.float32).to(like.dtype, copy=True)


def as_image(tokens: Tensor) -> Tensor:
    """(n, g*g, C) -> (n, C, g, g), a view in the layout that torch calls channels last.

    For one image, torch would take the view made by `transpose` and `unflatten` for the other layout, whose
    convolutions take 50% longer on a CPU.
    """
    side = round(tokens.shape[1] ** 0.5)
    return tokens.view(len(tokens), side, side, -1).permute(0, 3, 1, 2)


def neck_of(model: Sam3VideoModel, *, folded: bool) -> TrackerNeck:
    """The model's `TrackerNeck`. On a GPU one serves all clips."""
    neck: TrackerNeck = kept(model, ("tracker neck", folded), lambda: TrackerNeck(model, folded=folded))
    return neck


class TrackerNeck:
    """Backbone output -> the tracker's features.

    Args:
        folded: merge the last convolution of the two fine levels with the decoder's projection that follows directly:
            one convolution to few channels replaces a wide and a narrow one, for an eighth of the work. The numbers
            differ only by rounding; without it, they are those of `Sam3VideoModel.get_vision_features_for_tracker` bit
            for bit.
    """

    def __init__(self, model: Sam3VideoModel, *, folded: bool) -> None:
        self._neck: Any = model.tracker_neck
        self._grid = model.tracker_model.prompt_encoder.image_embedding_size
        decoder: Any = model.tracker_model.mask_decoder
        channels, weight = model.tracker_model.hidden_dim, model.tracker_model.no_memory_embedding
        with torch.inference_mode():
            places = sine_positions(self._neck.position_encoding, channels, self._grid, weight)
            self._position = places.flatten(2).transpose(1, 2)
        self._projections = [decoder.conv_s0, decoder.conv_s1]
        backbone: Any = model.detector_model.vision_encoder.backbone
        self._backbone = backbone
        self._sight = Captured("the vision backbone", self._see)
        self._folded: list[tuple[Tensor, Tensor]] | None = None
        if folded:
            with torch.inference_mode():
                levels = zip(self._neck.fpn_layers, self._projections, strict=False)
                self._folded = [_folded(layer.proj2, projection) for layer, projection in levels]

    @property
    def is_folded(self) -> bool:
        return self._folded is not None

    def __call__(self, hidden: Tensor) -> list[FrameFeatures]:
        """(B, g*g, width of the backbone) -> the features of B frames."""
        return self._frames(*self._levels(hidden))

    def see(self, pixels: Tensor) -> tuple[Tensor, list[FrameFeatures]]:
        """Images (B, 3, S, S) -> the backbone's output, and the features of B frames."""
        hidden, *levels = self._sight(pixels)
        return hidden, self._frames(*levels)

    def _see(self, pixels: Tensor) -> tuple[Tensor, ...]:
        hidden = self._backbone(pixels).last_hidden_state
        return hidden, *self._levels(hidden)

    def _levels(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        spatial = as_image(hidden)
        fine, middle = (self._level(level, spatial) for level in (0, 1))
        top = self._neck.fpn_layers[2](spatial)  # without the last level, which nothing reads
        return fine, middle, top.flatten(2).transpose(1, 2)

    def _frames(self, fine: Tensor, middle: Tensor, top: Tensor) -> list[FrameFeatures]:
        return [
            FrameFeatures(fine=fine[i : i + 1], middle=middle[i : i + 1], top=top[i : i + 1], position=self._position)
            for i in range(len(top))
        ]

    def _level(self, level: int, spatial: Tensor) -> Tensor:
        layer = self._neck.fpn_layers[level]
        if self._folded is None:
            return self._projections[level](layer(spatial))
        weight, bias = self._folded[level]
        for step in (*layer.scale_layers, layer.proj1):
            spatial = step(spatial)
        return F.conv2d(spatial, weight, bias, padding=layer.proj2.padding)


class Sight:
    """What the vision backbone made of the latest image. Sessions that share it send the same image through it once.

    For sessions of one model, one after another, on one frame: a click after a click.
    """

    def __init__(self) -> None:
        self._pixels: Tensor | None = None
        self._is_folded = False
        self._seen: tuple[Tensor, list[FrameFeatures]] | None = None

    def see(self, neck: TrackerNeck, pixels: Tensor) -> tuple[Tensor, list[FrameFeatures]]:
        """As `TrackerNeck.see`. Waits for the device, to compare the images."""
        if self._seen is None or self._is_folded != neck.is_folded or not _same(self._pixels, pixels):
            self._seen = neck.see(pixels)
            self._pixels, self._is_folded = pixels, neck.is_folded
        return self._seen


def _same(before: Tensor | None, now: Tensor) -> bool:
    return before is not None and before.device == now.device and torch.equal(before, now)


def _folded(wide: Any, narrow: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that is `wide`, then `narrow`, which looks at single pixels."""
    # On the host, since not every device has float64 (mps has not).
    mix = narrow.weight[:, :, 0, 0].cpu().double()
    weight = torch.einsum("om,mikl->oikl", mix, wide.weight.cpu().double())
    bias = mix @ wide.bias.cpu().double() + narrow.bias.cpu().double()
    return weight.to(wide.weight), bias.to(wide.weight)
