"""Memory attention over all objects of a frame in one batch, however much each of them remembers.

On a GPU objects of different ages share one call: each has room for as many memories and pointers as there may be,
and attention (FlashAttention over sequences of unequal length) reads of each only what is there. Memories are put at
the end of their room and pointers at the beginning of theirs, so that what is there is in one piece. The shapes are
then the same on every frame, which makes the call one that can be captured; nothing is spent on attention to padding.

Rotary positions are applied to halves of the channels, which a permutation of the projections' rows puts side by side
(a product of queries and keys does not notice): no complex numbers, no copies in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam3ray.engine.capture import size_for
from sam3ray.engine.memory import Bank, ReadRules, Reads
from sam3ray.engine.memory_attention import MemoryAttention, add, turn_halves
from sam3ray.engine.transfer import to_device

_log = logging.getLogger(__name__)

SLOTS = (1, 2, 4, 7, 8, 10)  # memories of an object are padded to one of these; more only where a rule reads more
POINTERS = 4  # their number is padded to a multiple of this


def possible(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether attention over unequal lengths is there for heads of this width: half precision, on a recent GPU."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return _works(device, dtype, width)


@lru_cache(maxsize=8)
def _works(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Tried once, against attention to each sequence alone: what a GPU and a torch can do, no version tells."""
    numbers = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(2 * 128, 1, width, device=device, dtype=dtype, generator=numbers) for _ in range(3))
    ends = torch.tensor([28, 128, 256], dtype=torch.int32, device=device)  # the first has a gap before it
    used = torch.tensor([100, 60], dtype=torch.int32, device=device)
    try:
        together = attend(q, k, v, 128, 128, ends, used, width**-0.5)
    except (RuntimeError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        _log.warning("Objects of unequal age do not share a batch on %s: %s", device, reason)
        return False
    for i, (begin, count) in enumerate(((28, 100), (128, 60))):
        rows = slice(128 * i, 128 * (i + 1))
        asks, keys, values = (t.transpose(0, 1) for t in (q[rows], k[begin : begin + count], v[begin : begin + count]))
        alone = F.scaled_dot_product_attention(asks, keys, values).transpose(0, 1)
        if not torch.allclose(together[rows], alone, atol=0.02):
            _log.warning("Objects of unequal age do not share a batch on %s: other numbers come out", device)
            return False
    return True


@dataclass(frozen=True, eq=False)
class Packed:
    """What N objects read of their pasts, N one of the sizes that objects are padded to.

    Attributes:
        cells: (N, S, g*g, 64) memories, those of an object last in its row.
        tokens: (N, P, C) pointers, those of an object first in its row.
        ages: (count, S) int64, temporal encoding of each memory.
        offsets: (count, P) float32, how far each pointer lies behind, as a fraction of the farthest.
        starts, used: (count,) int32: where in a row of S*g*g + P*C/64 tokens an object's begin, and how many there are.
    """

    cells: Tensor
    tokens: Tensor
    ages: Tensor
    offsets: Tensor
    starts: Tensor
    used: Tensor


class Room:
    """Buffers that are filled anew for each batch, so that captured work finds its input where it was."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[Any, ...], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """(shape), holding anything. Smaller shapes share the memory of larger ones."""
        count = torch.Size(shape).numel()
        buffer = self._buffers.get((name, dtype, device))
        if buffer is None or len(buffer) < count:
            buffer = torch.zeros(count, dtype=dtype, device=device)
            self._buffers[name, dtype, device] = buffer
        return buffer[:count].view(shape)


class PackedAttention:
    """Fuses a frame's features with what each object remembers, in bfloat16 on a GPU."""

    def __init__(self, attention: MemoryAttention) -> None:
        self._plain = attention
        self._room = Room()
        turns = attention.turns
        self._cos, self._sin = turns.real.contiguous(), turns.imag.contiguous()  # (g*g, 1, D/2)
        self._projections = [
            {
                name: (_halved(layer_part, "q_proj"), _halved(layer_part, "k_proj"))
                for name, layer_part in (("self", layer.self_attn), ("cross", layer.cross_attn_image))
            }
            for layer in attention.layers
        ]

    def pack(self, reads: Sequence[Reads], rules: ReadRules, memories: Bank, pointers: Bank) -> Packed:
        """Gathers what the objects read."""
        device = memories.device
        count = len(reads)
        size = size_for(count)
        most = max(len(read.memories) for read in reads)
        slots = next((s for s in SLOTS if s >= most), most)
        room = -(-max(1, *(len(read.pointers) for read in reads)) // POINTERS) * POINTERS
        cells_each = len(self._plain.turns)
        splits = self._splits
        numbers = []
        for read in reads:
            gap, rest = slots - len(read.memories), room - len(read.pointers)
            rows = [0] * gap + [row for row, _ in read.memories]
            ages = [0] * gap + [age for _, age in read.memories]
            own = [row for row, _ in read.pointers] + [0] * rest
            offsets = [offset for _, offset in read.pointers] + [0] * rest
            used = len(read.memories) * cells_each + len(read.pointers) * splits
            numbers.append([*rows, *ages, *own, *offsets, gap * cells_each, used])
        # One copy for all of it.
        host = torch.tensor(numbers, dtype=torch.int64)
        told = to_device(host, device)
        rows, ages, own, offsets, span = told.split([slots, slots, room, room, 2], dim=1)
        width = self._plain.tracker.mem_dim
        cells = self._room.take("cells", (size, slots, cells_each, width), self._plain.dtype, device)
        tokens = self._room.take("tokens", (size, room, self._plain.tracker.hidden_dim), self._plain.dtype, device)
        memories.gather_into(rows if memories.rows.device == device else host[:, :slots], cells[:count])
        pointers.gather_into(own, tokens[:count])
        starts, used = span.to(torch.int32).t().contiguous().unbind(0)  # FlashAttention takes no strides here
        return Packed(cells, tokens, ages, self._plain.scaled(offsets, rules), starts, used)

    @property
    def _splits(self) -> int:
        return max(1, self._plain.tracker.hidden_dim // self._plain.tracker.mem_dim)

    def __call__(self, top: Tensor, position: Tensor, packed: Packed) -> Tensor:
        """(N, C, g, g) for N objects, the padding ones included. May be captured."""
        plain = self._plain
        n, slots, places, width = packed.cells.shape
        room = slots * places + packed.tokens.shape[1] * self._splits
        cells = packed.cells.flatten(1, 2)
        tokens = packed.tokens.reshape(n, -1, width)
        values = torch.cat([cells, tokens], 1)
        keys = values.clone()
        keys[:, : cells.shape[1]].unflatten(1, (slots, places)).add_(plain.memory_positions[packed.ages])
        behind = plain.pointer_positions(packed.offsets).repeat_interleave(self._splits, dim=1)
        keys[:, cells.shape[1] :].add_(behind)
        begin = torch.arange(n, device=top.device, dtype=torch.int32) * room + packed.starts
        ends = torch.cat([begin, begin.new_full((1,), n * room)])

        queries = top + 0.1 * position  # (1, g*g, C): one for all until they meet their memories
        for layer, projections in zip(plain.layers, self._projections, strict=True):
            normed = layer.layer_norm1(queries)
            queries = add(queries, self._look_at_itself(layer.self_attn, projections["self"], normed))
            normed = layer.layer_norm2(queries)
            update = self._look_back(
                layer.cross_attn_image, projections["cross"], normed, keys, values, slots, ends, packed.used
            )
            queries = add(queries, update)
            hidden = layer.activation(layer.linear1(layer.layer_norm3(queries)))
            queries = add(queries, layer.linear2(hidden))
        return plain.image(plain.module.layer_norm(queries))

    def _look_at_itself(self, attention: Any, projections: Any, normed: Tensor) -> Tensor:
        heads, size = attention.num_attention_heads, attention.head_dim
        (q_weight, q_bias), (k_weight, k_bias) = projections
        q = self._turn(F.linear(normed, q_weight, q_bias).unflatten(-1, (heads, size)))
        k = self._turn(F.linear(normed, k_weight, k_bias).unflatten(-1, (heads, size)))
        v = attention.v_proj(normed).unflatten(-1, (heads, size))
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, scale=attention.scaling)
        return attention.o_proj(attended.transpose(1, 2).flatten(2))

    def _look_back(
        self,
        attention: Any,
        projections: Any,
        normed: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: int,
        ends: Tensor,
        used: Tensor,
    ) -> Tensor:
        heads, size = attention.num_attention_heads, attention.head_dim
        (q_weight, q_bias), (k_weight, k_bias) = projections
        n, places = len(keys), normed.shape[1]
        q = self._turn(F.linear(normed, q_weight, q_bias).unflatten(-1, (heads, size)))
        k = F.linear(keys, k_weight, k_bias).unflatten(-1, (heads, size))
        self._turn(k[:, : slots * places].unflatten(1, (slots, places)))
        v = attention.v_proj(values).unflatten(-1, (heads, size))
        q = q.expand(n, -1, -1, -1).reshape(n * places, heads, size)
        attended = attend(q, k.flatten(0, 1), v.flatten(0, 1), places, k.shape[1], ends, used, attention.scaling)
        return attention.o_proj(attended.view(n, places, heads * size))

    def _turn(self, tokens: Tensor) -> Tensor:
        """(..., g*g, heads, D), each turned by its place in the frame, in place."""
        half = tokens.shape[-1] // 2
        turn_halves(tokens[..., :half], tokens[..., half:], self._cos, self._sin)
        return tokens


def attend(
    q: Tensor, k: Tensor, v: Tensor, most_q: int, most_k: int, ends: Tensor, used: Tensor, scale: float
) -> Tensor:
    """Attention of n sequences: queries (n*most_q, heads, D) to keys and values (n*most_k, heads, D).

    Args:
        ends: (n+1,) int32: keys of sequence i begin at ends[i].
        used: (n,) int32: and are so many.
    """
    asks = torch.arange(len(used) + 1, device=q.device, dtype=torch.int32) * most_q
    # What `torch.nn.attention.varlen` calls, which takes `seqused_k` only in later releases of torch.
    out: Tensor = torch.ops.aten._flash_attention_forward(
        q, k, v, asks, ends, most_q, most_k, 0.0, False, False, scale=scale, seqused_k=used
    )[0]
    return out


def _halved(attention: Any, name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a projection whose output has, per head, the even channels first and then the odd ones."""
    projection = getattr(attention, name)
    heads, size = attention.num_attention_heads, attention.head_dim
    order = torch.arange(heads * size, device=projection.weight.device).view(heads, size // 2, 2)
    order = order.transpose(1, 2).flatten()
    return projection.weight[order], projection.bias[order]
