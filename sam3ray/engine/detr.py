"""The detector's transformer: finds each phrase on each frame with the model's own layers, without waiting for a GPU.

transformers 5.23 (`models/sam3/modeling_sam3.py`) copies the size of the feature map to the device and reads it back in
every layer of the decoder. In encoder, decoder and mask decoder it also checks whether a mask is all true. So the host
waits for a GPU 16 times per frame. Here sizes are Python numbers, and masks have four dimensions, which transformers
uses unchecked. The numbers are the same.

Under bfloat16 weights, positions and boxes stay in float32 until a layer takes them (see `vision.sine_positions`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.sam3.modeling_sam3 import inverse_sigmoid

from sam3ray.engine.capture import Captured
from sam3ray.engine.vision import as_image, sine_positions


class DetectionTransformer:
    """Encoder, decoder and scores of a `Sam3Model` whose coarse features have the side `grid`."""

    def __init__(self, detector: Any, grid: int) -> None:
        self._model = detector
        weight = detector.detr_decoder.query_embed.weight
        self._dtype = weight.dtype
        neck = detector.vision_encoder.neck
        #: (1, C, g, g), sine positions of the coarse features
        self.positions = sine_positions(neck.position_encoding, weight.shape[1], (grid, grid), weight)
        self._steps = torch.arange(0, grid, dtype=torch.float32, device=weight.device) / grid
        self._search = Captured("the detector", self._run)

    def __call__(self, level: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """One (frame, phrase) pair per row.

        Args:
            level: (pairs, C, g, g), the coarse features of the pair's frame.
            text: (pairs, tokens, C)
            mask: (pairs, tokens) bool, False for padding.

        Returns:
            Scores (pairs, queries), the final queries (pairs, queries, C), and the encoded features that they attended
            to (pairs, g*g, C).
        """
        return self._search(level, text, mask)

    def _run(self, level: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model = self._model
        attended = mask[:, None, None, :]
        place = self.positions.expand(len(text), -1, -1, -1).flatten(2).transpose(1, 2)
        seen = level.flatten(2).transpose(1, 2)
        for layer in model.detr_encoder.layers:
            seen = layer(seen, prompt_feats=text, vision_pos_encoding=place, prompt_cross_attn_mask=attended)
        queries, presence = self._decode(seen, place, text, attended)
        scores = model.dot_product_scoring(decoder_hidden_states=queries[None], text_features=text, text_mask=mask)
        return scores[0].squeeze(-1).sigmoid() * presence.sigmoid(), queries, seen

    def _decode(self, seen: Tensor, place: Tensor, text: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (pairs, queries, C) and the phrase's presence logit (pairs, 1)."""
        decoder, n = self._model.detr_decoder, len(seen)
        boxes = decoder.reference_points.weight.float().unsqueeze(0).expand(n, -1, -1).sigmoid()
        first = torch.cat([decoder.presence_token.weight, decoder.query_embed.weight])
        hidden = first.unsqueeze(0).expand(n, -1, -1)
        queries = hidden[:, 1:]
        for index, layer in enumerate(decoder.layers):
            if index:
                moved = decoder.box_head(queries) + inverse_sigmoid(boxes)
                boxes = moved.float().sigmoid()
            sine = decoder.position_encoding.encode_boxes(boxes)
            hidden = layer(
                hidden,
                query_pos=decoder.ref_point_head(sine.to(self._dtype)),
                text_features=text,
                vision_features=seen,
                vision_pos_encoding=place,
                text_cross_attn_mask=attended,
                # The presence token, the first of the queries, attends to all places alike.
                vision_cross_attn_mask=F.pad(self._nearness(boxes), (0, 0, 1, 0)),
            )
            queries = decoder.output_layer_norm(hidden[:, 1:])
        presence = decoder.presence_head(decoder.presence_layer_norm(hidden[:, :1])).squeeze(-1)
        limit = decoder.clamp_presence_logit_max_val
        return queries, presence.clamp(min=-limit, max=limit)

    def _nearness(self, boxes: Tensor) -> Tensor:
        """(pairs, queries, 4) boxes -> (pairs, heads, queries, g*g), each query's attention bias for each cell."""
        decoder = self._model.detr_decoder
        centre, half = boxes[..., :2], 0.5 * boxes[..., 2:]
        low, high = centre - half, centre + half
        x, y = (
            embed(self._offsets(torch.stack([low[..., axis], high[..., axis]], -1)).to(self._dtype))
            for axis, embed in enumerate((decoder.box_rpb_embed_x, decoder.box_rpb_embed_y))
        )
        both = y.unsqueeze(3) + x.unsqueeze(2)  # (pairs, queries, g, g, heads)
        return both.flatten(2, 3).permute(0, 3, 1, 2).contiguous()

    def _offsets(self, edges: Tensor) -> Tensor:
        """(pairs, queries, 2) two edges along an axis -> (pairs, queries, g, 2) each cell's distance from them."""
        away = 8 * (self._steps[:, None] - edges.unsqueeze(2))
        return away.sign() * torch.log2(away.abs() + 1.0) / math.log2(8)


class DetectionMasks:
    """Masks for the queries of a `DetectionTransformer`. The detector's coarse features are its level `coarse`."""

    def __init__(self, detector: Any, coarse: int) -> None:
        self._decoder = detector.mask_decoder
        self._finer = detector.vision_encoder.neck.fpn_layers[:coarse]
        self._paint = Captured("the detector's masks", self._run)

    def __call__(self, backbone: Tensor, queries: Tensor, seen: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """(phrases, queries, h, w) logits of some phrases on one frame, one phrase per row of all but the first.

        Args:
            backbone: (1, C, g, g), the vision backbone's output.
        """
        return self._paint(backbone, queries, seen, text, mask)[0]

    def _run(self, backbone: Tensor, queries: Tensor, seen: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor]:
        decoder = self._decoder
        looked, _ = decoder.prompt_cross_attn(
            query=decoder.prompt_cross_attn_norm(seen),
            key=text,
            value=text,
            attention_mask=mask[:, None, None, :],  # with four dimensions, it is used unchecked, without a wait
        )
        finer = [layer(backbone).expand(len(queries), -1, -1, -1) for layer in self._finer]
        pixels = decoder.pixel_decoder([*finer, as_image(seen + looked)])
        # Instead of projecting all pixels before a product with a few queries, this projects the queries.
        wanted, projection = decoder.mask_embedder(queries), decoder.instance_projection
        each = wanted @ projection.weight[:, :, 0, 0]
        masks = torch.baddbmm((wanted @ projection.bias).unsqueeze(-1), each, pixels.flatten(2))
        return (masks.unflatten(-1, pixels.shape[-2:]),)
