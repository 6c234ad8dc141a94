"""Memory attention over all objects of a frame in one batch, however much each one remembers.

On a GPU, objects of different ages share one call, padded to the same number of memories and pointers. The frame
attends to each memory separately, so that attention is dense and has a single shape, which suits GPUs best. Then the
results are weighted by the log of each softmax's sum; absent memories have no weight. The shapes are the same on every
frame, so that the call can be captured.

Rotary positions are applied to halves of the channels, which a permutation of the projections' rows puts side by side.
This does not change products of queries and keys, and avoids complex numbers and float32 copies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sam3ray.engine.capture import size_for
from sam3ray.engine.memory import Bank, ReadRules, Reads
from sam3ray.engine.memory_attention import MemoryAttention, add, turn_halves
from sam3ray.engine.transfer import to_device
from sam3ray.faults.causes import first_line

_log = logging.getLogger(__name__)

SLOTS = (1, 2, 4, 7, 8, 9, 10)  # memories of an object are padded to one of these; more only where a rule reads more
POINTERS = 4  # their number is padded to a multiple of this
WIDER = 8  # channels beside a memory's own, of which the first is 1: so many keep rows aligned for the hardware
FEWEST_COMPILED = 3  # memories: fewer are read on an object's first two frames only, and one is compiled by itself
NOTHING = -1e30  # the logarithm of what is not there

Dense = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


def possible(device: torch.device, dtype: torch.dtype, width: int) -> Dense | None:
    """An attention kernel that also returns the log of its softmax's sum, for heads of this width. Half precision on a
    GPU.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    return _found(device, dtype, width)


def with_cudnn(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(n, heads, L, D) each -> attention (n, heads, L, D), and the log of its softmax's sum (n, heads, L)."""
    out = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, False, False, scale=scale)
    return out[0], out[1].reshape(q.shape[:3])


def with_flash(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """As `with_cudnn`, which is up to three times faster on a Hopper GPU."""
    out = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False, scale=scale)
    return out[0], out[1].reshape(q.shape[:3])


@lru_cache(maxsize=8)
def _found(device: torch.device, dtype: torch.dtype, width: int) -> Dense | None:
    """The first kernel with correct results here, since versions do not tell what a GPU and torch can do."""
    numbers = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(256, 2, 1, width, device=device, dtype=dtype, generator=numbers) for _ in range(3))
    # In the memory layout of later calls: keys place by place, the others sequence by sequence.
    k = k.permute(1, 2, 0, 3)
    q, v = (each.transpose(0, 1).contiguous().transpose(1, 2) for each in (q, v))
    scores = (q.float() @ k.float().transpose(-1, -2)) * width**-0.5
    expected = scores.softmax(-1) @ v.float(), scores.logsumexp(-1)
    for dense in (with_cudnn, with_flash):
        try:
            got = dense(q, k, v, width**-0.5)
        except (RuntimeError, TypeError) as error:
            _log.info("%s is not available on %s: %s", dense.__name__, device, first_line(error))
            continue
        if all(torch.allclose(a.float(), b, atol=0.03) for a, b in zip(got, expected, strict=True)):
            return dense
    _log.warning(
        "Objects of different ages are not batched together on %s: no attention kernel there returns its log-sum-exp",
        device,
    )
    return None


class Packed(NamedTuple):
    """Memories and pointers that N objects read, N being one of the sizes that `count` objects are padded to.

    Attributes:
        ages: (count, S) int64, temporal encoding of each memory.
        offsets: (count, P) float32, how far back each pointer is, as a fraction of the farthest.
        known: (count, S) bool, which memories exist.
        pointed: (count, P) bool, which pointers exist.
        cells: (N, S, g*g, 64) memories; an object's own come first in its row.
        tokens: (N, P, C) pointers; an object's own come first in its row.
    """

    ages: Tensor
    offsets: Tensor
    known: Tensor
    pointed: Tensor
    cells: Tensor
    tokens: Tensor


class Room:
    """Buffers that are refilled for each batch, so that captured work finds its input in the same place."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[Any, ...], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A buffer of this shape with arbitrary content. Smaller shapes share the memory of larger ones."""
        count = torch.Size(shape).numel()
        buffer = self._buffers.get((name, dtype, device))
        if buffer is None or len(buffer) < count:
            buffer = torch.zeros(count, dtype=dtype, device=device)
            self._buffers[name, dtype, device] = buffer
        return buffer[:count].view(shape)


