"""Memory attention over many objects of one frame.

Runs the model's own attention layers on a batch of objects instead of one at a time. Before the first attention to
memories all objects see the same frame, so that part runs once. Rotary positions are applied in place; in transformers,
their copies take longer than the attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Sam3TrackerVideoModel
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import get_1d_sine_pe

from sam3ray.engine.memory import Bank, ReadRules, Reads
from sam3ray.engine.transfer import indices
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
            torch.Size((1, tracker.mem_dim, g_h, g_w)), device, torch.float32
        )
        # (k, g*g, 64): position in the frame + how long ago; row k is temporal offset k, row 0 a
        # conditioning frame, which takes the last encoding of the model's table.
        spatial = encoding.flatten(2).transpose(1, 2)
        temporal = tracker.memory_temporal_positional_encoding.roll(1, dims=0)[:, 0]
        self.memory_positions = (spatial + temporal.float()).to(dtype)
        cos, sin = self.module.rotary_emb(torch.empty(0, dtype=torch.float32, device=device), self.module.position_ids)
        # (g*g, 1, D/2), D the size of a head: each pair of channels is turned as one complex number.
        self.turns = torch.complex(cos.float()[..., ::2], sin.float()[..., ::2]).view(g_h * g_w, 1, -1)

    def without_memory(self, features: FrameFeatures) -> Tensor:
        """(1, C, g, g): replaces memory attention on a frame that reads no memory."""
        return self.image(features.top + self.tracker.no_memory_embedding)

    def __call__(
        self, features: FrameFeatures, reads: Sequence[Reads], rules: ReadRules, memories: Bank, pointers: Bank
    ) -> Tensor:
        """(N, C, g, g) for N objects that read as many memories and as many pointers each."""
        module = self.module
        values, keys, cells = self._gather(reads, rules, memories, pointers)
        n = len(values)
        queries = features.top + 0.1 * features.position  # (1, g*g, C): one for all objects until they read memories
        for layer in self.layers:
            normed = layer.layer_norm1(queries)
            queries = add(queries, self._attend(layer.self_attn, normed, normed, normed, normed.shape[1]))
            normed = layer.layer_norm2(queries)
            queries = add(queries, self._attend(layer.cross_attn_image, normed, keys, values, cells))
            hidden = layer.activation(layer.linear1(layer.layer_norm3(queries)))
            queries = add(queries, layer.linear2(hidden))
        assert len(queries) == n
        return self.image(module.layer_norm(queries))

    def _attend(self, attention: Any, queries: Tensor, keys: Tensor, values: Tensor, cells: int) -> Tensor:
        """The arithmetic of `Sam3TrackerVideoRoPEAttention`, with positions turned in place instead of copied.

        Args:
            queries: (1 or N, g*g, C).
            keys, values: (N, L, width).
            cells: how many of L have a place in the frame; the rest are pointers.
        """
        heads, size = attention.num_attention_heads, attention.head_dim
        q = self._turn(attention.q_proj(queries), queries.shape[1], heads, size)
        k = self._turn(attention.k_proj(keys), cells, heads, size)
        v = attention.v_proj(values).view(len(values), -1, heads, size)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if len(q) != len(k):
            q = q.expand(len(k), -1, -1, -1)
        attended = F.scaled_dot_product_attention(q, k, v, scale=attention.scaling)
        return attention.o_proj(attended.transpose(1, 2).flatten(2))

    def _turn(self, tokens: Tensor, cells: int, heads: int, size: int) -> Tensor:
        """(n, L, C) -> (n, L, heads, D), the first `cells` tokens turned by their place in the frame."""
        tokens = tokens.view(len(tokens), -1, heads, size)
        placed = tokens[:, :cells].unflatten(1, (-1, len(self.turns)))
        if placed.dtype == torch.float32:
            torch.view_as_complex(placed.unflatten(-1, (-1, 2))).mul_(self.turns)
        else:
            turn_halves(placed[..., ::2], placed[..., 1::2], self.turns.real, self.turns.imag)
        return tokens

    def _gather(
        self, reads: Sequence[Reads], rules: ReadRules, memories: Bank, pointers: Bank
    ) -> tuple[Tensor, Tensor, int]:
        """Values (N, L, 64), the same with positions added, and how many of L are not pointer tokens."""
        n, device, width = len(reads), memories.device, self.tracker.mem_dim
        slots, places = len(reads[0].memories), len(self.turns)
        splits = max(1, self.tracker.hidden_dim // width)
        cells, tokens = slots * places, len(reads[0].pointers) * splits
        values = torch.empty(n, cells + tokens, width, dtype=self.dtype, device=device)
        keys = torch.empty_like(values)
        rows = indices([[row for row, _ in read.memories] for read in reads], memories.rows.device)
        values[:, :cells].unflatten(1, (slots, places)).copy_(memories.gather(rows))
        # Objects mostly read frames of equal age, so that their positions are the same.
        ages = [[age for _, age in read.memories] for read in reads]
        ages = ages[:1] if all(each == ages[0] for each in ages) else ages
        encoded = self.memory_positions[indices(ages, device)].flatten(1, 2)
        torch.add(values[:, :cells], encoded, out=keys[:, :cells])
        if tokens:
            rows = indices([[row for row, _ in read.pointers] for read in reads], pointers.rows.device)
            values[:, cells:].copy_(pointers.gather(rows).reshape(n, tokens, width))
            offsets = [[offset for _, offset in read.pointers] for read in reads]
            offsets = offsets[:1] if all(each == offsets[0] for each in offsets) else offsets
            position = self.pointer_positions(self.scaled(indices(offsets, device), rules))
            torch.add(values[:, cells:], position.repeat_interleave(splits, dim=1), out=keys[:, cells:])
        return values, keys, cells

    def scaled(self, offsets: Tensor, rules: ReadRules) -> Tensor:
        """Offsets in frames, whole numbers -> float32, as fractions of the farthest that is read."""
        # In a clip of one frame every offset is 0, and so is the divisor.
        return offsets.to(torch.float32) / max(1.0, float(rules.pointer_limit - 1))

    def pointer_positions(self, scaled: Tensor) -> Tensor:
        """Scaled offsets (N, P) -> (N, P, 64)."""
        if not self.tracker.config.enable_temporal_pos_encoding_for_object_pointers:
            return torch.zeros(*scaled.shape, self.tracker.mem_dim, dtype=self.dtype, device=scaled.device)
        sine = get_1d_sine_pe(scaled, dim=self.tracker.hidden_dim).to(self.dtype)
        return self.tracker.temporal_positional_encoding_projection_layer(sine)

    def image(self, tokens: Tensor) -> Tensor:
        """(N, g*g, C) -> (N, C, g, g)."""
        height, width = self.tracker.prompt_encoder.image_embedding_size
        return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


def turn_halves(real: Tensor, imaginary: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Multiplies real + i imaginary by cos + i sin, in place.

    Products are computed in the factors' dtype, float32, and rounded when written, so that a GPU makes no float32
    copies.
    """
    turned = torch.empty_like(real, memory_format=torch.contiguous_format)
    torch.mul(real, cos, out=turned)
    torch.addcmul(turned, imaginary, sin, value=-1, out=turned)
    torch.mul(imaginary, cos, out=imaginary)
    torch.addcmul(imaginary, real, sin, out=imaginary)
    real.copy_(turned)


def add(residual: Tensor, update: Tensor) -> Tensor:
    """residual + update, written into the update's memory if that has the sum's dtype (not under autocast)."""
    return update.add_(residual) if update.dtype == residual.dtype else residual + update
