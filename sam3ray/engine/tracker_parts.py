"""The tracker's modules as the engine calls them: once per frame for all objects, and captured on a GPU.

They keep nothing of a clip. On a GPU one set serves all clips of a model (`capture.kept`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Sam3VideoModel

from sam3ray.engine import packed_attention
from sam3ray.engine.capture import Captured
from sam3ray.engine.compiling import compiled
from sam3ray.engine.mask_head import HeadOutput, MaskHead, resize
from sam3ray.engine.memory import Bank, ReadRules, Reads, RuleSet
from sam3ray.engine.memory_attention import MemoryAttention
from sam3ray.engine.packed_attention import Packed, PackedAttention, summed
from sam3ray.engine.vision import FrameFeatures, sine_positions


class TrackerParts:
    """Memory attention, mask decoder and memory encoder of a checkpoint.

    Attributes:
        packed: memory attention for objects of all ages at once; None if not available.
        multimask: whether candidate masks compete when an object is tracked.
    """

    @torch.inference_mode()
    def __init__(self, model: Sam3VideoModel, rules: RuleSet, dtype: torch.dtype) -> None:
        tracker = model.tracker_model
        self.module = tracker
        self.rules = rules
        self.head = MaskHead(tracker)
        self.attention = MemoryAttention(tracker, dtype)
        self.multimask: bool = self.head.uses_multimask(0) and tracker.config.multimask_output_for_tracking
        device = tracker.no_memory_embedding.device
        width = tracker.memory_attention.layers[0].cross_attn_image.head_dim
        dense = packed_attention.possible(device, dtype, width)
        self.packed = None if dense is None else PackedAttention(self.attention, dense, compiled(model, summed))
        grid = tracker.prompt_encoder.image_embedding_size
        side = 4 * tracker.prompt_encoder.mask_input_size[0]
        self._memory_size = (side, side)
        encoding = model.tracker_neck.position_encoding
        position = sine_positions(encoding, tracker.hidden_dim, grid, tracker.no_memory_embedding)
        self._position = position.flatten(2).transpose(1, 2)
        # The first four parts of `Packed`, and all but the first argument of `_encode`, have one row per object.
        self._following = Captured("tracking", self._follow, rows=(3, 4, 5, 6))
        self._remembering = Captured("the memory encoder", self._encode, rows=(1, 2))
        self._remembering_hard = Captured("the memory encoder of prompts", self._encode_hard, rows=(1, 2))

    def follow(
        self, features: FrameFeatures, reads: Sequence[Reads], rules: ReadRules, memories: Bank, pointers: Bank
    ) -> HeadOutput:
        """Tracks every object on a frame, from what it reads of its past."""
        assert self.packed is not None
        packed = self.packed.pack(reads, rules, memories, pointers)
        frame = features.fine, features.middle, features.top
        return HeadOutput(*self._following(*frame, *packed[:4], fixed=packed[4:]))

    def _follow(self, fine: Tensor, middle: Tensor, top: Tensor, *packed: Tensor) -> tuple[Tensor, ...]:
        assert self.packed is not None
        images = self.packed(top, self._position, Packed(*packed))
        features = FrameFeatures(fine, middle, top, self._position)
        output = self.head(images, features, multimask=self.multimask)
        return output.masks, output.score_logits, output.iou_scores, output.pointers

    def remember(self, features: FrameFeatures, logits: Tensor, scores: Tensor, *, hard: bool) -> Tensor:
        """Encodes the memories (N, g*g, 64) of objects with these masks (N, H, H) and scores (N,)."""
        return (self._remembering_hard if hard else self._remembering)(features.top, logits, scores)[0]

    def _encode(self, top: Tensor, logits: Tensor, scores: Tensor, *, hard: bool = False) -> tuple[Tensor]:
        logits = logits.unsqueeze(1)
        size = self._memory_size
        fits = tuple(logits.shape[-2:]) == size
        if not fits and self.rules == "transformers":
            logits = resize(logits, size, antialias=True)
        masks = (logits > 0).to(logits.dtype) if hard else torch.sigmoid(logits)
        config, encoder = self.module.config, self.module.memory_encoder
        masks = masks * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
        if not fits and self.rules == "published":
            masks = resize(masks, size, antialias=True)
        image = self.attention.image(top)
        encoded = encoder.feature_projection(image) + self._downsampled(masks.to(self.attention.dtype))
        encoded = encoder.projection(encoder.memory_fuser(encoded))
        absent = self.module.occlusion_spatial_embedding_parameter
        if absent is not None:
            there = (scores > 0).to(encoded.dtype)[:, None, None, None]
            encoded = encoded + (1 - there) * absent[..., None, None]
        return (encoded.flatten(2).transpose(1, 2),)

    def _encode_hard(self, top: Tensor, logits: Tensor, scores: Tensor) -> tuple[Tensor]:
        return self._encode(top, logits, scores, hard=True)

    def _downsampled(self, masks: Tensor) -> Tensor:
        """The memory encoder's `mask_downsampler`."""
        downsampler: Any = self.module.memory_encoder.mask_downsampler
        if self.packed is None:
            return downsampler(masks)
        for layer in downsampler.layers:
            masks = layer.activation(normed(layer.conv(masks), layer.layer_norm))
        return downsampler.final_conv(masks)


def normed(images: Tensor, layer_norm: Any) -> Tensor:
    """(N, C, H, W), normalised over few channels. On a GPU, torch's own function would use a block of threads per
    pixel.
    """
    exact = images.float()
    variance, mean = torch.var_mean(exact, dim=1, keepdim=True, correction=0)
    scale, shift = (each.float()[:, None, None] for each in (layer_norm.weight, layer_norm.bias))
    return torch.addcmul(shift, (exact - mean) * torch.rsqrt(variance + layer_norm.eps), scale).to(images.dtype)