class PackedAttention:
    """Fuses a frame's features with what each object remembers, in bfloat16 on a GPU."""

    def __init__(self, attention: MemoryAttention, dense: Dense, weigh: Callable[..., Tensor] | None) -> None:
        """`weigh`: what `summed` was compiled to, if it was."""
        self._plain = attention
        self._dense = dense
        self._weigh = weigh
        self._room = Room()
        turns = attention.turns
        self._cos, self._sin = turns.real.contiguous(), turns.imag.contiguous()  # (g*g, 1, D/2)
        # Of each layer's keys of memories: a projection per place, which has turned them already.
        self._placed = [self._placed_keys(layer.cross_attn_image) for layer in attention.layers]
        self._projections = [
            {
                name: (_halved(layer_part, "q_proj"), _halved(layer_part, "k_proj"))
                for name, layer_part in (("self", layer.self_attn), ("cross", layer.cross_attn_image))
            }
            for layer in attention.layers
        ]

    def pack(self, reads: Sequence[Reads], rules: ReadRules, memories: Bank, pointers: Bank) -> Packed:
        """Gathers the memories and pointers that the objects read."""
        device = memories.device
        count = len(reads)
        size = size_for(count)
        most = max(len(read.memories) for read in reads)
        slots = next((s for s in SLOTS if s >= most), most)
        room = -(-max(1, *(len(read.pointers) for read in reads)) // POINTERS) * POINTERS
        numbers = []
        for read in reads:
            memory_rows, ages = zip(*read.memories, strict=True)
            pointer_rows, offsets = zip(*read.pointers, strict=True) if read.pointers else ((), ())
            known = [1] * len(ages)
            pointed = [1] * len(offsets)
            per_slot = [(*each, *[0] * (slots - len(each))) for each in (memory_rows, ages, known)]
            per_pointer = [(*each, *[0] * (room - len(each))) for each in (pointer_rows, offsets, pointed)]
            numbers.append([number for each in (*per_slot, *per_pointer) for number in each])
        # One copy for everything.
        host = torch.tensor(numbers, dtype=torch.int64)
        told = to_device(host, device)
        rows, ages_told, there, own, behind, pointed_told = told.split([slots] * 3 + [room] * 3, dim=1)
        width = self._plain.tracker.mem_dim
        grid = len(self._plain.turns)
        cells = self._room.take("cells", (size, slots, grid, width), self._plain.dtype, device)
        tokens = self._room.take("tokens", (size, room, self._plain.tracker.hidden_dim), self._plain.dtype, device)
        memories.gather_into(rows if memories.rows.device == device else host[:, :slots], cells[:count])
        pointers.gather_into(own, tokens[:count])
        scaled = self._plain.scaled(behind, rules)
        return Packed(ages_told, scaled, there.bool(), pointed_told.bool(), cells, tokens)

    @property
    def _splits(self) -> int:
        return max(1, self._plain.tracker.hidden_dim // self._plain.tracker.mem_dim)

    def __call__(self, top: Tensor, position: Tensor, packed: Packed) -> Tensor:
        """(N, C, g, g) for N objects, including padding. May be captured."""
        plain = self._plain
        n, width = len(packed.cells), packed.cells.shape[-1]
        keys = F.pad(packed.cells + plain.memory_positions[packed.ages], (0, WIDER))
        keys[..., width] = 1.0  # the factor of a bias
        memories = keys, packed.cells
        tokens = packed.tokens.reshape(n, -1, width)
        behind = plain.pointer_positions(packed.offsets).repeat_interleave(self._splits, dim=1)
        pointers = tokens + behind, tokens
        pointed = packed.pointed.repeat_interleave(self._splits, dim=1)

        queries = top + 0.1 * position  # (1, g*g, C): one for all objects until they read memories
        for layer, projections, placed in zip(plain.layers, self._projections, self._placed, strict=True):
            normed = layer.layer_norm1(queries)
            queries = add(queries, self._look_at_itself(layer.self_attn, projections["self"], normed))
            normed = layer.layer_norm2(queries)
            update = self._look_back(
                layer.cross_attn_image, projections["cross"], placed, normed, memories, packed.known, pointers, pointed
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
        placed: Tensor,
        normed: Tensor,
        memories: tuple[Tensor, Tensor],
        known: Tensor,
        pointers: tuple[Tensor, Tensor],
        pointed: Tensor,
    ) -> Tensor:
        """Memories (n, S, g*g, 64 + WIDER or 64) and pointers (n, P, 64) are each keys and values."""
        heads, size = attention.num_attention_heads, attention.head_dim
        (q_weight, q_bias), (k_weight, k_bias) = projections
        n, slots, places = memories[0].shape[:3]

        def split(tokens: Tensor) -> Tensor:
            return tokens.unflatten(-1, (heads, size))

        q = self._turn(split(F.linear(normed, q_weight, q_bias))).expand(n, -1, -1, -1)
        k = split(torch.bmm(memories[0].flatten(0, 1).transpose(0, 1), placed).transpose(0, 1))
        v = split(attention.v_proj(memories[1]).flatten(0, 1))
        asks = q.unsqueeze(1).expand(-1, slots, -1, -1, -1).reshape(n * slots, places, heads, size)
        asks, k, v = (each.transpose(1, 2) for each in (asks, k, v))
        each, sums = self._dense(asks, k, v, attention.scaling)
        each, sums = each.unflatten(0, (n, slots)), sums.float().unflatten(0, (n, slots))

        q = q.transpose(1, 2)  # (n, heads, g*g, D)
        k = split(F.linear(pointers[0], k_weight, k_bias)).permute(0, 2, 3, 1)
        v = split(attention.v_proj(pointers[1])).transpose(1, 2)
        scores = (q @ k).float() * attention.scaling
        scores = scores.masked_fill(~pointed[:, None, None, :], NOTHING)
        own = scores.softmax(-1).to(v.dtype) @ v

        sums = sums.masked_fill(~known[:, :, None, None], NOTHING)
        weigh = self._weigh if self._weigh is not None and slots >= FEWEST_COMPILED else weighed
        return attention.o_proj(weigh(each, sums, own, scores.logsumexp(-1)))

    def _placed_keys(self, attention: Any) -> Tensor:
        """(g*g, 64 + WIDER, C): projections that turn a memory into a rotated key at each place. The last rows are the
        bias and zeros.

        Rotating every key on each frame took 73 of 325 ms with 64 objects on an H200.
        """
        heads, size = attention.num_attention_heads, attention.head_dim
        weight, bias = (each.float() for each in _halved(attention, "k_proj"))
        both = torch.cat([weight, bias[:, None], bias.new_zeros(len(bias), WIDER - 1)], 1).view(heads, size, -1)
        real, imaginary = both[:, : size // 2], both[:, size // 2 :]
        cos, sin = self._cos[..., None], self._sin[..., None]  # (g*g, 1, D/2, 1)
        turned = torch.cat([cos * real - sin * imaginary, cos * imaginary + sin * real], 2)
        return turned.flatten(1, 2).transpose(1, 2).to(self._plain.dtype).contiguous()

    def _turn(self, tokens: Tensor) -> Tensor:
        """(..., g*g, heads, D), each rotated by its place in the frame, in place."""
        half = tokens.shape[-1] // 2
        turn_halves(tokens[..., :half], tokens[..., half:], self._cos, self._sin)
        return tokens


def weighed(each: Tensor, sums: Tensor, own: Tensor, own_sums: Tensor) -> Tensor:
    """(n, L, heads * D): combines the results for each memory (n, S, heads, L, D) and for the pointers (n, heads, L,
    D).

    Their weights are the logs of their softmax's sums, (n, S, heads, L) and (n, heads, L) float32.
    """
    slots = each.shape[1]
    weights = torch.cat([sums, own_sums.unsqueeze(1)], 1).softmax(1).unsqueeze(-1)
    out = own * weights[:, slots]
    for slot in range(slots):
        out.addcmul_(each[:, slot], weights[:, slot])
    return out.to(own.dtype).transpose(1, 2).flatten(2)


def summed(each: Tensor, sums: Tensor, own: Tensor, own_sums: Tensor) -> Tensor:
    """`weighed` for torch.compile, whatever the number of memories: a loop over them is compiled for each number.

    Uncompiled it would hold every product, in float32.
    """
    weights = torch.cat([sums, own_sums.unsqueeze(1)], 1).softmax(1).unsqueeze(-1)
    out = own * weights[:, -1] + (each * weights[:, :-1]).sum(1)
    return out.to(own.dtype).transpose(1, 2).flatten(2)


def _halved(attention: Any, name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a projection with the outputs reordered: per head, first the even channels, then the odd
    ones.
    """
    projection = getattr(attention, name)
    heads, size = attention.num_attention_heads, attention.head_dim
    order = torch.arange(heads * size, device=projection.weight.device).view(heads, size // 2, 2)
    order = order.transpose(1, 2).flatten()
    return projection.weight[order], projection.bias[order]
