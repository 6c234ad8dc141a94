"""Memory attention over many objects of one frame.

The model's own attention layers, called on a batch of objects instead of one at a time. The first
self-attention layer sees nothing but the frame, so it runs once however many objects there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Sam3TrackerVideoModel
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import get_1d_sine_pe

from sam3ray.engine.memory import Bank, ReadRules, Reads
from sam3ray.engine.vision import FrameFeatures


class MemoryAttention:
    """Fuses a frame's features with what each object remembers."""

    def __init__(self, tracker: Sam3TrackerVideoModel, dtype: torch.dtype) -> None:
        self.tracker = tracker
        self.module = tracker.memory_attention
        # nn.Module types its children as tensors or modules: neither is callable to a type checker.
        self.layers: list[Any] = list(tracker.memory_attention.layers)
        self.dtype = dtype
        device = tracker.no_memory_embedding.device
        g_h, g_w = tracker.prompt_encoder.image_embedding_size
        encoding = tracker.memory_encoder.position_encoding(
            torch.Size((1, tracker.mem_dim, g_h, g_w)), device, dtype
        ).to(dtype)
        # (k, g*g, 64): position in the frame + how long ago; row k is temporal offset k, row 0 a
        # conditioning frame, which takes the last encoding of the model's table.
        spatial = encoding.flatten(2).transpose(1, 2)
        temporal = tracker.memory_temporal_positional_encoding.roll(1, dims=0)[:, 0]
        self.memory_positions = spatial + temporal
        self._rope: tuple[Tensor, Tensor] | None = None

    def without_memory(self, features: FrameFeatures) -> Tensor:
        """(1, C, g, g): what stands in for memory attention on a frame that reads no memory."""
        return self.image(features.top + self.tracker.no_memory_embedding)

    def __call__(
        self, features: FrameFeatures, reads: Sequence[Reads], rules: ReadRules, memories: Bank, pointers: Bank
    ) -> Tensor:
        """(N, C, g, g) for N objects that read as many memories and as many pointers each."""
        module = self.module
        keys, positions, pointer_tokens = self._gather(reads, rules, memories, pointers)
        queries = (features.top + 0.1 * features.position).unsqueeze(1)  # (1, 1, g*g, C)
        if self._rope is None:
            self._rope = module.rotary_emb(queries, module.position_ids)
        rope = self._rope
        for layer in self.layers:
            normed = layer.layer_norm1(queries)
            attended, _ = layer.self_attn(query=normed, key=normed, value=normed, position_embeddings=rope)
            queries = queries + attended
            if len(queries) != len(keys):
                queries = queries.expand(len(keys), -1, -1, -1)
            attended, _ = layer.cross_attn_image(
                query=layer.layer_norm2(queries),
                key=positions,
                value=keys,
                position_embeddings=rope,
                num_k_exclude_rope=pointer_tokens,
            )
            queries = queries + attended
            hidden = layer.activation(layer.linear1(layer.layer_norm3(queries)))
            queries = queries + layer.linear2(hidden)
        return self.image(module.layer_norm(queries).squeeze(1))

    def _gather(
        self, reads: Sequence[Reads], rules: ReadRules, memories: Bank, pointers: Bank
    ) -> tuple[Tensor, Tensor, int]:
        """Values (N, 1, L, 64), the same plus positions, and how many of L are pointer tokens."""
        n, device = len(reads), memories.rows.device
        table = torch.tensor([read.memories for read in reads], device=device)  # (N, S, 2)
        values = memories.gather(table[..., 0]).to(self.dtype).flatten(1, 2)
        encoded = self.memory_positions[table[..., 1]].flatten(1, 2)
        tokens = 0
        if reads[0].pointers:
            table = torch.tensor([read.pointers for read in reads], device=device)  # (N, P, 2)
            gathered = pointers.gather(table[..., 0])
            splits = max(1, gathered.shape[-1] // self.tracker.mem_dim)
            position = self._pointer_positions(table[..., 1], rules).repeat_interleave(splits, dim=1)
            split = gathered.reshape(n, -1, self.tracker.mem_dim).to(self.dtype)
            values, encoded = torch.cat([values, split], dim=1), torch.cat([encoded, position], dim=1)
            tokens = split.shape[1]
        return values.unsqueeze(1), (values + encoded).unsqueeze(1), tokens

    def _pointer_positions(self, offsets: Tensor, rules: ReadRules) -> Tensor:
        """Offsets in frames (N, P) -> (N, P, 64)."""
        if not self.tracker.config.enable_temporal_pos_encoding_for_object_pointers:
            return torch.zeros(*offsets.shape, self.tracker.mem_dim, dtype=self.dtype, device=offsets.device)
        # In a clip of one frame every offset is 0, and so is the divisor.
        scaled = offsets.to(torch.float32) / max(1.0, float(rules.pointer_limit - 1))
        sine = get_1d_sine_pe(scaled, dim=self.tracker.hidden_dim).to(self.dtype)
        return self.tracker.temporal_positional_encoding_projection_layer(sine)

    def image(self, tokens: Tensor) -> Tensor:
        """(N, g*g, C) -> (N, C, g, g)."""
        height, width = self.tracker.prompt_encoder.image_embedding_size
        return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)
